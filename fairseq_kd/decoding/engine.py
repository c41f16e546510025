"""The interface of a decoding engine: batches of source sentences in, hypotheses out."""

from typing import Any, Collection, Dict, Iterable, Iterator, List, NamedTuple, Protocol, Sequence

import numpy as np
from torch import Tensor

from fairseq_kd.decoding.hypothesis_files import Hypothesis
from fairseq_kd.decoding.options import Search

VMAP = "vmap.txt"  # CTranslate2's name of a lexical shortlist, in the folder of a model


class EngineUnavailableError(Exception):
    """An engine cannot decode; the text is the reason, a clause without a full stop."""


class Batch(NamedTuple):
    """Sentences that are decoded together."""

    number: int  # of the batch in the set
    sources: Sequence[Tensor]  # token ids of each sentence, with its end of sentence


class Engine(Protocol):
    """Translates batches."""

    search: Search
    identity: Dict[str, Any]  # what translations depend on besides models, data and search
    summary: str  # the same as a phrase for the user, with the number of workers
    batch_tokens: int  # default size of a batch, in source tokens with padding

    def translate(self, batches: Iterable[Batch]) -> Iterator[List[List[Hypothesis]]]:
        """Yields for each batch, in order, the hypotheses of each sentence, best first."""


def length_sorted_batches(lengths: np.ndarray, max_tokens: int) -> List[np.ndarray]:
    """The sentence numbers of each batch, longest sentences first.

    Rounding depends on which sentences share a batch. Batches are therefore formed once, from all
    sentences, and a shard takes whole batches: neither shards nor restarts change a translation.

    Args:
        lengths: (sentences,) tokens of each.
        max_tokens: maximum of a batch, padding included; a longer sentence is a batch of its own.
    """
    order = np.lexsort((np.arange(len(lengths)), -lengths.astype(np.int64)))
    batches, start = [], 0
    while start < len(order):
        size = max(1, max_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def chosen_compute_type(name: str, default: str, supported: Collection[str], choices: str) -> str:
    """The type to compute in.

    Args:
        name: ``--compute-type``, which may be auto.
        default: for auto.
        supported: the types that ``--compute-type`` may name.
        choices: the same as text, with the device, for the error.

    Raises:
        ValueError: the type is not supported.
    """
    if name == "auto":
        return default
    if name not in supported:
        raise ValueError(f"--compute-type must be {choices}, but is {name}.")
    return name
