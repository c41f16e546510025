"""What became of the pairs: counts, the share of unknown words, and a few pairs for the eye."""

from typing import Any, Dict, List, Sequence, Tuple

from fairseq_kd.distilled_data.filters import FILTERS, FilterBank
from fairseq_kd.distilled_data.pairs import Judged

EXAMPLES = 5
MANY_UNKNOWN = 0.01


class Tally:
    """Counts pairs as they are written.

    Args:
        sentences: of the set; the examples are spread over them.
        unknown: the ids of the unknown word, of the source and of the target dictionary.
    """

    def __init__(self, sentences: int, unknown: Tuple[int, int]):
        self.sentences, self.unknown = sentences, unknown
        self.selected = self.kept = 0
        self.tokens, self.unknown_tokens = [0, 0], [0, 0]
        self.examples: List[Judged] = []

    def add(self, judged: Judged) -> None:
        """Counts a selected pair."""
        self.selected += 1
        self.kept += judged.taken_by is None

    def keep(self, judged: Judged, sides: Sequence[Sequence[int]]) -> None:
        """Counts the tokens of a pair that is kept."""
        for i, ids in enumerate(sides):
            self.tokens[i] += len(ids)
            self.unknown_tokens[i] += list(ids).count(self.unknown[i])
        if judged.sentence.number >= len(self.examples) * self.sentences // EXAMPLES:
            self.examples.append(judged)

    def report(self, bank: FilterBank) -> Dict[str, Any]:
        """The counts for the manifest."""
        shares = [self.unknown_tokens[i] / max(1, self.tokens[i]) for i in (0, 1)]
        return {
            "counts": {
                "sentences": self.sentences,
                "selected": self.selected,
                "taken_by": bank.took,
                "taken_by_this_filter_alone_too": bank.would_take,
                "kept": self.kept,
            },
            "unknown_share": {"source": shares[0], "target": shares[1]},
        }

    def text(self, bank: FilterBank) -> str:
        """The counts and the examples for a terminal."""
        lines = [f"{self.selected:,} pairs of {self.sentences:,} sentences were selected"]
        for each in FILTERS:
            if each.name in bank.thresholds:
                lines.append(
                    f"  {each.flag} {bank.thresholds[each.name]:g} took {bank.took[each.name]:,}"
                    f" (alone {bank.would_take[each.name]:,})"
                )
        lines.append(f"{self.kept:,} are kept")
        for i, side in enumerate(("source", "target")):
            share = self.unknown_tokens[i] / max(1, self.tokens[i])
            warning = ": is this the right dictionary?" if share > MANY_UNKNOWN else ""
            lines.append(f"unknown words in the {side}: {share:.2%} of tokens{warning}")
        for judged in self.examples:
            sentence = judged.sentence
            lines += [f"[{sentence.number}] {sentence.source}"]
            if sentence.reference is not None:
                lines += [f"    reference  {sentence.reference}"]
            lines += [f"    distilled  {sentence.hypotheses[judged.place].tokens}"]
        return "\n".join(lines)
