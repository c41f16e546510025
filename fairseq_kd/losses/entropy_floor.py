"""Keeps weights that are learned by a softmax from collapsing on one of them."""

import math


def even_share(count: int, floor: float) -> float:
    """The m for which ``w = (1 - m) s + m / count`` has an entropy of ``floor * log(count)``.

    That is when the softmax s is all on one; for every other s the entropy of w is greater, so that
    it never falls below the floor.

    Args:
        count: the number of weights, 2 or more.
        floor: in [0, 1]: 0 leaves the softmax alone, 1 makes all weights equal.
    """
    low, high = 0.0, 1.0
    for _ in range(60):  # the entropy grows with m: halve the interval
        middle = (low + high) / 2
        if _collapsed_entropy(count, middle) < floor * math.log(count):
            low = middle
        else:
            high = middle
    return high if floor > 0 else 0.0


def _collapsed_entropy(count: int, m: float) -> float:
    """Of one weight ``1 - m + m / count`` and ``count - 1`` weights ``m / count``, in nats."""
    weights = [1 - m + m / count] + [m / count] * (count - 1)
    return -sum(w * math.log(w) for w in weights if w > 0)
