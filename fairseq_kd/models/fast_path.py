"""Disables the fast path of fairseq's encoders, which fails with torch 2 and bypasses hooks.

fairseq 0.12.2 and its main branch compute a whole layer of an encoder by one function of torch
when a model is only used. With torch 2 that ends in ``Mask Type should be defined`` for every layer
that normalises after its blocks, in training with a teacher as in ``fairseq-generate``.
fairseq-fixed has no such path.
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
