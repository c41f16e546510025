"""What every decoding engine offers."""

from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Protocol, Sequence

from torch import Tensor

from fairseq_kd.sequence.hypotheses import Hypothesis


class Batch(NamedTuple):
    """Sentences that are decoded together: its number in the set, and token ids with their end."""

    number: int
    sources: Sequence[Tensor]


class Engine(Protocol):
    """Translates batches.

    Attributes:
        identity: what the translations depend on besides teacher, data and search, for the plan.
        summary: the same in a phrase for the user, with the number of workers.
        batch_tokens: a size of batches that suits it.
    """

    identity: Dict[str, Any]
    summary: str
    batch_tokens: int

    def translate(self, batches: Iterable[Batch]) -> Iterator[List[List[Hypothesis]]]:
        """The hypotheses of each sentence of each batch, best first, batches in their order."""
