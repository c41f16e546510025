"""How many positions an encoder or a decoder knows, where positions are learned."""

from typing import Optional

from torch import nn


def learned_positions(side: Optional[nn.Module]) -> Optional[int]:
    """The number of an encoder's or decoder's learned positions; None if they have no end."""
    positions = getattr(side, "embed_positions", None)
    return positions.max_positions if isinstance(positions, nn.Embedding) else None
