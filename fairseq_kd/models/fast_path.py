"""Disables the fast path of fairseq's encoders, which fails with torch 2 and bypasses hooks.

fairseq 0.12.2 and its main branch compute a whole encoder layer with one torch function in
inference. With torch 2 this fails with ``Mask Type should be defined`` for every layer that
normalises after its blocks, in training with a teacher and in ``fairseq-generate``. fairseq-fixed
does not have this path.
"""

from typing import Any

from fairseq.modules.transformer_layer import TransformerEncoderLayerBase


class Off:
    """An attribute that is False, whatever it is set to."""

    def __get__(self, layer: Any, owner: Any = None) -> bool:
        return False

    def __set__(self, layer: Any, value: Any) -> None:
        """Keeps it False."""


TransformerEncoderLayerBase.can_use_fastpath = Off()
