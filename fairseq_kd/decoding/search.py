"""Options of the search for translations."""

from dataclasses import dataclass
from typing import Optional

from fairseq_kd.flag_types import Range

DEFAULT_BEAM = 5
LENPEN = Range(float, -100, 100)


@dataclass(frozen=True)
class Search:
    """Options of beam search or sampling.

    The longest translation of a batch has max_len_a * (its longest source) + max_len_b tokens, with
    the end of sentence of the source.
    """

    beam: int = DEFAULT_BEAM  # 1 when sampling
    nbest: int = 1  # hypotheses or samples per sentence
    lenpen: float = 1.0  # hypotheses are ranked by log probability / length^lenpen
    max_len_a: float = 2.0
    max_len_b: int = 20
    sampling: bool = False  # from the model's distribution
    sampling_topk: Optional[int] = None  # from the k likeliest tokens; None for all
    sampling_topp: Optional[float] = None  # from the likeliest tokens of this total probability
    temperature: Optional[float] = None  # of the softmax, when sampling
    seed: Optional[int] = None  # of the samples

    def max_length(self, longest_source: int, positions: int) -> int:
        """The maximal number of tokens of a translation, without the end of sentence.

        Args:
            longest_source: tokens of the batch's longest source, with the end of sentence.
            positions: the number of positions of the decoder.
        """
        return max(1, min(int(self.max_len_a * longest_source + self.max_len_b), positions - 1))
