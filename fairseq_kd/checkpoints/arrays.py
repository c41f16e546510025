"""Reads numeric numpy arrays from checkpoints without numpy's own classes, which are not safe.

torch unpickles weights only, and calls what it was given as safe with any arguments of the file.
``numpy.ndarray(shape, "O", bytes)`` takes bytes for addresses of Python objects. So all that a
pickle names of numpy is replaced by the two classes here, which make arrays of numbers alone.
"""

from typing import Any, Tuple

import numpy as np
import torch

KINDS = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])


class NumberType:
    """A ``numpy.dtype`` in a pickle: created from its arguments, then given its state.

    Args:
        kind: one of ``KINDS``.
    """

    def __init__(self, kind: str, *_: Any):
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"an array of {kind!r}, which are not numbers")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class NumberArray(np.ndarray):
    """A ``numpy.ndarray`` in a pickle: created empty, then given its state.

    It is written again as what it was read from.
    """

    def __new__(cls, *_: Any) -> "NumberArray":
        """An array whose numbers come with its state only; arguments in the file are ignored."""
        return np.zeros(0).view(cls)

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        _version, shape, kind, by_columns, content = state
        if not isinstance(kind, NumberType) or not isinstance(content, bytes):
            raise ValueError("an array that holds no numbers")
        numbers = np.frombuffer(content, kind.dtype).reshape(shape, order="CF"[by_columns])
        super().__setstate__(numbers.copy(order="K").__reduce__()[2])

    def __reduce__(self) -> Tuple[Any, ...]:
        return np.asarray(self).__reduce__()


torch.serialization.add_safe_globals(
    [
        (NumberArray, "numpy.ndarray"),
        (NumberArray, "numpy._core.multiarray._reconstruct"),  # as numpy 2 calls it
        (NumberArray, "numpy.core.multiarray._reconstruct"),  # as numpy 1 calls it
        (NumberType, "numpy.dtype"),
    ]
)
