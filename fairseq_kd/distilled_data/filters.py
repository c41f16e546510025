"""Which pairs are fit to learn from: each filter is a score of a pair and a threshold."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from fairseq_kd.flag_types import Range

REPEATED_NGRAM = 3


class Pair(NamedTuple):
    """A source sentence and a translation of it.

    Args:
        source_tokens, target_tokens: as binarised.
        source_words, target_words: with BPE undone.
        teacher_score: log2 of the translation's probability per token.
        similarity: to the reference, 0 to 100; NaN if it was not asked for.
        earlier: the number of earlier pairs that are the same in every token.
    """

    source_tokens: Sequence[str]
    target_tokens: Sequence[str]
    source_words: Sequence[str]
    target_words: Sequence[str]
    teacher_score: float
    similarity: float = math.nan
    earlier: int = 0


def length_ratio(pair: Pair) -> float:
    """Tokens of the longer side for one of the shorter side, the ends of sentence included."""
    lengths = (len(pair.source_tokens) + 1, len(pair.target_tokens) + 1)
    return max(lengths) / min(lengths)


def copied(pair: Pair) -> float:
    """The share of the translation's words that stand in the source, each as often at most."""
    common = Counter(pair.source_words) & Counter(pair.target_words)
    return common.total() / max(1, len(pair.target_words))


def repeated(pair: Pair) -> float:
    """The share of the translation's 3-grams that came before, less the source's own share."""
    return max(0.0, _repeated_share(pair.target_words) - _repeated_share(pair.source_words))


def _repeated_share(words: Sequence[str]) -> float:
    ngrams = [tuple(words[i : i + REPEATED_NGRAM]) for i in range(len(words) - REPEATED_NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


@dataclass(frozen=True)
class Filter:
    """A score with the threshold that a pair must keep to.

    Args:
        name: of the score.
        flag: of the threshold; it begins with min or max, which tells the side to keep.
        score: of a pair.
        range: of the threshold; inf or -inf turns the filter off.
        default: threshold; None for no filter unless asked for.
        help: what the score is.
    """

    name: str
    flag: str
    score: Callable[[Pair], float]
    range: Range
    default: Optional[float]
    help: str

    @property
    def option(self) -> str:
        """The flag as an attribute of the parsed arguments."""
        return self.flag[2:].replace("-", "_")

    def keeps(self, score: float, threshold: float) -> bool:
        """Whether a score is on the right side of the threshold, or on it."""
        return score >= threshold if self.flag.startswith("--min") else score <= threshold


SHARE = Range(float, 0, 1, also=(math.inf,))
FILTERS = (
    Filter(
        *("words", "--min-words", lambda pair: len(pair.target_words)),
        *(Range(int, 1, 1_000_000, also=(-math.inf,)), 1),
        "words of the translation: empty ones and sentences that the teacher could not read go",
    ),
    Filter(
        *("teacher_score", "--min-score", lambda pair: pair.teacher_score),
        *(Range(float, -1e6, 0, also=(-math.inf,)), None),
        "log2 of the teacher's probability per token, as fairseq-generate prints it: -0.5 to "
        "-1.5 for a good teacher",
    ),
    Filter(
        *("length_ratio", "--max-length-ratio", length_ratio),
        *(Range(float, 1, 1e6, also=(math.inf,)), 3.0),
        "tokens of the longer side for one of the shorter",
    ),
    Filter(
        *("copied", "--max-copied", copied),
        *(SHARE, 0.9),
        "share of the translation's words that stand in the source",
    ),
    Filter(
        *("repeated", "--max-repeated", repeated),
        *(SHARE, 0.3),
        "share of the translation's 3-grams that came before in it, less the same of the source",
    ),
    Filter(
        *("similarity", "--min-similarity", lambda pair: pair.similarity),
        *(Range(float, 0, 100, also=(-math.inf,)), None),
        "of the translation to the reference, by --metric",
    ),
    Filter(
        *("duplicates", "--max-duplicates", lambda pair: pair.earlier),
        *(Range(int, 0, 1_000_000_000, also=(math.inf,)), None),
        "earlier pairs that are the same in every token: 0 keeps one of each",
    ),
)


class FilterBank:
    """Filters with their thresholds, and what each of them took.

    Args:
        thresholds: by the filters' names; a filter without one takes nothing.

    Attributes:
        took: by name, the pairs that this filter took and none before it.
        would_take: by name, the pairs that it takes by itself.
    """

    def __init__(self, thresholds: Dict[str, float]):
        self.thresholds = thresholds
        self.took = {each.name: 0 for each in FILTERS}
        self.would_take = dict(self.took)

    def judge(self, pair: Pair) -> Tuple[List[float], Optional[str]]:
        """Every score of a pair, and the filter that takes it, None if it is kept."""
        scores = [each.score(pair) for each in FILTERS]
        against = [
            each.name
            for each, score in zip(FILTERS, scores, strict=True)
            if each.name in self.thresholds and not each.keeps(score, self.thresholds[each.name])
        ]
        for name in against:
            self.would_take[name] += 1
        if not against:
            return scores, None
        self.took[against[0]] += 1
        return scores, against[0]
