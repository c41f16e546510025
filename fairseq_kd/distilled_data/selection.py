"""Which of a sentence's hypotheses the student learns from.

Every selection gets the hypotheses' words, best first, and returns the places of those it takes.
"""

from typing import Callable, Dict, List, Optional, Sequence

from fairseq_kd.distilled_data.similarity import Similarity


def best(words: Sequence[str], reference: Optional[str], similarity: Similarity) -> List[int]:
    """The one that the teacher ranks first.

    Source: Kim and Rush 2016, arXiv:1606.07947, section 3.2.
    """
    return [0]


def nbest(words: Sequence[str], reference: Optional[str], similarity: Similarity) -> List[int]:
    """All of them: as many copies of the source."""
    return list(range(len(words)))


def interpolation(
    words: Sequence[str], reference: Optional[str], similarity: Similarity
) -> List[int]:
    """Argmax over hypotheses h of similarity(h, reference); of equals, the teacher's favourite.

    Source: Kim and Rush 2016, arXiv:1606.07947, section 3.3.
    """
    gains = [similarity(each, reference) for each in words]
    return [gains.index(max(gains))]


def minimum_bayes_risk(
    words: Sequence[str], reference: Optional[str], similarity: Similarity
) -> List[int]:
    """Argmax over hypotheses h of the sum over hypotheses g of similarity(h, g).

    Every hypothesis has the same weight: with samples that is the expectation under the teacher.
    Of equals, the teacher's favourite.

    Source: Kumar and Byrne 2004; on samples, Eikema and Aziz 2020, arXiv:2005.10283.
    """
    if len(words) == 1:
        return [0]
    known: Dict[tuple, float] = {}
    gains = []
    for hypothesis in words:
        for other in words:
            if (hypothesis, other) not in known:
                known[hypothesis, other] = similarity(hypothesis, other)
        gains.append(sum(known[hypothesis, other] for other in words))
    return [gains.index(max(gains))]


Selection = Callable[[Sequence[str], Optional[str], Similarity], List[int]]
SELECTIONS: Dict[str, Selection] = {
    "best": best,
    "nbest": nbest,
    "interpolation": interpolation,
    "mbr": minimum_bayes_risk,
}
