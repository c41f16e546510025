"""Filters of pairs: each has a score of a pair and a threshold."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from fairseq_kd.flag_types import Range

REPEATED_NGRAM = 3


class Pair(NamedTuple):
    """A source sentence and a translation of it; words are tokens with BPE undone."""

    source_tokens: Sequence[str]
    target_tokens: Sequence[str]
    source_words: Sequence[str]
    target_words: Sequence[str]
    teacher_score: float  # log2 of the translation's probability per token
    similarity: float = math.nan  # to the reference, 0 to 100; NaN if it was not computed
    earlier: int = 0  # number of earlier pairs with the same tokens


def length_ratio(pair: Pair) -> float:
    """Tokens of the longer side / tokens of the shorter side, with the ends of sentence."""
    lengths = (len(pair.source_tokens) + 1, len(pair.target_tokens) + 1)
    return max(lengths) / min(lengths)


def copied(pair: Pair) -> float:
    """The share of the translation's words that are in the source, counted with multiplicity."""
    common = Counter(pair.source_words) & Counter(pair.target_words)
    return common.total() / max(1, len(pair.target_words))


def repeated(pair: Pair) -> float:
    """The share of the translation's 3-grams that occur earlier in it, minus that of the source."""
    return max(0.0, _repeated_share(pair.target_words) - _repeated_share(pair.source_words))


def _repeated_share(words: Sequence[str]) -> float:
    ngrams = [tuple(words[i : i + REPEATED_NGRAM]) for i in range(len(words) - REPEATED_NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


@dataclass(frozen=True)
class Filter:
    """A score of pairs, with its flag."""

    name: str  # of the score
    flag: str  # of the threshold, --min-... or --max-...
    score: Callable[[Pair], float]
    range: Range  # of the threshold; inf or -inf turns the filter off
    default: Optional[float]  # threshold; None if the filter is off by default
    help: str  # describes the score

    @property
    def option(self) -> str:
        """The name of the flag among the parsed arguments."""
        return self.flag[2:].replace("-", "_")

    def keeps(self, score: float, threshold: float) -> bool:
        """Whether a pair with this score is kept; a score equal to the threshold is."""
        return score >= threshold if self.flag.startswith("--min") else score <= threshold


SHARE = Range(float, 0, 1, also=(math.inf,))
FILTERS = (
    Filter(
        name="words",
        flag="--min-words",
        score=lambda pair: len(pair.target_words),
        range=Range(int, 1, 1_000_000, also=(-math.inf,)),
        default=1,
        help="words of the translation; translations without a word are always removed",
    ),
    Filter(
        name="teacher_score",
        flag="--min-score",
        score=lambda pair: pair.teacher_score,
        range=Range(float, -1e6, 1e6, also=(-math.inf,)),
        default=None,
        help="log2 of the teacher's probability per token, as fairseq-generate prints it: -0.5 to "
        "-1.5 for a good teacher; of an import, its score",
    ),
    Filter(
        name="length_ratio",
        flag="--max-length-ratio",
        score=length_ratio,
        range=Range(float, 1, 1e6, also=(math.inf,)),
        default=3.0,
        help="tokens of the longer side divided by those of the shorter",
    ),
    Filter(
        name="copied",
        flag="--max-copied",
        score=copied,
        range=SHARE,
        default=0.9,
        help="share of the translation's words that occur in the source",
    ),
    Filter(
        name="repeated",
        flag="--max-repeated",
        score=repeated,
        range=SHARE,
        default=0.3,
        help="share of the translation's 3-grams that occur earlier in it, minus that of the "
        "source",
    ),
    Filter(
        name="similarity",
        flag="--min-similarity",
        score=lambda pair: pair.similarity,
        range=Range(float, 0, 100, also=(-math.inf,)),
        default=None,
        help="similarity of the translation to the reference, by --metric",
    ),
    Filter(
        name="duplicates",
        flag="--max-duplicates",
        score=lambda pair: pair.earlier,
        range=Range(int, 0, 1_000_000_000, also=(math.inf,)),
        default=None,
        help="earlier pairs with the same tokens; 0 keeps one of each",
    ),
)


class PairFilters:
    """All filters, with thresholds and counts.

    Args:
        thresholds: by the filters' names; a filter without a threshold removes nothing.

    Attributes:
        removed: by name, the pairs that this filter removed and none before it.
        removed_alone: by name, the pairs that it would remove alone.
    """

    def __init__(self, thresholds: Dict[str, float]):
        self.thresholds = thresholds
        self.removed = {each.name: 0 for each in FILTERS}
        self.removed_alone = dict(self.removed)

    def apply(self, pair: Pair) -> Tuple[List[float], Optional[str]]:
        """All scores of a pair, and the name of the filter that removes it, None if it is kept."""
        scores = [each.score(pair) for each in FILTERS]
        removing = [
            each.name
            for each, score in zip(FILTERS, scores, strict=True)
            if each.name in self.thresholds and not each.keeps(score, self.thresholds[each.name])
        ]
        for name in removing:
            self.removed_alone[name] += 1
        if not removing:
            return scores, None
        self.removed[removing[0]] += 1
        return scores, removing[0]
