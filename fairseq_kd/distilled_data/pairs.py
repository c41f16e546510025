"""From translations to pairs for the student: selects, filters, counts."""

import itertools
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from fairseq_kd.decoding.hypotheses import Hypothesis, by_sentence
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.decoding.subwords import words_of
from fairseq_kd.distilled_data.filters import FilterBank, Pair
from fairseq_kd.distilled_data.selection import SELECTIONS
from fairseq_kd.distilled_data.similarity import similarity
from fairseq_kd.worker_processes import in_processes

CHUNK = 100  # sentences that a process works on at a time


@dataclass(frozen=True)
class Choice:
    """What to take of the hypotheses.

    Args:
        select: a key of SELECTIONS.
        copies: with nbest, the most hypotheses of a sentence; None for all.
        metric: a key of SCORERS; what similarity means.
        remove_bpe: how fairseq undoes the splitting of words.
        compare: whether the similarity of what is taken to its reference is wanted.
    """

    select: str
    copies: Optional[int]
    metric: str
    remove_bpe: str
    compare: bool


class Sentence(NamedTuple):
    """A sentence of the set with its hypotheses; the reference is None if there is none."""

    number: int
    source: str
    reference: Optional[str]
    hypotheses: List[Hypothesis]


class Taken(NamedTuple):
    """A hypothesis that was selected: its place among them, and its similarity or NaN."""

    place: int
    similarity: float


class Judged(NamedTuple):
    """A selected pair, with its scores and the filter that takes it, if one does."""

    sentence: Sentence
    place: int
    scores: List[float]
    taken_by: Optional[str]


def sentences_of(subset: Subset, hypotheses: Path) -> Iterator[Sentence]:
    """The sentences of a set with what was decoded of them.

    Raises:
        ValueError: as ``by_sentence``; or sentences and hypotheses are not as many.
    """
    words = (subset.source_words.symbols, subset.target_words.symbols)
    number = -1
    for number, found in by_sentence(hypotheses, subset.target_words.indices):
        if number == len(subset):
            break
        source = _text(subset.source[number], words[0])
        target = None if subset.target is None else _text(subset.target[number], words[1])
        yield Sentence(number, source, target, found)
    if number + 1 != len(subset):
        raise ValueError(
            f"{hypotheses} has {'more' if number == len(subset) else number + 1} sentences, but "
            f"{subset.folder} has {len(subset)}: a line lacks its pair. Decode again."
        )


def judged(
    sentences: Iterable[Sentence], choice: Choice, bank: FilterBank, workers: int
) -> Iterator[Judged]:
    """Selects and filters; the scoring of similarities is spread over processes."""
    seen: Counter = Counter()
    keep_seen = "duplicates" in bank.thresholds
    for sentence, taken in _selected(sentences, choice, workers):
        for place, score in taken:
            hypothesis = sentence.hypotheses[place]
            key = hash((sentence.source, hypothesis.tokens))  # the texts would fill the memory
            pair = Pair(
                sentence.source.split(),
                hypothesis.tokens.split(),
                words_of(sentence.source, choice.remove_bpe).split(),
                words_of(hypothesis.tokens, choice.remove_bpe).split(),
                hypothesis.score,
                score,
                seen[key],
            )
            if keep_seen:
                seen[key] += 1
            yield Judged(sentence, place, *bank.judge(pair))


def _selected(
    sentences: Iterable[Sentence], choice: Choice, workers: int
) -> Iterator[Tuple[Sentence, List[Taken]]]:
    if choice.select in ("best", "nbest") and not choice.compare:
        for sentence in sentences:
            yield sentence, take(choice, [sentence])[0]
        return
    rest = iter(sentences)
    chunks = iter(lambda: list(itertools.islice(rest, CHUNK)), [])
    tasks = (partial(_with_taken, choice, chunk) for chunk in chunks)
    yield from itertools.chain.from_iterable(in_processes(tasks, workers))


def _with_taken(choice: Choice, chunk: Sequence[Sentence]) -> List[Tuple[Sentence, List[Taken]]]:
    return list(zip(chunk, take(choice, chunk), strict=True))


def take(choice: Choice, chunk: Sequence[Sentence]) -> List[List[Taken]]:
    """What is selected of each sentence."""
    score = similarity(choice.metric)
    select = SELECTIONS[choice.select]
    taken = []
    for sentence in chunk:
        words = [words_of(each.tokens, choice.remove_bpe) for each in sentence.hypotheses]
        reference = sentence.reference and words_of(sentence.reference, choice.remove_bpe)
        places = select(words, reference, score)[: choice.copies]
        taken.append(
            [
                Taken(i, score(words[i], reference) if choice.compare else float("nan"))
                for i in places
            ]
        )
    return taken


def _text(ids, symbols: Sequence[str]) -> str:
    """Token ids as text, without the end of sentence."""
    return " ".join(symbols[word] for word in ids.tolist()[:-1])
