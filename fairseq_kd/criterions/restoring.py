"""A criterion with weights of its own that can go on from a checkpoint that holds none of them."""

import logging
from typing import Mapping, Optional

from torch import Tensor, nn

logger = logging.getLogger(__name__)


class StartsAfresh(nn.Module):
    """Restores what a criterion trains, or starts it afresh if another criterion wrote the file."""

    def load_state_dict(self, state_dict: Optional[Mapping[str, Tensor]], strict: bool = True):
        """As ``nn.Module``'s; nothing is loaded from a state that is empty or None."""
        if not state_dict:
            logger.warning("the checkpoint holds no weights of this criterion: they start afresh")
            return None
        return super().load_state_dict(state_dict, strict=strict)
