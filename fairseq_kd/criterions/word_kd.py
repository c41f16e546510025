"""Word-level distillation: ``L = alpha * T^2 * KL(p_teacher(T) || p_student(T)) + beta * CE``."""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor, nn

from fairseq_kd.criterions.advice import TemperatureAdvice
from fairseq_kd.criterions.checks import (
    DEFAULT_FINAL_TEMPERATURE,
    check_choices,
    check_nothing_distilled,
    check_one_teacher_source,
    check_ranges,
    check_store_temperatures,
    check_token_temperature,
    check_weights,
    distils,
    refuse_a_missing_tpu,
    refuse_adaptive_softmax,
    temperature_schedule,
    weight_schedule,
)
from fairseq_kd.criterions.chunks import chunk_tokens_flag, compile_flag
from fairseq_kd.criterions.observers import UpdateClock, teacher_gap
from fairseq_kd.criterions.placement import follow
from fairseq_kd.criterions.restoring import StartsAfresh
from fairseq_kd.criterions.shared_encoder import SharedEncoder, check_shared_encoder
from fairseq_kd.flag_types import COUNT, TEMPERATURE, WEIGHT, number_field
from fairseq_kd.losses import LossOptions, LossTerms, Mixture, SoftTargets, chunked_loss
from fairseq_kd.projection import RealHidden, real_hidden, refuse_unseen_projection
from fairseq_kd.schedules import FOLLOWS_GAP
from fairseq_kd.teachers import StoredTeacher, teacher_sources

PER_TOKEN = {  # what is logged of every token: the key of its sum, its name in the log, its unit
    "kd_loss": ("kd_loss", 1 / math.log(2)),
    "kd_temperature": ("temperature", 1),
    "kd_agreed": ("agreement", 100),
    "kd_teacher_entropy": ("teacher_entropy", 1 / math.log(2)),
    "kd_alpha": ("alpha", 1),
    "kd_beta": ("beta", 1),
    "kd_gate": ("gate", 1),
}


@dataclass
class WordKDConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """The flags of ``word_kd``, beside those of fairseq's ``label_smoothed_cross_entropy``."""

    kd_teacher: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint of the teacher: any autoregressive encoder-decoder of fairseq with "
            "the student's language pair and dictionaries; several, A.pt:B.pt, teach the mean of "
            "their distributions (default: none, with --kd-store or --kd-alpha 0)"
        },
    )
    kd_store: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder that fairseq-kd store wrote, instead of --kd-teacher: the teacher's "
            "likeliest words are read from there and it need not run; for temperatures of 0.5 and "
            "more; several as A:B (default: none)"
        },
    )
    kd_alpha: float = number_field(
        0.8,
        WEIGHT,
        "weight of the distillation loss; 0.7 to 0.9 is usual (default: %(default)s)",
    )
    kd_beta: float = number_field(
        0.2,
        WEIGHT,
        "weight of the label-smoothed cross-entropy with the reference; 0.1 to "
        "0.3 is usual, mostly with alpha + beta = 1 (default: %(default)s)",
    )
    kd_gate: str = field(
        default="off",
        metadata={
            "help": "probability: weigh the distillation of each token by 2 (1 - g) and its "
            "cross-entropy by 2 g, g the teacher's probability of the target word; meant for "
            "targets that the teacher wrote itself (default: %(default)s)"
        },
    )
    kd_divergence: str = field(
        default="forward_kl",
        metadata={
            "help": "distance between the teacher's and the student's distributions: forward_kl, "
            "reverse_kl, jeffreys, js or tvd (default: %(default)s; arXiv:2307.15190)"
        },
    )
    kd_temperature: float = number_field(
        4.0,
        TEMPERATURE,
        "softmax temperature T of both models in the distillation loss; in "
        "translation begin with 1: 3 to 6, usual for classifiers of images, did harm here; at "
        "the first update if it is scheduled (default: %(default)s; arXiv:1503.02531)",
    )
    kd_temperature_schedule: str = field(
        default="constant",
        metadata={
            "help": "how T goes from --kd-temperature to --kd-temperature-final: constant, "
            "exponential, linear or cosine over the updates, or loss: as fast as the student comes "
            "to agree with the teacher (default: %(default)s)"
        },
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
    kd_token_temperature: str = field(
        default="uniform",
        metadata={
            "help": "uniform: T for every token; confidence: 1 + c * (T - 1), c the teacher's "
            "probability of its likeliest word, so that what is soft already is not softened "
            "(default: %(default)s)"
        },
    )
    kd_weight_schedule: str = field(
        default="constant",
        metadata={
            "help": "how --kd-alpha and --kd-beta go to --kd-alpha-final and --kd-beta-final; the "
            "same choices as for the temperature (default: %(default)s)"
        },
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
    kd_teacher_dtype: str = field(
        default="student",
        metadata={
            "help": "precision of the running teacher: student (the student's own), float32, "
            "bfloat16 (half its memory; faster where the processor multiplies it) or float16 "
            "(default: %(default)s)"
        },
    )
    kd_share_encoder: bool = field(
        default=False,
        metadata={
            "help": "the student keeps the teacher's encoder, which it starts from "
            "(--finetune-from-model): it is frozen and run once for both (default: off)"
        },
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
class WordKDCriterion(StartsAfresh, LabelSmoothedCrossEntropyCriterion):
    """fairseq's label-smoothed cross-entropy with a distillation term from one or more teachers.

    With alpha 0 and beta 1 it is ``label_smoothed_cross_entropy`` itself. Validation distils too,
    so that its curves compare with training's. Terms are sums over real tokens, which fairseq
    divides by the sample size.

    Log: ``loss``, ``nll_loss`` and ``ppl`` as fairseq's, the last two the student's own at T = 1;
    ``kd_loss``, bits a token, T^2 included; ``temperature``; ``agreement``, percent of tokens whose
    likeliest word is that of the teacher, or of several teachers' mean; ``teacher_entropy``, bits a
    token, of p_teacher(T); ``alpha`` and ``beta`` if they are scheduled; ``teacher_gap`` if a
    schedule follows it; the mean of g as ``gate`` with ``--kd-gate``.

    Args:
        cfg: the flags; every value is checked here, before the first update.
        task: the student's translation task.

    Raises:
        FileNotFoundError: the teacher, its dictionaries or its store are missing.
        ValueError: a flag is out of range or without effect, or the teacher cannot teach this
            student; one sentence says which, and what to do.

    Source: Kim and Rush 2016, arXiv:1606.07947, section 3.1; T^2: Hinton et al. 2015,
    arXiv:1503.02531, section 2.
    """

    config: type = WordKDConfig

    def __init__(self, cfg: WordKDConfig, task: FairseqTask):
        super().__init__(
            task,
            cfg.sentence_avg,
            cfg.label_smoothing,
            cfg.ignore_prefix_size,
            cfg.report_accuracy,
        )
        self.check_flags(cfg)
        self.cfg = cfg
        self.distils = distils(cfg)
        if self.distils or any(self.other_weights(cfg).values()):
            self.teachers = teacher_sources(cfg, self.taught_task(task))
        if self.distils:
            self.temperature = temperature_schedule(cfg)
            stores = [each.store for each in self.teachers if isinstance(each, StoredTeacher)]
            limits = [store.lowest_temperature for store in stores]
            check_store_temperatures(cfg, self.temperature, self.teacher_factors(cfg), limits)
            self.alpha, self.beta = (weight_schedule(cfg, name) for name in ("kd_alpha", "kd_beta"))
            self.advise = TemperatureAdvice()
            self.clock = UpdateClock(task)
            followed = FOLLOWS_GAP in (cfg.kd_temperature_schedule, cfg.kd_weight_schedule)
            self.gap = teacher_gap(task, self, self.clock) if followed else None
            shares = cfg.kd_share_encoder
            self.shared_encoder = SharedEncoder(cfg, self.teachers) if shares else None

    @classmethod
    def check_flags(cls, cfg: WordKDConfig) -> None:
        """Refuses what can be told from the flags alone, before any model is read."""
        others = cls.other_weights(cfg)
        taught_otherwise = any(others.values())
        check_ranges(cfg)
        refuse_a_missing_tpu(cfg)
        check_weights(cfg, others)
        check_choices(cfg)
        if not distils(cfg):
            used = ["kd_teacher", "kd_teacher_dtype"] if taught_otherwise else []
            check_nothing_distilled(cfg, cls.config, used)
        if distils(cfg) or taught_otherwise:
            cls.check_teacher_sources(cfg, others)
        if distils(cfg):
            check_token_temperature(cfg, temperature_schedule(cfg))
            check_store_temperatures(cfg, temperature_schedule(cfg), cls.teacher_factors(cfg))
            for name in ("kd_alpha", "kd_beta"):
                weight_schedule(cfg, name)
            if cfg.kd_share_encoder:
                check_shared_encoder(cfg)

    @classmethod
    def other_weights(cls, cfg: WordKDConfig) -> Dict[str, float]:
        """The weights of terms that a criterion adds and that need the teacher too, by flag."""
        return {}

    @staticmethod
    def teacher_factors(cfg: WordKDConfig) -> Optional[List[float]]:
        """What T is multiplied with for each teacher; None if they have no T of their own."""
        return None

    @staticmethod
    def check_teacher_sources(cfg: WordKDConfig, others: Dict[str, float]) -> None:
        """Refuses sources of teacher knowledge that this criterion cannot use together."""
        check_one_teacher_source(cfg, others)

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
        (hidden, weight, bias), taught = self.read(model, sample, real)
        options = self.loss_options()
        terms = chunked_loss(hidden, weight, bias, sample["target"][real], taught, options)
        self.advise(terms, len(hidden), hidden.size(-1) if weight is None else len(weight))
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        log = {
            "nll_loss": terms.nll,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
            **self.distillation_log(terms, options, real.sum()),
        }
        return self.total(terms), sample_size, log

    def read(
        self, model: nn.Module, sample: Dict[str, Any], real: Tensor
    ) -> Tuple[RealHidden, List[SoftTargets]]:
        """What the student computes of the real tokens of a batch, and what its teachers say."""
        taught_sample = self.taught_sample(sample)
        for teacher in self.teachers:
            teacher.follow(model)
        if self.shared_encoder:
            with self.shared_encoder.encoding(model) as encoded:
                hidden = real_hidden(model, sample["net_input"], real)
            return hidden, [self.teachers[0].soft_targets(taught_sample, real, *encoded)]
        hidden = real_hidden(model, sample["net_input"], real)
        return hidden, [teacher.soft_targets(taught_sample, real) for teacher in self.teachers]

    def taught_task(self, task: FairseqTask) -> Any:
        """The languages, dictionaries and data that a teacher must share."""
        return task

    def taught_sample(self, sample: Dict[str, Any]) -> Dict[str, Any]:
        """The batch as the teachers read it."""
        return sample

    def total(self, terms: LossTerms) -> Tensor:
        """The loss that is trained on."""
        return terms.loss

    def mixture(self) -> Mixture:
        """How several teachers become one."""
        return Mixture()

    def real_tokens(self, sample: Dict[str, Any]) -> Tensor:
        """(B, L) bool: the target tokens that count, which pads and ignored prefixes do not."""
        real = sample["target"].ne(self.padding_idx)
        real[:, : self.ignore_prefix_size] = False
        return real

    def loss_options(self) -> LossOptions:
        """Weights and temperature of the current update."""
        now = (self.clock.update, self.gap.value if self.gap else 1.0)
        return LossOptions(
            alpha=self.alpha.at(*now),
            beta=self.beta.at(*now),
            smoothing=self.eps,
            temperature=self.temperature.at(*now),
            divergence=self.cfg.kd_divergence,
            by_confidence=self.cfg.kd_token_temperature == "confidence",
            chunk_tokens=self.cfg.kd_chunk_tokens,
            compiled=self.cfg.kd_compile,
            gated=self.cfg.kd_gate == "probability",
            mixture=self.mixture(),
        )

    def distillation_log(
        self, terms: LossTerms, options: LossOptions, n_real: Tensor
    ) -> Dict[str, Any]:
        """The sums that the log of the distillation is made of."""
        log = {
            "loss": terms.loss.data,
            "kd_ntokens": n_real,
            "kd_loss": terms.kd,
            "kd_temperature": terms.temperature,
            "kd_agreed": terms.agreed,
            "kd_teacher_entropy": terms.entropy,
        }
        if self.cfg.kd_weight_schedule != "constant":
            log |= {"kd_alpha": options.alpha * n_real, "kd_beta": options.beta * n_real}
        if options.gated:
            log["kd_gate"] = terms.gate
        if self.report_accuracy:
            log |= {"n_correct": terms.correct, "total": n_real}
        return log

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Turns the sums of all workers into means a token; losses and entropy in bits."""
        if sum(log.get("sample_size", 0) for log in logging_outputs) == 0:
            return  # nothing real was seen, so there is no mean to log
        super().reduce_metrics(logging_outputs)
        n_real = sum(log.get("kd_ntokens", 0) for log in logging_outputs)
        if n_real == 0:  # alpha is 0, or --ignore-prefix-size left no token
            return
        for key, (name, unit) in PER_TOKEN.items():
            if any(key in log for log in logging_outputs):
                total = sum(log.get(key, 0) for log in logging_outputs)
                metrics.log_scalar(name, unit * total / n_real, n_real, round=3)
