"""How alike two sentences are, by sacreBLEU, from 0 to 100."""

from functools import cache
from typing import Callable

from sacrebleu.metrics import BLEU, CHRF

Similarity = Callable[[str, str], float]
SCORERS = {
    "bleu": lambda: BLEU(tokenize="none", effective_order=True, force=True),
    "chrf": CHRF,
}


@cache
def similarity(metric: str) -> Similarity:
    """The score of a hypothesis against a reference, both in words parted by spaces.

    Args:
        metric: ``bleu``, smoothed sentence BLEU up to the longest n-gram that the sentence has
            (Kim and Rush 2016 smooth it too); or ``chrf``.
    """
    scorer = SCORERS[metric]()
    return lambda hypothesis, reference: scorer.sentence_score(hypothesis, [reference]).score
