"""Selection of hypotheses for the training set: by rank, or by similarity of sentences.

A selection function gets the hypotheses of a sentence as words, best first, and the reference, and
returns the ranks of the selected ones, from 0.
"""

import itertools
from dataclasses import dataclass
from functools import cache, partial
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from sacrebleu.metrics import BLEU, CHRF

from fairseq_kd.decoding.hypothesis_files import Hypothesis
from fairseq_kd.decoding.subset import words_of
from fairseq_kd.process_pool import in_chunks, in_processes

Similarity = Callable[[str, str], float]
SCORERS = {"bleu": lambda: BLEU(tokenize="none", effective_order=True, force=True), "chrf": CHRF}
CHUNK = 100  # sentences per task of a process


@cache
def similarity(metric: str) -> Similarity:
    """The score of a hypothesis against a reference, 0 to 100, both in words separated by spaces.

    Args:
        metric: ``bleu``, sacreBLEU's smoothed sentence BLEU up to the longest n-gram of the
            sentence (Kim and Rush 2016 smooth it too); or ``chrf``.
    """
    scorer = SCORERS[metric]()
    return lambda hypothesis, reference: scorer.sentence_score(hypothesis, [reference]).score


def best(texts: Sequence[str], reference: Optional[str], similarity: Similarity) -> List[int]:
    """The teacher's best hypothesis.

    Source: Kim and Rush 2016, arXiv:1606.07947, section 3.2.
    """
    return [0]


def nbest(texts: Sequence[str], reference: Optional[str], similarity: Similarity) -> List[int]:
    """All hypotheses; the source is repeated for each."""
    return list(range(len(texts)))


def interpolation(
    texts: Sequence[str], reference: Optional[str], similarity: Similarity
) -> List[int]:
    """Argmax over hypotheses h of similarity(h, reference); of equals, the first.

    Source: Kim and Rush 2016, arXiv:1606.07947, section 3.3.
    """
    gains = [similarity(each, reference) for each in texts]
    return [gains.index(max(gains))]


def minimum_bayes_risk(
    texts: Sequence[str], reference: Optional[str], similarity: Similarity
) -> List[int]:
    """Argmax over hypotheses h of the sum over hypotheses g of similarity(h, g).

    All hypotheses have the same weight: with samples the sum is the expectation under the teacher.
    Of equals, the first.

    Source: Kumar and Byrne 2004; on samples, Eikema and Aziz 2020, arXiv:2005.10283.
    """
    if len(texts) == 1:
        return [0]
    known: Dict[tuple, float] = {}
    gains = []
    for hypothesis in texts:
        for other in texts:
            if (hypothesis, other) not in known:
                known[hypothesis, other] = similarity(hypothesis, other)
        gains.append(sum(known[hypothesis, other] for other in texts))
    return [gains.index(max(gains))]


def highest_score(hypotheses: Sequence[Hypothesis]) -> List[int]:
    """Argmax over hypotheses of the score that a file gave them; of equals, the first."""
    scores = [each.score for each in hypotheses]
    return [scores.index(max(scores))]


SELECTIONS: Dict[str, Callable[[Sequence[str], Optional[str], Similarity], List[int]]] = {
    "best": best,
    "nbest": nbest,
    "interpolation": interpolation,
    "mbr": minimum_bayes_risk,
}


@dataclass(frozen=True)
class SelectionOptions:
    """How hypotheses are selected."""

    select: str  # a key of SELECTIONS, or score for highest_score
    copies: Optional[int]  # with nbest, hypotheses per sentence at most; None for all
    metric: str  # a key of SCORERS
    remove_bpe: str  # how words are split, as in fairseq-generate
    compare: bool  # whether selected hypotheses are compared with their references


class Sentence(NamedTuple):
    """A sentence of the set, its reference (None if there is none) and its hypotheses."""

    number: int
    source: str
    reference: Optional[str]
    hypotheses: List[Hypothesis]


class Selected(NamedTuple):
    """A selected hypothesis: its rank, and its similarity to the reference, NaN if not computed."""

    rank: int
    similarity: float


def selected(
    sentences: Iterable[Sentence], options: SelectionOptions, workers: int
) -> Iterator[Tuple[Sentence, List[Selected]]]:
    """Yields each sentence with its selected hypotheses; similarities are computed in processes."""
    if options.select in ("best", "nbest", "score") and not options.compare:
        for sentence in sentences:
            yield sentence, select(options, [sentence])[0]
        return
    tasks = (partial(_with_selected, options, chunk) for chunk in in_chunks(sentences, CHUNK))
    yield from itertools.chain.from_iterable(in_processes(tasks, workers))


def _with_selected(
    options: SelectionOptions, chunk: Sequence[Sentence]
) -> List[Tuple[Sentence, List[Selected]]]:
    return list(zip(chunk, select(options, chunk), strict=True))


def select(options: SelectionOptions, chunk: Sequence[Sentence]) -> List[List[Selected]]:
    """The selected hypotheses of each sentence."""
    score = similarity(options.metric)
    ranks_of = SELECTIONS.get(options.select)
    results = []
    for sentence in chunk:
        words = [words_of(each.tokens, options.remove_bpe) for each in sentence.hypotheses]
        reference = sentence.reference and words_of(sentence.reference, options.remove_bpe)
        if ranks_of is None:
            ranks = highest_score(sentence.hypotheses)
        else:
            ranks = ranks_of(words, reference, score)[: options.copies]
        compare = options.compare
        results.append(
            [Selected(i, score(words[i], reference) if compare else float("nan")) for i in ranks]
        )
    return results
