"""A value that changes over a training, such as the temperature: T0 at first, T1 at last.

With ``s = update / total`` clipped to [0, 1]:

    constant     T0
    exponential  T0 * (T1 / T0)^s
    linear       T0 - (T0 - T1) * s
    cosine       T1 + (T0 - T1) * (1 + cos(pi * s)) / 2
"""

import math
from dataclasses import dataclass
from typing import Callable, Dict

Shape = Callable[[float, float, float], float]

SHAPES: Dict[str, Shape] = {
    "constant": lambda start, final, s: start,
    "exponential": lambda start, final, s: start * (final / start) ** s,
    "linear": lambda start, final, s: start - (start - final) * s,
    "cosine": lambda start, final, s: final + (start - final) * (1 + math.cos(math.pi * s)) / 2,
}


@dataclass(frozen=True)
class Schedule:
    """A value over updates.

    Args:
        shape: a key of ``SHAPES``.
        start: T0, the value at update 0.
        final: T1, the value at update ``total`` and after it. Without effect when constant.
        total: the number of updates from start to final, > 0 unless constant.
    """

    shape: str
    start: float
    final: float
    total: int

    def at(self, update: int) -> float:
        """The value at an update, counted from 0."""
        s = 0.0 if self.shape == "constant" else min(max(update / self.total, 0.0), 1.0)
        return SHAPES[self.shape](self.start, self.final, s)
