"""Batches of sentences of like length.

Rounding depends on what stands in a batch together. So batches are cut once, from all sentences,
and a shard takes whole batches: neither sharding nor a restart changes a bit of any translation.
"""

from typing import List

import numpy as np


def length_sorted_batches(lengths: np.ndarray, max_tokens: int) -> List[np.ndarray]:
    """The sentence numbers of each batch, longest sentences first.

    Args:
        lengths: (sentences,) tokens of each.
        max_tokens: most tokens of a batch, padding included; a longer sentence is a batch alone.
    """
    order = np.lexsort((np.arange(len(lengths)), -lengths.astype(np.int64)))
    batches, start = [], 0
    while start < len(order):
        size = max(1, max_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches
