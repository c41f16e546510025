r"""What a teacher decoded, as text: one line a hypothesis, best first, sentences in input order.

``H-17\t-0.6123\the went up to Jeru@@ salem`` is written as ``fairseq-generate`` writes it: the
sentence's number in the set, log2 of the probability per token (the end of sentence included), and
the tokens as the dictionary has them. A sentence that could not be translated has one line, with
the score -inf and no tokens.
"""

import math
import re
from pathlib import Path
from typing import Container, Iterator, List, NamedTuple, Optional, Sequence, Tuple

LINE = re.compile(r"H-([0-9]{1,18})\t(-?(?:\d+\.\d+|inf)|nan)\t([^\t]*)")
AGAIN = "Decode again."


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
    return int(line[2 : line.index(b"\t", 2, 21)])  # of 18 digits at most


def by_sentence(
    path: Path, words: Optional[Container[str]] = None
) -> Iterator[Tuple[int, List[Hypothesis]]]:
    """Sentences with their hypotheses.

    Args:
        path: a file of hypotheses.
        words: the tokens that may stand in it; None if they are not looked at.

    Raises:
        ValueError: a sentence is missing, comes twice or out of order, or a line is no hypothesis
            or holds another token; the file and the line are named.
    """
    number, found = -1, []
    for place, line in _lines(path):
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{place} is no hypothesis: {line[:40]!r}. {AGAIN}")
        at = int(match[1])
        if at != number:
            if at != number + 1:
                raise ValueError(
                    f"{place}: sentence {at} follows sentence {number}, but {number + 1} is due: a "
                    f"line is missing, or lines were sorted otherwise. {AGAIN}"
                )
            if found:
                yield number, found
            number, found = at, []
        for token in match[3].split() if words is not None else ():
            if token not in words:
                raise ValueError(f'{place} holds "{token}", which no dictionary has. {AGAIN}')
        found.append(Hypothesis(match[3], float(match[2])))
    if found:
        yield number, found


def _lines(path: Path) -> Iterator[Tuple[str, str]]:
    """The lines of hypotheses, each with how errors name it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.startswith(b"#"):
                continue
            place = f"{path}, line {number},"
            try:
                yield place, line.decode().rstrip("\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{place} is no UTF-8. {AGAIN}") from error
