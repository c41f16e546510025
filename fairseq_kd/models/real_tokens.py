"""The target tokens of a batch without padding, as a mask and as positions.

Their positions are found in fairseq's data loader, on the processor, and travel with the batch: to
index by a mask, whose count is known to the GPU alone, would wait for the GPU.
"""

from dataclasses import dataclass
from typing import Any, Dict

from torch import Tensor
from torch.nn import functional

PREPARED = "kd"  # the key of a batch for what was prepared in the data loader


@dataclass(frozen=True)
class RealTokens:
    """The N target tokens of a batch that count, sentence by sentence.

    Args:
        mask: (B, L) bool, True at these tokens.
        positions: (N,) int64, where they are in ``mask.flatten()``.
    """

    mask: Tensor
    positions: Tensor

    @classmethod
    def of_mask(cls, mask: Tensor) -> "RealTokens":
        """Those of a mask; waits for a GPU."""
        return cls(mask, mask.flatten().nonzero().squeeze(1))

    def of(self, values: Tensor) -> Tensor:
        """The values, (B, L, ...), at these tokens, (N, ...)."""
        return values.flatten(0, 1).index_select(0, self.positions)

    def shifted(self, more: int) -> "RealTokens":
        """The same tokens where each sentence has some more tokens at its beginning."""
        if more == 0:
            return self
        width = self.mask.size(1)
        row, column = self.positions // width, self.positions % width
        return RealTokens(
            functional.pad(self.mask, (more, 0)), row * (width + more) + column + more
        )


def prepared(sample: Dict[str, Any]) -> Dict[str, Any]:
    """What was prepared for a batch, or nothing if its shape or number of tokens changed since."""
    parts = sample.get(PREPARED, {})
    same = parts.get("shape") == tuple(sample["target"].shape)
    return parts if same and parts["ntokens"] == sample["ntokens"] else {}
