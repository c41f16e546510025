r"""What a teacher decoded, as text: one line a hypothesis, best first, sentences in input order.

``H-17\t-0.6123\the went up to Jeru@@ salem`` is written as ``fairseq-generate`` writes it: the
sentence's number in the set, log2 of the probability per token (the end of sentence included), and
the tokens as the dictionary has them. A sentence that could not be translated has one line, with
the score -inf and no tokens.
"""

import math
from typing import Iterable, Iterator, List, NamedTuple, Sequence, Tuple


class Hypothesis(NamedTuple):
    """A translation: its tokens, parted by spaces, and its score in bits per token."""

    tokens: str
    score: float


UNTRANSLATED = Hypothesis("", -math.inf)


def lines_of(number: int, hypotheses: Sequence[Hypothesis]) -> str:
    """The lines of one sentence."""
    return "".join(
        f"H-{number}\t{hypothesis.score:.4f}\t{hypothesis.tokens}\n"
        for hypothesis in hypotheses or [UNTRANSLATED]
    )


def number_of(line: bytes) -> int:
    """The number of the sentence that a line belongs to."""
    return int(line[2 : line.index(b"\t")])


def by_sentence(lines: Iterable[str]) -> Iterator[Tuple[int, List[Hypothesis]]]:
    """Sentences with their hypotheses.

    Raises:
        ValueError: a sentence is missing, comes twice or out of order.
    """
    number, found = -1, []
    for line in lines:
        name, score, tokens = line.rstrip("\n").split("\t")
        at = int(name[2:])
        if at != number:
            if at != number + 1:
                raise ValueError(
                    f"Sentence {at} follows sentence {number}, but {number + 1} is due: a line is "
                    "missing, or lines were sorted otherwise. Decode again."
                )
            if found:
                yield number, found
            number, found = at, []
        found.append(Hypothesis(tokens, float(score)))
    if found:
        yield number, found
