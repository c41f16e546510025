"""Disables the fast path of fairseq's encoders, which fails with torch 2 and bypasses hooks.

fairseq 0.12.2 and its main branch compute a whole encoder layer with one torch function in
inference. With torch 2 this fails with ``Mask Type should be defined`` for every layer that
normalises after its blocks, in training with a teacher and in ``fairseq-generate``. fairseq-fixed
does not have this path.

In 0.12.2 each encoder layer also has a second copy of its weights for this path, as parameters
that no gradient reaches: they would be trained, counted and inherited as if they were the layer's.
They are removed. A checkpoint with them is read without, and fairseq makes them of the others when
it reads a checkpoint that lacks them.
"""

from typing import Any

from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import nn

BLOCKS = ("in_proj", "out_proj", "fc1", "fc2")
COPIES = [f"{block}_{kind}" for block in BLOCKS for kind in ("weight", "bias")]


class Off:
    """An attribute that is False, whatever it is set to."""

    def __get__(self, layer: Any, owner: Any = None) -> bool:
        return False

    def __set__(self, layer: Any, value: Any) -> None:
        """Keeps it False."""


def remove_copies(family: Any) -> None:
    """Has the layers of a class made and loaded without the copies of their weights.

    Args:
        family: ``TransformerEncoderLayerBase`` of fairseq 0.12.2.
    """
    made = family.__init__

    def init(layer: Any, *args: Any, **kwargs: Any) -> None:
        made(layer, *args, **kwargs)
        for name in COPIES:
            layer._parameters.pop(name, None)

    def load(layer: Any, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in COPIES:
            state_dict.pop(prefix + name, None)
        nn.Module._load_from_state_dict(layer, state_dict, prefix, *args)

    family.__init__, family._load_from_state_dict = init, load


TransformerEncoderLayerBase.can_use_fastpath = Off()
if "_load_from_state_dict" in vars(TransformerEncoderLayerBase):  # 0.12.2
    remove_copies(TransformerEncoderLayerBase)
