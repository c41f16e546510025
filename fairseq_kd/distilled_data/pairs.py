"""Pairs for the training set: selected hypotheses with filter scores, and counts of them."""

import math
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor

from fairseq_kd.decoding.hypothesis_files import by_sentence
from fairseq_kd.decoding.subset import Subset, words_of
from fairseq_kd.distilled_data.filters import FILTERS, Pair, PairFilters
from fairseq_kd.distilled_data.selection import SelectionOptions, Sentence, selected
from fairseq_kd.files.names import on_terminal
from fairseq_kd.parallel_text import lines_of

EXAMPLES = 5
MANY_UNKNOWN = 0.01


class ScoredPair(NamedTuple):
    """A selected pair."""

    sentence: Sentence
    rank: int  # of the selected hypothesis
    scores: List[float]  # of the filters, in their order
    removed_by: Optional[str]  # the filter that removes the pair; None if it is kept


def sentences_of(
    subset: Subset, hypotheses: Path, scores: Optional[Path] = None
) -> Iterator[Sentence]:
    """Yields the sentences of a set with their hypotheses.

    Args:
        subset: the set that was translated.
        hypotheses: the file of its hypotheses.
        scores: a file with another score of each hypothesis, in their order.

    Raises:
        ValueError: as ``by_sentence`` and ``scores_of``; or the numbers of sentences differ.
    """
    others = None if scores is None else scores_of(scores)
    symbols = (subset.source_dictionary.symbols, subset.target_dictionary.symbols)
    number = -1
    for number, decoded in by_sentence(hypotheses, subset.target_dictionary.indices):
        if number == len(subset):
            break
        source = _text(subset.source[number], symbols[0])
        target = None if subset.target is None else _text(subset.target[number], symbols[1])
        if others is not None:
            decoded = [each._replace(score=_next(others, scores, hypotheses)) for each in decoded]
        yield Sentence(number, source, target, decoded)
    if number + 1 != len(subset):
        raise ValueError(
            f"{hypotheses} has {'more' if number == len(subset) else number + 1} sentences, but "
            f"{subset.folder} has {len(subset)}. Decode again."
        )
    if others is not None and next(others, None) is not None:
        raise ValueError(_other_number(scores, "more", hypotheses))


def scores_of(path: Path) -> Iterator[float]:
    """Yields the numbers of a file, one per line.

    Raises:
        ValueError: naming the line that is not a finite number.
    """
    for number, line in enumerate(lines_of(str(path)), 1):
        try:
            score = math.nan if "_" in line else float(line)  # Python reads 1_0 as 10
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(f"{path}, line {number} is not a number: {on_terminal(line[:40])!r}.")
        yield score


def _next(scores: Iterator[float], path: Optional[Path], hypotheses: Path) -> float:
    score = next(scores, None)
    if score is None:
        raise ValueError(_other_number(path, "fewer", hypotheses))
    return score


def _other_number(path: Optional[Path], which: str, hypotheses: Path) -> str:
    return (
        f"{path} has {which} lines than {hypotheses} has hypotheses. Score each hypothesis, those "
        "of one sentence after another."
    )


def scored_pairs(
    sentences: Iterable[Sentence], options: SelectionOptions, bank: PairFilters, workers: int
) -> Iterator[ScoredPair]:
    """Yields all selected pairs, scored by the filters."""
    seen: Counter = Counter()
    keep_seen = "duplicates" in bank.thresholds
    for sentence, hypotheses in selected(sentences, options, workers):
        for rank, similarity in hypotheses:
            hypothesis = sentence.hypotheses[rank]
            key = hash((sentence.source, hypothesis.tokens))  # smaller than the texts
            pair = Pair(
                sentence.source.split(),
                hypothesis.tokens.split(),
                words_of(sentence.source, options.remove_bpe).split(),
                words_of(hypothesis.tokens, options.remove_bpe).split(),
                hypothesis.score,
                similarity,
                seen[key],
            )
            if keep_seen:
                seen[key] += 1
            yield ScoredPair(sentence, rank, *bank.apply(pair))


def _text(ids: Tensor, symbols: Sequence[str]) -> str:
    """Token ids as text, without the end of sentence."""
    return " ".join(symbols[token] for token in ids.tolist()[:-1])


class PairCounts:
    """Counts of pairs, the share of unknown tokens, and a few examples.

    Args:
        sentences: of the set; the examples are spread over them.
        unknown: the ids of the unknown token in the source and the target dictionary.
    """

    def __init__(self, sentences: int, unknown: Tuple[int, int]):
        self.sentences, self.unknown = sentences, unknown
        self.selected = self.kept = 0
        self.tokens, self.unknown_tokens = [0, 0], [0, 0]
        self.examples: List[ScoredPair] = []

    def add(self, pair: ScoredPair) -> None:
        """Counts a selected pair."""
        self.selected += 1
        self.kept += pair.removed_by is None

    def keep(self, pair: ScoredPair, sides: Sequence[Sequence[int]]) -> None:
        """Counts the tokens of a pair that is kept."""
        for i, ids in enumerate(sides):
            self.tokens[i] += len(ids)
            self.unknown_tokens[i] += list(ids).count(self.unknown[i])
        if pair.sentence.number >= len(self.examples) * self.sentences // EXAMPLES:
            self.examples.append(pair)

    def unknown_share(self, side: int) -> float:
        """The share of unknown tokens, of the source (0) or the target (1)."""
        return self.unknown_tokens[side] / max(1, self.tokens[side])

    def report(self, bank: PairFilters) -> Dict[str, Any]:
        """The counts for the manifest."""
        return {
            "counts": {
                "sentences": self.sentences,
                "selected": self.selected,
                "removed_by": bank.removed,
                "removed_by_this_filter_alone": bank.removed_alone,
                "kept": self.kept,
            },
            "unknown_share": {"source": self.unknown_share(0), "target": self.unknown_share(1)},
        }

    def text(self, bank: PairFilters) -> str:
        """The counts and the examples for a terminal."""
        lines = [f"{self.selected:,} pairs of {self.sentences:,} sentences were selected"]
        for each in FILTERS:
            if each.name in bank.thresholds:
                lines.append(
                    f"  {each.flag} {bank.thresholds[each.name]:g} removed "
                    f"{bank.removed[each.name]:,} ({bank.removed_alone[each.name]:,} by this "
                    "filter alone)"
                )
        lines.append(f"{self.kept:,} pairs are kept")
        for i, side in enumerate(("source", "target")):
            share = self.unknown_share(i)
            warning = ": is this the right dictionary?" if share > MANY_UNKNOWN else ""
            lines.append(f"unknown tokens in the {side}: {share:.2%}{warning}")
        for pair in self.examples:
            sentence = pair.sentence
            lines += [f"[{sentence.number}] {sentence.source}"]
            if sentence.reference is not None:
                lines += [f"    reference  {sentence.reference}"]
            lines += [f"    distilled  {sentence.hypotheses[pair.rank].tokens}"]
        return on_terminal("\n".join(lines))
