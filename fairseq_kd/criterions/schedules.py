"""Schedules of temperature and loss weights, from T0 at the start to T1 at the end.

With ``s = update / total`` clipped to [0, 1]:

    constant     T0
    exponential  T0 * (T1 / T0)^s
    linear       T0 - (T0 - T1) * s
    cosine       T1 + (T0 - T1) * (1 + cos(pi * s)) / 2
    loss         T1 + (T0 - T1) * gap

The gap between student and teacher is measured during training: the share of real tokens for which
their likeliest tokens differ. Unlike the loss itself it does not change with the temperature.
"""

import math
import os
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Sequence

from fairseq.criterions import FairseqCriterion
from fairseq.tasks import FairseqTask

from fairseq_kd.criterions.training_state import UpdateClock, teacher_gap
from fairseq_kd.flag_types import flag_name
from fairseq_kd.losses import TAIL_POWERS

Shape = Callable[[float, float, float], float]

FOLLOWS_GAP = "loss"
SHAPES: Dict[str, Shape] = {
    "constant": lambda start, final, s: start,
    "exponential": lambda start, final, s: start * (final / start) ** s,
    "linear": lambda start, final, s: start - (start - final) * s,
    "cosine": lambda start, final, s: final + (start - final) * (1 + math.cos(math.pi * s)) / 2,
    FOLLOWS_GAP: lambda start, final, s: start - (start - final) * s,
}
DEFAULT_FINAL_TEMPERATURE = 2.0
LOWEST_TEMPERATURE = 1 / TAIL_POWERS[-1]  # at which a store of the current format is accurate


@dataclass(frozen=True)
class Schedule:
    """A value over updates.

    Args:
        shape: a key of ``SHAPES``.
        start: T0, the value at update 0, or while the gap is 1.
        final: T1, the value at update ``total`` and after it, or when the gap is 0. Without
            effect when constant.
        total: the number of updates from start to final, > 0 unless constant or following the gap.
    """

    shape: str
    start: float
    final: float
    total: int = 0

    def at(self, update: int, gap: float = 1.0) -> float:
        """The value at an update, counted from 0, and a gap in [0, 1]."""
        if self.shape == "constant" or self.start == self.final:
            return self.start
        s = 1 - gap if self.shape == FOLLOWS_GAP else update / self.total
        return SHAPES[self.shape](self.start, self.final, min(max(s, 0.0), 1.0))

    @property
    def ends(self) -> Sequence[float]:
        """Its extreme values."""
        return (self.start,) if self.shape == "constant" else (self.start, self.final)


class Schedules:
    """Alpha, beta and the temperature of the current update.

    Args:
        cfg: the flags of ``word_kd``.
        task: the task of the training, from which the number of the update is read.
        criterion: the criterion, from whose logs the gap is read if a schedule follows it.
    """

    def __init__(self, cfg: Any, task: FairseqTask, criterion: FairseqCriterion):
        self.schedules = {
            "alpha": weight_schedule(cfg, "kd_alpha"),
            "beta": weight_schedule(cfg, "kd_beta"),
            "temperature": temperature_schedule(cfg),
        }
        self.clock = UpdateClock(task)
        followed = FOLLOWS_GAP in (cfg.kd_temperature_schedule, cfg.kd_weight_schedule)
        self.gap = teacher_gap(task, criterion, self.clock) if followed else None

    def now(self) -> Dict[str, float]:
        """The three values, by the names they have in ``LossOptions``."""
        gap = self.gap.value if self.gap else 1.0
        return {name: each.at(self.clock.update, gap) for name, each in self.schedules.items()}


def temperature_schedule(cfg: Any) -> Schedule:
    """The temperature over the updates; refuses flags that make no schedule."""
    return _schedule(cfg, "kd_temperature", "kd_temperature", DEFAULT_FINAL_TEMPERATURE)


def weight_schedule(cfg: Any, name: str) -> Schedule:
    """The weight ``kd_alpha`` or ``kd_beta`` over the updates; refuses flags that make none."""
    start, final = getattr(cfg, name), getattr(cfg, f"{name}_final")
    if cfg.kd_weight_schedule != "constant" and cfg.kd_alpha_final is cfg.kd_beta_final is None:
        raise ValueError(
            f"--kd-weight-schedule is {cfg.kd_weight_schedule}, but neither --kd-alpha-final nor "
            "--kd-beta-final is set. Set one or both."
        )
    if cfg.kd_weight_schedule == "exponential" and final is not None and 0 in (start, final):
        raise ValueError(
            f"--kd-weight-schedule exponential cannot go from {start} to {final} by "
            f"{flag_name(name)}: both must be above 0. Choose linear or cosine."
        )
    return _schedule(cfg, name, "kd_weight", start)


def _schedule(cfg: Any, name: str, kind: str, default_final: float) -> Schedule:
    """The schedule of the value ``name`` with the shape and the updates of its ``kind``."""
    shape, updates = getattr(cfg, f"{kind}_schedule"), getattr(cfg, f"{kind}_updates")
    final: Optional[float] = getattr(cfg, f"{name}_final")
    given = {f"{name}_final": final} if shape == "constant" else {}
    if shape in ("constant", FOLLOWS_GAP):
        given[f"{kind}_updates"] = updates
    for without_effect, value in given.items():
        if value is not None:
            raise ValueError(
                f"{flag_name(without_effect)} is {value}, but has no effect with "
                f"{flag_name(kind)}-schedule {shape}. Leave it out, or choose another schedule."
            )
    start, final = getattr(cfg, name), default_final if final is None else final
    if shape in ("constant", FOLLOWS_GAP):
        return Schedule(shape, start, final)
    total = cfg.max_update if updates is None else updates
    if total <= 0:
        raise ValueError(
            f"{flag_name(kind)}-schedule {shape} needs the number of its updates, but that is "
            f"{total}. Set {flag_name(kind)}-updates or --max-update to a number above 0."
        )
    return Schedule(shape, start, final, total)


def check_token_temperature(cfg: Any) -> None:
    """Refuses a temperature per token that is 1 for all of them."""
    if cfg.kd_token_temperature != "uniform" and set(temperature_schedule(cfg).ends) == {1.0}:
        raise ValueError(
            f"--kd-token-temperature {cfg.kd_token_temperature} has no effect at --kd-temperature "
            "1, because each token's temperature lies between 1 and T. Leave it out, or raise T."
        )


def check_store_temperatures(
    cfg: Any, factors: Optional[Sequence[float]], limits: Optional[Sequence[float]] = None
) -> None:
    """Refuses temperatures for which the tail of a store is not accurate.

    Args:
        cfg: the flags.
        factors: of the temperature of each teacher, the stores last; None: 1 for each.
        limits: the lowest accurate temperature of each store; None: that of the current format.
    """
    stores = cfg.kd_store.split(os.pathsep) if cfg.kd_store else []
    ends = temperature_schedule(cfg).ends
    for i, store in enumerate(stores):
        lowest = min(ends) * (factors[i - len(stores)] if factors else 1.0)
        limit = limits[i] if limits else LOWEST_TEMPERATURE
        if lowest < limit * (1 - 1e-6):  # products of factors are rounded
            rebuild = "rebuild the store, " if lowest >= LOWEST_TEMPERATURE else ""
            raise ValueError(
                f"--kd-store {store} requires T >= {limit:g}, but the lowest T is {lowest:g}. "
                f"Raise T, {rebuild}or train from --kd-teacher."
            )
