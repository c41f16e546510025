"""Word-level distillation: ``L = alpha * T^2 * KL(p_teacher(T) || p_student(T)) + beta * CE``."""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor, nn

from fairseq_kd.criterions.checks import (
    DEFAULT_FINAL_TEMPERATURE,
    check_nothing_distilled,
    check_weights,
    refuse_adaptive_softmax,
    temperature_schedule,
)
from fairseq_kd.criterions.update_clock import UpdateClock
from fairseq_kd.losses import forward_kl_and_entropy, top1_agreement
from fairseq_kd.teachers import LiveTeacher

KD_SUMS = ("kd_loss", "kd_ntokens", "kd_temperature", "kd_agreed", "kd_teacher_entropy")


@dataclass
class WordKDConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """The flags of ``word_kd``, beside those of fairseq's ``label_smoothed_cross_entropy``."""

    kd_teacher: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint of the teacher: any autoregressive encoder-decoder of fairseq with "
            "the student's language pair and dictionaries (default: none, with --kd-alpha 0)"
        },
    )
    kd_alpha: float = field(
        default=0.8,
        metadata={
            "help": "weight of the distillation loss, >= 0; 0.7 to 0.9 is usual "
            "(default: %(default)s)"
        },
    )
    kd_beta: float = field(
        default=0.2,
        metadata={
            "help": "weight of the label-smoothed cross-entropy with the reference, >= 0; 0.1 to "
            "0.3 is usual, mostly with alpha + beta = 1 (default: %(default)s)"
        },
    )
    kd_temperature: float = field(
        default=4.0,
        metadata={
            "help": "softmax temperature T of both models in the distillation loss, > 0; 3 to 6 is "
            "usual; at the first update if it is scheduled (default: %(default)s; "
            "arXiv:1503.02531)"
        },
    )
    kd_temperature_schedule: str = field(
        default="constant",
        metadata={
            "help": "how T goes from --kd-temperature to --kd-temperature-final: constant, "
            "exponential, linear or cosine (default: %(default)s)"
        },
    )
    kd_temperature_final: Optional[float] = field(
        default=None,
        metadata={
            "help": "T at the end of the schedule, > 0; 2 to 3 is usual; not with constant "
            f"(default: {DEFAULT_FINAL_TEMPERATURE})"
        },
    )
    kd_temperature_updates: Optional[int] = field(
        default=None,
        metadata={
            "help": "number of updates from the first T to the final one; not with constant "
            "(default: --max-update)"
        },
    )
    max_update: int = II("optimization.max_update")


@register_criterion("word_kd", dataclass=WordKDConfig)
class WordKDCriterion(LabelSmoothedCrossEntropyCriterion):
    """fairseq's label-smoothed cross-entropy with a distillation term from a live teacher.

    With alpha 0 and beta 1 it is ``label_smoothed_cross_entropy`` itself. Validation distils too,
    so that its curves compare with training's. Terms are sums over real tokens, which fairseq
    divides by the sample size.

    Log: ``loss``, ``nll_loss`` and ``ppl`` as fairseq's, the last two the student's own at T = 1;
    ``kd_loss``, bits a token, T^2 included; ``temperature``; ``agreement``, percent of tokens whose
    likeliest word is the teacher's; ``teacher_entropy``, bits a token, of p_teacher(T).

    Args:
        cfg: the flags; every value is checked here, before the first update.
        task: the student's translation task.

    Raises:
        FileNotFoundError: the teacher or its dictionaries are missing.
        ValueError: a flag is out of range or without effect, or the teacher cannot teach this
            student; one sentence says which, and what to do.

    Source: Kim and Rush 2016, arXiv:1606.07947, section 3.1; T^2: Hinton et al. 2015,
    arXiv:1503.02531, section 2.
    """

    def __init__(self, cfg: WordKDConfig, task: FairseqTask):
        super().__init__(
            task,
            cfg.sentence_avg,
            cfg.label_smoothing,
            cfg.ignore_prefix_size,
            cfg.report_accuracy,
        )
        check_weights(cfg)
        self.alpha, self.beta = cfg.kd_alpha, cfg.kd_beta
        if self.alpha == 0:
            check_nothing_distilled(cfg, WordKDConfig)
            return
        self.temperature = temperature_schedule(cfg)
        self.teacher = LiveTeacher(cfg.kd_teacher, task)
        self.clock = UpdateClock(task)

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """The loss of a batch, its sample size and what to log, as sums that fairseq divides."""
        if self.alpha == 0:
            loss, sample_size, log = super().forward(model, sample, reduce)
            log["loss"] = self.beta * log["loss"]
            return self.beta * loss, sample_size, log
        refuse_adaptive_softmax(model)
        net_output = model(**sample["net_input"])
        ce, nll = self.compute_loss(model, net_output, sample)
        kd, kd_log = self.distillation_loss(model, net_output, sample)
        loss = self.alpha * kd + self.beta * ce
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        log = {
            "loss": loss.data,
            "nll_loss": nll.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
            **kd_log,
        }
        if self.report_accuracy:
            log["n_correct"], log["total"] = self.compute_accuracy(model, net_output, sample)
        return loss, sample_size, log

    def distillation_loss(
        self, model: nn.Module, net_output: Tuple, sample: Dict[str, Any]
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """``sum T^2 KL`` over real tokens, in nats, and the sums that its log is made of."""
        self.teacher.follow(model)
        kept = slice(self.ignore_prefix_size, None)
        real = model.get_targets(sample, net_output)[:, kept].ne(self.padding_idx)  # (B, L)
        student = net_output[0][:, kept]  # (B, L, V)
        teacher = self.teacher.logits(sample["net_input"])[:, kept]  # (B, L, V)
        temperature = self.temperature.at(self.clock.update)
        kd, entropy = forward_kl_and_entropy(student, teacher, real, temperature)
        n_real = real.sum()
        return kd, {
            "kd_loss": kd.data,
            "kd_ntokens": n_real,
            "kd_temperature": temperature * n_real,
            "kd_agreed": top1_agreement(student, teacher, real),
            "kd_teacher_entropy": entropy,
        }

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Turns the sums of all workers into means a token; losses and entropy in bits."""
        if sum(log.get("sample_size", 0) for log in logging_outputs) == 0:
            return  # nothing real was seen, so there is no mean to log
        super().reduce_metrics(logging_outputs)
        total = {key: sum(log.get(key, 0) for log in logging_outputs) for key in KD_SUMS}
        n_real = total["kd_ntokens"]
        if n_real == 0:  # alpha is 0, or --ignore-prefix-size left no token
            return
        kd_loss = total["kd_loss"] / n_real / math.log(2)
        entropy = total["kd_teacher_entropy"] / n_real / math.log(2)
        metrics.log_scalar("kd_loss", kd_loss, n_real, round=3)
        metrics.log_scalar("temperature", total["kd_temperature"] / n_real, n_real, round=3)
        metrics.log_scalar("agreement", 100 * total["kd_agreed"] / n_real, n_real, round=2)
        metrics.log_scalar("teacher_entropy", entropy, n_real, round=3)
