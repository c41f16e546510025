"""What every decoding engine offers."""

from typing import Any, Collection, Dict, Iterable, Iterator, List, NamedTuple, Protocol, Sequence

from torch import Tensor

from fairseq_kd.decoding.hypotheses import Hypothesis


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


def chosen_compute_type(name: str, suited: str, supported: Collection[str], told: str) -> str:
    """What to compute in.

    Args:
        name: what was asked for, or auto.
        suited: what auto takes.
        supported: what may be asked for.
        told: the same in words, with where it holds.

    Raises:
        ValueError: it is not supported.
    """
    if name == "auto":
        return suited
    if name not in supported:
        raise ValueError(f"--compute-type must be {told}, but is {name}.")
    return name
