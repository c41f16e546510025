"""Word-level distillation: ``L = alpha * T^2 * D(p_teacher(T), p_student(T)) + beta * CE``."""

from dataclasses import dataclass
from typing import Any, ClassVar, Dict, List, Optional, Tuple

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor, nn

from fairseq_kd.criterions.base import (
    BITS,
    PERCENT,
    KDCriterion,
    Metric,
    chunk_tokens_flag,
    compile_flag,
    follow,
)
from fairseq_kd.criterions.flag_checks import (
    check_one_teacher_source,
    check_undistilled,
    check_values,
    check_weights,
    distils,
    refuse_a_missing_tpu,
)
from fairseq_kd.criterions.schedules import (
    DEFAULT_FINAL_TEMPERATURE,
    SHAPES,
    Schedules,
    check_store_temperatures,
    check_token_temperature,
    temperature_schedule,
    weight_schedule,
)
from fairseq_kd.criterions.shared_encoder import SharedEncoder, check_shared_encoder
from fairseq_kd.criterions.training_state import TemperatureWarning
from fairseq_kd.flag_types import COUNT, TEMPERATURE, WEIGHT, number_field, option_field
from fairseq_kd.losses import (
    DIVERGENCES,
    LossOptions,
    LossTerms,
    Mixture,
    SoftTargets,
    chunked_loss,
)
from fairseq_kd.models.projection import (
    DecoderOutput,
    decoder_output,
    refuse_adaptive_softmax,
    refuse_unseen_projection,
)
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.teachers.live_teacher import DTYPES
from fairseq_kd.teachers.sources import teacher_sources
from fairseq_kd.teachers.stored_teacher import StoredTeacher
from fairseq_kd.term_weights import ALPHA, BETA

TEACHER_FLAGS = [
    *("kd_teacher", "kd_teacher_dtype", "kd_teacher_source_lang", "kd_teacher_target_lang"),
]


@dataclass
class WordKDConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """The flags of ``word_kd``, beside those of fairseq's ``label_smoothed_cross_entropy``."""

    kd_teacher: Optional[str] = option_field(
        None,
        "checkpoint of the teacher: any autoregressive encoder-decoder of fairseq with the "
        "student's language pair and dictionaries; several, A.pt:B.pt, are mixed by the mean of "
        "their distributions (default: none, with --kd-store or --kd-alpha 0)",
    )
    kd_teacher_source_lang: Optional[str] = option_field(
        None,
        "the teacher's name for the student's source language, of a multilingual teacher or one "
        "whose name differs, such as es_XX (default: --source-lang)",
    )
    kd_teacher_target_lang: Optional[str] = option_field(
        None,
        "the teacher's name for the student's target language (default: --target-lang)",
    )
    kd_store: Optional[str] = option_field(
        None,
        "folder that fairseq-kd store wrote, instead of --kd-teacher: the teacher's "
        "top-k distributions are read from there and it need not run; for temperatures of 0.5 "
        "and more; several as A:B (default: none)",
    )
    kd_alpha: float = number_field(
        ALPHA,
        WEIGHT,
        "weight of the distillation loss; 0.7 to 0.9 is usual (default: %(default)s)",
    )
    kd_beta: float = number_field(
        BETA,
        WEIGHT,
        "weight of the label-smoothed cross-entropy with the reference; 0.1 to "
        "0.3 is usual, mostly with alpha + beta = 1 (default: %(default)s)",
    )
    kd_gate: str = option_field(
        "off",
        "probability: weigh the distillation of each token by 2 (1 - g) and its "
        "cross-entropy by 2 g, g the teacher's probability of the target token; meant for "
        "targets that the teacher wrote itself (default: %(default)s)",
        ("off", "probability"),
    )
    kd_divergence: str = option_field(
        "forward_kl",
        "distance between the teacher's and the student's distributions: forward_kl, "
        "reverse_kl, jeffreys, js, tvd (arXiv:2307.15190), skew_kl, skew_reverse_kl "
        "(arXiv:2402.03898) or todi (arXiv:2505.16297; default: %(default)s)",
        DIVERGENCES,
    )
    kd_temperature: float = number_field(
        4.0,
        TEMPERATURE,
        "softmax temperature T of both models in the distillation loss; 1 is recommended for "
        "translation: values of 3 to 6, usual in image classification, gain less; with a schedule, "
        "T at the first update (default: %(default)s; arXiv:1503.02531)",
    )
    kd_temperature_schedule: str = option_field(
        "constant",
        "how T goes from --kd-temperature to --kd-temperature-final: constant, "
        "exponential, linear or cosine over the updates, or loss: as fast as the student comes "
        "to agree with the teacher (default: %(default)s)",
        SHAPES,
    )
    kd_temperature_final: Optional[float] = number_field(
        None,
        TEMPERATURE,
        "T at the end of the schedule; 2 to 3 is usual; not with constant "
        f"(default: {DEFAULT_FINAL_TEMPERATURE})",
    )
    kd_temperature_updates: Optional[int] = number_field(
        None,
        COUNT,
        "number of updates from the first T to the final one; not with constant and "
        "loss (default: --max-update)",
    )
    kd_token_temperature: str = option_field(
        "uniform",
        "uniform: T for every token; confidence: 1 + c * (T - 1), c the teacher's "
        "probability of its likeliest token, so that a soft distribution is not softened more "
        "(default: %(default)s)",
        ("uniform", "confidence"),
    )
    kd_weight_schedule: str = option_field(
        "constant",
        "how --kd-alpha and --kd-beta go to --kd-alpha-final and --kd-beta-final; the "
        "same choices as for the temperature (default: %(default)s)",
        SHAPES,
    )
    kd_alpha_final: Optional[float] = number_field(
        None,
        WEIGHT,
        "alpha at the end of --kd-weight-schedule; not with constant (default: --kd-alpha)",
    )
    kd_beta_final: Optional[float] = number_field(
        None,
        WEIGHT,
        "beta at the end of --kd-weight-schedule; not with constant (default: --kd-beta)",
    )
    kd_weight_updates: Optional[int] = number_field(
        None,
        COUNT,
        "number of updates from the first weights to the final ones; not with constant "
        "or loss (default: --max-update)",
    )
    kd_teacher_dtype: str = option_field(
        "student",
        "precision of the running teacher: student (the student's own), float32, "
        "bfloat16 (half its memory; faster where the processor multiplies it) or float16 "
        "(default: %(default)s)",
        DTYPES,
    )
    kd_share_encoder: bool = option_field(
        False,
        "the student starts from the teacher's encoder (--finetune-from-model) and keeps it: it is "
        "frozen and runs once for both models (default: off)",
    )
    kd_chunk_tokens: Optional[int] = chunk_tokens_flag()
    kd_compile: bool = compile_flag()
    max_update: int = II("optimization.max_update")
    train_subset: str = II("dataset.train_subset")
    valid_subset: str = II("dataset.valid_subset")
    disable_validation: bool = II("dataset.disable_validation")
    distributed_world_size: int = II("distributed_training.distributed_world_size")
    ddp_backend: str = II("distributed_training.ddp_backend")
    fp16: bool = II("common.fp16")
    fp16_no_flatten_grads: bool = II("common.fp16_no_flatten_grads")
    memory_efficient_fp16: bool = II("common.memory_efficient_fp16")
    tpu: bool = II("common.tpu")


@register_criterion("word_kd", dataclass=WordKDConfig)
class WordKDCriterion(KDCriterion):
    """fairseq's label-smoothed cross-entropy with a distillation term from one or more teachers.

    With alpha 0 and beta 1 it is ``label_smoothed_cross_entropy`` itself. Validation distils too,
    so that its curves compare with training's. Terms are sums over real tokens, which fairseq
    divides by the sample size.

    Log: ``loss``, ``nll_loss`` and ``ppl`` as fairseq's, the last two the student's own at T = 1;
    ``kd_loss``, bits per token, T^2 included; ``temperature``; ``agreement``, percent of tokens
    whose likeliest token is that of the teacher, or of several teachers' mean; ``teacher_entropy``,
    bits per token, of p_teacher(T); ``alpha`` and ``beta`` if they are scheduled; ``teacher_gap``
    if a schedule follows it; the mean of g as ``gate`` with ``--kd-gate``.

    Args:
        cfg: the flags; every value is checked here, before the first update.
        task: the student's translation task.

    Raises:
        FileNotFoundError: the teacher, its dictionaries or its store are missing.
        ValueError: a flag is out of range or without effect, or the teacher cannot teach this
            student; the message names the flag and the remedy.

    Source: Kim and Rush 2016, arXiv:1606.07947, section 3.1; T^2: Hinton et al. 2015,
    arXiv:1503.02531, section 2.
    """

    METRICS: ClassVar[Dict[str, Metric]] = {
        "kd_loss": Metric("kd_loss", BITS),
        "kd_temperature": Metric("temperature"),
        "kd_agreed": Metric("agreement", PERCENT),
        "kd_teacher_entropy": Metric("teacher_entropy", BITS),
        "kd_alpha": Metric("alpha"),
        "kd_beta": Metric("beta"),
        "kd_gate": Metric("gate"),
    }

    def __init__(self, cfg: WordKDConfig, task: FairseqTask):
        super().__init__(cfg, task)
        self.distils = distils(cfg)
        if self.distils or any(self.other_weights(cfg).values()):
            self.teachers = teacher_sources(cfg, self.teacher_task(task))
            stores = [each for each in self.teachers if isinstance(each, StoredTeacher)]
            self.prepare_batches(task, stores, self.teacher_sample)
        if self.distils:
            limits = [each.store.lowest_temperature for each in stores]
            check_store_temperatures(cfg, self.teacher_factors(cfg), limits)
            self.schedules = Schedules(cfg, task, self)
            self.warn = TemperatureWarning()
            shares = cfg.kd_share_encoder
            self.shared_encoder = SharedEncoder(cfg, self.teachers) if shares else None

    @classmethod
    def check_flags(cls, cfg: WordKDConfig) -> None:
        """Refuses flags that are wrong for every model, before any model is read."""
        others = cls.other_weights(cfg)
        needs_teacher = distils(cfg) or any(others.values())
        check_values(cfg)
        refuse_a_missing_tpu(cfg)
        check_weights(cfg, others)
        if not distils(cfg):
            used = TEACHER_FLAGS if needs_teacher else []
            check_undistilled(cfg, cls.alpha_flags, used)
        if needs_teacher:
            cls.check_teacher_sources(cfg, others)
        if distils(cfg):
            temperature_schedule(cfg)
            check_token_temperature(cfg)
            check_store_temperatures(cfg, cls.teacher_factors(cfg))
            for name in ("kd_alpha", "kd_beta"):
                weight_schedule(cfg, name)
            if cfg.kd_share_encoder:
                check_shared_encoder(cfg)

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """The loss of a batch, its sample size and what to log, as sums that fairseq divides."""
        follow(self, model)
        if not self.distils:
            loss, sample_size, log = super().forward(model, sample, reduce)
            log["loss"] = self.cfg.kd_beta * log["loss"]
            return self.cfg.kd_beta * loss, sample_size, log
        refuse_adaptive_softmax(model)
        refuse_unseen_projection(model)
        real = self.real_tokens(sample)
        student, targets = self._outputs(model, sample, real)
        options = self.loss_options()
        terms = chunked_loss(*student, real.of(sample["target"]), targets, options)
        vocab_size = student.output.size(-1) if student.weight is None else len(student.weight)
        self.warn(terms, len(student.output), vocab_size)
        log = self.batch_log(sample, terms.loss, real.mask.sum(), terms.correct)
        log |= self.distillation_log(terms, options, log["kd_ntokens"])
        return self.total(terms), log["sample_size"], log

    def _outputs(
        self, model: nn.Module, sample: Dict[str, Any], real: RealTokens
    ) -> Tuple[DecoderOutput, List[SoftTargets]]:
        """The student's decoder output and the teachers' soft targets at the real tokens."""
        teacher_sample = self.teacher_sample(sample)
        for teacher in self.teachers:
            teacher.move_to(model)
        if self.shared_encoder:
            with self.shared_encoder.encoding(model) as captured:
                student = decoder_output(model, sample["net_input"], real)
            return student, [self.teachers[0].soft_targets(teacher_sample, real, captured.encoder)]
        student = decoder_output(model, sample["net_input"], real)
        return student, [each.soft_targets(teacher_sample, real) for each in self.teachers]

    def loss_options(self) -> LossOptions:
        """The options of the loss in the current update."""
        return LossOptions(
            **self.schedules.now(),
            smoothing=self.eps,
            divergence=self.cfg.kd_divergence,
            by_confidence=self.cfg.kd_token_temperature == "confidence",
            chunk_tokens=self.cfg.kd_chunk_tokens,
            compiled=self.cfg.kd_compile,
            gated=self.cfg.kd_gate == "probability",
            mixture=self.mixture(),
        )

    # For subclasses to override: flags and teachers.

    alpha_flags: ClassVar[type] = WordKDConfig  # the flags that have no effect while alpha is 0

    @classmethod
    def other_weights(cls, cfg: WordKDConfig) -> Dict[str, float]:
        """The weights of further terms that need the teacher, by flag."""
        return {}

    @staticmethod
    def check_teacher_sources(cfg: WordKDConfig, others: Dict[str, float]) -> None:
        """Refuses sources of soft targets that this criterion cannot use together."""
        check_one_teacher_source(cfg, others)

    @staticmethod
    def teacher_factors(cfg: WordKDConfig) -> Optional[List[float]]:
        """The factor of T of each teacher; None if they have no T of their own."""
        return None

    def teacher_task(self, task: FairseqTask) -> Any:
        """The languages, dictionaries and data that a teacher must share."""
        return task

    def teacher_sample(self, sample: Dict[str, Any]) -> Dict[str, Any]:
        """The batch as the teachers read it."""
        return sample

    # For subclasses to override: the mixture of distributions, the loss and the log.

    def mixture(self) -> Mixture:
        """How the distributions of several teachers are mixed."""
        return Mixture()

    def total(self, terms: LossTerms) -> Tensor:
        """The loss that is trained on."""
        return terms.loss

    def distillation_log(
        self, terms: LossTerms, options: LossOptions, n_real: Tensor
    ) -> Dict[str, Any]:
        """The sums over real tokens that are logged; see ``METRICS``."""
        log = {
            "nll_loss": terms.nll,
            "kd_loss": terms.kd,
            "kd_temperature": terms.temperature,
            "kd_agreed": terms.agreed,
            "kd_teacher_entropy": terms.entropy,
        }
        if self.cfg.kd_weight_schedule != "constant":
            log |= {"kd_alpha": options.alpha * n_real, "kd_beta": options.beta * n_real}
        if options.gated:
            log["kd_gate"] = terms.gate
        return log
