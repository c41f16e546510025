"""File formats of translations by other systems.

Each is a function from a file to the translations in it, in any order.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from fairseq_kd.parallel_text import lines_of

MOST_SENTENCES = 10**18
H_LINE = re.compile(r"H-([0-9]{1,18})\t(\S+)\t(.*)")


class Translation(NamedTuple):
    """A translation of a sentence in a file."""

    number: int  # of the sentence in the set, counted from 0
    text: str
    score: float = math.nan  # the higher the better; NaN if there is none
    source: Optional[str] = None  # from the file; None if it has none
    named: bool = True  # whether the line names its sentence; else it is that of its own number


def plain(path: Path) -> Iterator[Translation]:
    """Line N is the translation of sentence N."""
    for number, line in enumerate(lines_of(str(path))):
        yield Translation(number, line, named=False)


def tsv(path: Path) -> Iterator[Translation]:
    r"""Line N is ``SOURCE\tTRANSLATION`` or ``SOURCE\tTRANSLATION\tSCORE`` of sentence N."""
    for number, line in enumerate(lines_of(str(path))):
        cells = line.split("\t")
        if len(cells) not in (2, 3):
            raise _wrong(
                path, number, "must be SOURCE, a tab, TRANSLATION, and perhaps a score", line
            )
        score = _score(path, number, cells[2]) if len(cells) == 3 else math.nan
        yield Translation(number, cells[1], score, cells[0], named=False)


def nbest(path: Path) -> Iterator[Translation]:
    """Lines of Moses: ``N ||| TRANSLATION ||| FEATURES ||| SCORE``; the last two may be missing."""
    for number, line in enumerate(lines_of(str(path))):
        cells = [cell.strip() for cell in line.split("|||")]
        if len(cells) < 2 or not re.fullmatch("[0-9]{1,18}", cells[0]):
            raise _wrong(path, number, "must be N ||| TRANSLATION ||| FEATURES ||| SCORE", line)
        score = _score(path, number, cells[3]) if len(cells) > 3 else math.nan
        yield Translation(int(cells[0]), cells[1], score)


def fairseq(path: Path) -> Iterator[Translation]:
    """The H lines of ``fairseq-generate`` or of ``fairseq-kd translate``; others are left out."""
    for number, line in enumerate(lines_of(str(path))):
        match = H_LINE.fullmatch(line)
        if match:
            yield Translation(int(match[1]), match[3], _score(path, number, match[2]))


def jsonl(path: Path) -> Iterator[Translation]:
    """An object a line, with ``translation`` or ``translations``, and perhaps ``score`` and ``id``.

    ``translations`` is a list of texts, or of objects with ``translation`` and ``score``. Without
    ``id``, line N is of sentence N.
    """
    for number, line in enumerate(lines_of(str(path))):
        try:
            found = list(_translations_of(json.loads(line, object_pairs_hook=_unambiguous), number))
        except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
            rule = 'must be an object such as {"id": 0, "translation": "...", "score": -0.5}'
            raise _wrong(path, number, rule, line) from error
        yield from found


def _unambiguous(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """An object of JSON in which no key is repeated."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _translations_of(content: Any, number: int) -> Iterator[Translation]:
    """The translations of an object of JSON, which may be of any shape.

    Raises:
        ArithmeticError, KeyError, TypeError, ValueError: it is of another shape.
    """
    at, named = {"id": number, **content}["id"], "id" in content
    single = "translation" in content
    several = [content] if single else content["translations"]
    if type(at) is not int or not 0 <= at < MOST_SENTENCES or not isinstance(several, list):
        raise TypeError
    if single and "translations" in content:
        raise KeyError
    for each in several:
        each = {"translation": each} if isinstance(each, str) else dict(each)
        score = each.get("score", math.nan)
        if not isinstance(each["translation"], str) or type(score) not in (int, float):
            raise TypeError
        if math.isinf(score) or ("id" in each and not single):
            raise ValueError
        yield Translation(at, each["translation"], float(score), named=named)
    if not several:
        yield Translation(at, "", named=named)


FORMATS: Dict[str, Callable[[Path], Iterator[Translation]]] = {
    "plain": plain,
    "tsv": tsv,
    "nbest": nbest,
    "jsonl": jsonl,
    "fairseq": fairseq,
}


def _score(path: Path, number: int, text: str) -> float:
    try:
        score = math.inf if "_" in text else float(text)  # Python reads 1_0 as 10
    except ValueError:
        score = math.inf
    if score == math.inf:
        raise _wrong(path, number, "must have a number as score", text)
    return score


def _wrong(path: Path, number: int, rule: str, found: str) -> ValueError:
    return ValueError(f"--hypotheses {path}, line {number + 1}, {rule}, but is {found!r:.80}.")
