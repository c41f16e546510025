"""word_kd from a mixture of several teachers: ``P = sum_i w_i softmax(z_i / T_i)``."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Dict, List, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from fairseq_kd.criterions.base import BITS, Metric
from fairseq_kd.criterions.flag_checks import check_some_teacher, distils
from fairseq_kd.criterions.word_kd import WordKDConfig, WordKDCriterion
from fairseq_kd.flag_types import TEMPERATURE, Range, number_field, option_field
from fairseq_kd.losses import MEANS, TOKEN_WEIGHTS, LossOptions, LossTerms, Mixture
from fairseq_kd.losses.mixture import even_share
from fairseq_kd.teachers.sources import named_teachers

UNIFORM, LEARNED = "uniform", "learned"
DEFAULT_ENTROPY = 0.5
ENTROPY = Range(float, 0, 1, below=True)
SHARE = Range(float, 1e-6, 1e6, also=(0,))  # before the sum is checked


@dataclass
class MultiTeacherKDConfig(WordKDConfig):
    """The flags of ``multi_teacher_kd``, beside those of ``word_kd``."""

    kd_teacher: Optional[str] = option_field(
        None,
        "checkpoints of teachers that run, A.pt:B.pt: any autoregressive "
        "encoder-decoders of fairseq with the student's language pair and dictionaries "
        "(default: none, with --kd-store or --kd-alpha 0)",
    )
    kd_store: Optional[str] = option_field(
        None,
        "folders that fairseq-kd store wrote, A:B, of teachers that need not run, "
        "alone or beside --kd-teacher (default: none)",
    )
    kd_teacher_weights: str = option_field(
        UNIFORM,
        "weights w of the teachers, those of --kd-teacher first, then those of "
        "--kd-store: uniform; numbers that sum to 1, such as 0.7,0.3; learned: softmax(a), a "
        "trained so that the mixture predicts the reference; or for each token: gold, by the "
        "teacher's probability of the reference token, confidence, by that of its likeliest token, "
        "agreement, by the mean probability of its likeliest token over all teachers "
        "(default: %(default)s)",
    )
    kd_teacher_entropy: Optional[float] = number_field(
        None,
        ENTROPY,
        "lower bound of the entropy of learned weights, as a share of its greatest value; "
        "only with --kd-teacher-weights learned "
        f"(default: {DEFAULT_ENTROPY})",
    )
    kd_teacher_temperatures: Optional[str] = option_field(
        None,
        "temperature of each teacher, > 0, such as 4,2; --kd-temperature is then the "
        "student's, and a schedule changes all in proportion (default: --kd-temperature)",
    )
    kd_teacher_mean: str = option_field(
        "probabilities",
        "what is averaged: probabilities, or log_probabilities, which excludes entries that any "
        "teacher rules out (default: %(default)s)",
        MEANS,
    )


@register_criterion("multi_teacher_kd", dataclass=MultiTeacherKDConfig)
class MultiTeacherKDCriterion(WordKDCriterion):
    """word_kd from a weighted mixture of teachers that run, stores, or both.

    Learned weights are ``w = (1 - m) softmax(a) + m / I``. The a's are parameters of the criterion;
    m is chosen so that the entropy of w is at least ``--kd-teacher-entropy * log I`` for all values
    of a. The weights are trained only by the mixture's likelihood of the reference, ``-log sum_i
    w_i p_i(y)`` at T = 1: with the distillation loss they would drift to the teacher that is
    easiest to imitate. This term gives the student no gradient and is not part of ``loss``.

    Log: as word_kd's, with ``agreement`` and ``teacher_entropy`` those of the mixture;
    ``teacher_weight_1``, ...: mean weight of each teacher; ``teacher_nll``: bits per token of
    the mixture on the reference at T = 1 (with ``--kd-teacher-mean probabilities``).

    Args:
        cfg: the flags.
        task: the student's translation task.

    Raises:
        FileNotFoundError: as ``WordKDCriterion``.
        ValueError: as ``WordKDCriterion``; there are not two teachers, or weights or temperatures
            that do not fit them.

    Source: the mean of the distributions of several teachers, Hinton et al. 2015, arXiv:1503.02531;
    weights by the reference, Zhang et al. 2022, arXiv:2201.00007.
    """

    alpha_flags = MultiTeacherKDConfig
    METRICS: ClassVar[Dict[str, Metric]] = {
        **WordKDCriterion.METRICS,
        "kd_teacher_weight_*": Metric("teacher_weight_*"),
        "kd_teacher_nll": Metric("teacher_nll", BITS),
    }

    def __init__(self, cfg: MultiTeacherKDConfig, task: FairseqTask):
        super().__init__(cfg, task)
        self.scores: Optional[nn.Parameter] = None
        if not self.distils:
            return
        count = len(self.teachers)
        self.numbers = list(range(1, count + 1))
        self.fixed = fixed_weights(cfg.kd_teacher_weights, count)
        self.factors = self.teacher_factors(cfg)
        if self.fixed:
            self._leave_out_weights_of_0()
        if cfg.kd_teacher_weights == LEARNED:
            floor = cfg.kd_teacher_entropy
            self.even = even_share(count, DEFAULT_ENTROPY if floor is None else floor)
            self.scores = nn.Parameter(torch.zeros(count))

    def _leave_out_weights_of_0(self) -> None:
        """Drops teachers of weight 0, so that they are not run."""
        used = [i for i, weight in enumerate(self.fixed) if weight > 0]
        self.numbers = [self.numbers[i] for i in used]
        self.teachers = [self.teachers[i] for i in used]
        self.fixed = [self.fixed[i] for i in used]
        if self.factors:
            self.factors = [self.factors[i] for i in used]

    @classmethod
    def check_flags(cls, cfg: MultiTeacherKDConfig) -> None:
        """As ``WordKDCriterion.check_flags``, and whether weights and temperatures fit."""
        super().check_flags(cfg)
        if not distils(cfg):
            return
        count = len(named_teachers(cfg))
        if count < 2:
            raise ValueError(
                f"--criterion {cfg._name} needs two or more teachers, but there is one. Name more "
                "by --kd-teacher A.pt:B.pt or --kd-store, or use --criterion word_kd."
            )
        check_mean(cfg)
        fixed_weights(cfg.kd_teacher_weights, count)

    @classmethod
    def metric_copies(cls, cfg: MultiTeacherKDConfig) -> int:
        """The number of teachers."""
        return len(named_teachers(cfg))

    @classmethod
    def flags_of_weight_shapes(cls) -> str:
        """Those of the number of teachers and of their weights."""
        return "--kd-teacher, --kd-store and --kd-teacher-weights"

    @staticmethod
    def teacher_factors(cfg: MultiTeacherKDConfig) -> Optional[List[float]]:
        """Those of ``--kd-teacher-temperatures``, which must fit the teachers."""
        return temperature_factors(cfg, len(named_teachers(cfg)))

    @staticmethod
    def check_teacher_sources(cfg: MultiTeacherKDConfig, others: Dict[str, float]) -> None:
        """Refuses a distillation without teachers; running and stored ones may be mixed."""
        check_some_teacher(cfg, others)

    def learned_weights(self) -> Tensor:
        """``(1 - m) softmax(a) + m / I``, (I,) float32."""
        return (1 - self.even) * self.scores.float().softmax(-1) + self.even / len(self.scores)

    def mixture(self) -> Mixture:
        """The weights, temperatures and mean of the flags."""
        weights = self.cfg.kd_teacher_weights
        if self.scores is not None:
            weights = self.learned_weights().detach()
        elif weights not in TOKEN_WEIGHTS:
            weights = self.fixed
        return Mixture(weights, self.factors, self.cfg.kd_teacher_mean)

    def total(self, terms: LossTerms) -> Tensor:
        """The loss, with the gradient, but not the value, of teacher_nll in the a's."""
        if self.scores is None:
            return terms.loss
        to_scores = -(terms.weight_gradient * self.learned_weights()).sum()
        return terms.loss + (to_scores - to_scores.detach())

    def distillation_log(
        self, terms: LossTerms, options: LossOptions, n_real: Tensor
    ) -> Dict[str, Any]:
        """The sums over real tokens that are logged; see ``METRICS``."""
        log = super().distillation_log(terms, options, n_real)
        numbered = zip(self.numbers, terms.weights, strict=True)
        log |= {f"kd_teacher_weight_{number}": weight for number, weight in numbered}
        if self.cfg.kd_teacher_mean == "probabilities" and len(self.teachers) > 1:
            log["kd_teacher_nll"] = terms.teacher_nll
        return log


def check_mean(cfg: MultiTeacherKDConfig) -> None:
    """Refuses an unknown mean, flags without effect and values out of range."""
    mean, entropy = cfg.kd_teacher_mean, cfg.kd_teacher_entropy
    learned = cfg.kd_teacher_weights == LEARNED
    if learned and mean != "probabilities":
        raise ValueError(
            "--kd-teacher-weights learned needs --kd-teacher-mean probabilities, but that is "
            f"{mean}. Leave one of them out."
        )
    if entropy is not None and not learned:
        raise ValueError(
            f"--kd-teacher-entropy is {entropy}, but has no effect with --kd-teacher-weights "
            f"{cfg.kd_teacher_weights}. Leave it out, or set --kd-teacher-weights learned."
        )


def fixed_weights(text: str, count: int) -> Optional[List[float]]:
    """The weights in ``--kd-teacher-weights``; None if it names none.

    Raises:
        ValueError: it is neither a choice nor as many weights as there are teachers, each at least
            0, that sum to 1.
    """
    if text in (UNIFORM, LEARNED, *TOKEN_WEIGHTS):
        return None
    choices = f"{UNIFORM}, {LEARNED}, {', '.join(TOKEN_WEIGHTS)} or weights such as 0.7,0.3"
    weights = _numbers("--kd-teacher-weights", text, count, SHARE, choices)
    total = sum(weights)
    if not math.isclose(total, 1.0, abs_tol=1e-3):
        raise ValueError(
            f"--kd-teacher-weights must sum to 1, but {text} sums to {total:g}."
            + (f" Give {','.join(f'{w / total:.3g}' for w in weights)}." if total > 0 else "")
        )
    return [weight / total for weight in weights]


def temperature_factors(cfg: MultiTeacherKDConfig, count: int) -> Optional[List[float]]:
    """The factor of T of each teacher; None if they have no T of their own."""
    text = cfg.kd_teacher_temperatures
    if text is None:
        return None
    if cfg.kd_token_temperature != "uniform":
        raise ValueError(
            f"--kd-teacher-temperatures is {text}, but --kd-token-temperature "
            f"{cfg.kd_token_temperature} gives each token one T for all teachers. Leave one out."
        )
    own = _numbers(
        "--kd-teacher-temperatures", text, count, TEMPERATURE, "temperatures such as 4,2"
    )
    return [each / cfg.kd_temperature for each in own]


def _numbers(flag: str, text: str, count: int, allowed: Range, choices: str) -> List[float]:
    """The numbers, one per teacher, in a flag."""
    try:
        numbers = [float(item) for item in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} must be {choices}, but is {text}.") from None
    if not all(map(allowed.holds, numbers)):
        raise ValueError(f"{flag} must be numbers, each {allowed}, but is {text}.")
    if len(numbers) != count:
        raise ValueError(
            f"{flag} {text} has {len(numbers)} numbers for {count} teachers. Give one per teacher: "
            "those of --kd-teacher first, then those of --kd-store."
        )
    return numbers
