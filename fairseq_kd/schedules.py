"""A value that changes over a training, such as the temperature: T0 at first, T1 at last.

With ``s = update / total`` clipped to [0, 1]:

    constant     T0
    exponential  T0 * (T1 / T0)^s
    linear       T0 - (T0 - T1) * s
    cosine       T1 + (T0 - T1) * (1 + cos(pi * s)) / 2
    loss         T1 + (T0 - T1) * gap

The gap between student and teacher is measured while they train: the share of real tokens for which
their likeliest words differ. Unlike the loss itself it does not change with the temperature.
"""

import math
from dataclasses import dataclass
from typing import Callable, Dict

Shape = Callable[[float, float, float], float]

FOLLOWS_GAP = "loss"
SHAPES: Dict[str, Shape] = {
    "constant": lambda start, final, s: start,
    "exponential": lambda start, final, s: start * (final / start) ** s,
    "linear": lambda start, final, s: start - (start - final) * s,
    "cosine": lambda start, final, s: final + (start - final) * (1 + math.cos(math.pi * s)) / 2,
    FOLLOWS_GAP: lambda start, final, s: start - (start - final) * s,
}


@dataclass(frozen=True)
class Schedule:
    """A value over updates.

    Args:
        shape: a key of ``SHAPES``.
        start: T0, the value at update 0, or while the gap is 1.
        final: T1, the value at update ``total`` and after it, or when the gap is closed. Without
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
