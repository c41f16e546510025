r"""Files of hypotheses: their lines, the file of each shard, and the merging of shards.

A line is written as ``fairseq-generate`` writes it, ``H-17\t-0.6123\the went up to Jeru@@ salem``:
the sentence's number in the set, log2 of the probability per token (the end of sentence included),
and the tokens of the dictionary. Sentences are in the order of the set, the hypotheses of each best
first. A sentence that could not be translated has one line with the score -inf and no tokens.

The last line of a file has the shard, the id of the decoding, the number of sentences, and the
SHA-256 of the lines before it. The file of shard 1 of 1 is that of the whole set.
"""

import hashlib
import heapq
import math
import mmap
import re
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import Container, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_kd.files.atomic_files import atomic_write, check_no_link
from fairseq_kd.shard import MOST, Shard

WHOLE = "hypotheses.txt"
LINE = re.compile(r"H-([0-9]{1,18})\t(-?(?:\d+\.\d+|inf)|nan)\t([^\t]*)")
LAST_LINE = re.compile(
    r"# shard ([0-9]{1,18})/([0-9]{1,18}) of decoding ([0-9a-f]+): ([0-9]{1,18}) sentences, "
    r"sha256 ([0-9a-f]{64})\n"
)
PART = re.compile(r"hypotheses-([0-9]{1,18})-of-([0-9]{1,18})\.txt")
AGAIN = "Decode again."
SHARD_AGAIN = "Remove it and run that shard again."


class Hypothesis(NamedTuple):
    """A translation."""

    tokens: str  # separated by spaces
    score: float  # log2 of the probability per token


UNTRANSLATED = Hypothesis("", -math.inf)


def lines_of(number: int, hypotheses: Sequence[Hypothesis]) -> str:
    """The lines of one sentence."""
    return "".join(
        f"H-{number}\t{hypothesis.score:.4f}\t{hypothesis.tokens}\n"
        for hypothesis in hypotheses or [UNTRANSLATED]
    )


def number_of(line: bytes) -> int:
    """The number of the sentence of a line."""
    return int(line[2 : line.index(b"\t", 2, 21)])  # of 18 digits at most


def by_sentence(
    path: Path, vocabulary: Optional[Container[str]] = None
) -> Iterator[Tuple[int, List[Hypothesis]]]:
    """Yields the number and the hypotheses of each sentence of a file.

    Args:
        path: a file of hypotheses.
        vocabulary: the tokens that are allowed; None for any.

    Raises:
        ValueError: naming file and line: a sentence is missing, duplicate or out of order, or a
            line is not a hypothesis or has another token.
    """
    number, hypotheses = -1, []
    for place, line in _lines(path):
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{place} is not a hypothesis: {line[:40]!r}. {AGAIN}")
        at = int(match[1])
        if at != number:
            if at != number + 1:
                raise ValueError(
                    f"{place}: sentence {at} follows sentence {number}, but {number + 1} is "
                    f"expected: a line is missing, or the lines were sorted differently. {AGAIN}"
                )
            if hypotheses:
                yield number, hypotheses
            number, hypotheses = at, []
        for token in match[3].split() if vocabulary is not None else ():
            if token not in vocabulary:
                raise ValueError(f'{place} holds "{token}", which the dictionary lacks. {AGAIN}')
        hypotheses.append(Hypothesis(match[3], float(match[2])))
    if hypotheses:
        yield number, hypotheses


def _lines(path: Path) -> Iterator[Tuple[str, str]]:
    """The lines of hypotheses, each with its name for errors."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.startswith(b"#"):
                continue
            place = f"{path}, line {number},"
            try:
                yield place, line.decode().rstrip("\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{place} is not UTF-8. {AGAIN}") from error


def shard_file(shard: Shard) -> str:
    """The name of the file of a finished shard."""
    if shard.count == 1:
        return WHOLE
    return f"hypotheses-{shard.index:0{len(str(shard.count))}d}-of-{shard.count}.txt"


def write_shard(path: Path, shard: Shard, decoding: str, lines: Iterable[bytes]) -> None:
    """Writes a file of hypotheses atomically.

    Args:
        path: the file.
        shard: whose hypotheses these are.
        decoding: the id of the decoding.
        lines: in order of the sentences.
    """
    digest, sentences, last = hashlib.sha256(), 0, None
    with atomic_write(path) as file:
        for line in lines:
            digest.update(line)
            file.write(line.decode())
            number = number_of(line)
            sentences, last = sentences + (number != last), number
        file.write(
            f"# shard {shard} of decoding {decoding}: {sentences} sentences, "
            f"sha256 {digest.hexdigest()}\n"
        )


def sorted_lines(journal: Path) -> Iterator[bytes]:
    """The lines of hypotheses in a journal, in order of the sentences.

    Only their positions are held in memory, so that a shard may be larger than memory.
    """
    numbers, starts, ends = array("q"), array("q"), array("q")
    with journal.open("rb") as file:
        at = 0
        for line in file:
            if line.startswith(b"H-"):
                try:
                    numbers.append(number_of(line))
                except ValueError as error:
                    message = f"{journal}, byte {at + 1}, is not a hypothesis. {SHARD_AGAIN}"
                    raise ValueError(message) from error
                starts.append(at)
                ends.append(at + len(line))
            at += len(line)
        if not numbers:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for i in np.argsort(np.asarray(numbers), kind="stable"):
                yield content[starts[i] : ends[i]]


def check_shard(path: Path, decoding: str) -> Tuple[Shard, int]:
    """Reads a file of hypotheses to its end, and checks it against its name, hash and decoding.

    Returns:
        The shard and its number of sentences.

    Raises:
        ValueError: it is cut off or changed, or has the name of another shard, or belongs to
            another decoding.
    """
    digest, line = hashlib.sha256(), b""
    with path.open("rb") as file:
        for following in file:
            digest.update(line)
            line = following
    last = LAST_LINE.fullmatch(line.decode(errors="replace"))
    if last is None:
        raise ValueError(f"{path} is cut off: its last line does not name a shard. {SHARD_AGAIN}")
    shard = Shard(int(last[1]), int(last[2]))
    if last[3] != decoding:
        raise ValueError(
            f"{path} belongs to another decoding (teacher, data or options) than its folder. Move "
            "it to the folder where it was decoded, or give this folder the decoding.json from "
            "there."
        )
    if shard_file(shard) != path.name:
        raise ValueError(
            f"{path} holds shard {shard}: files were renamed or swapped. "
            f"Rename it to {shard_file(shard)}."
        )
    if digest.hexdigest() != last[5]:
        raise ValueError(
            f"{path} was changed after it was written: its hash differs. {SHARD_AGAIN}"
        )
    return shard, int(last[4])


def shard_files(folder: Path) -> List[Path]:
    """The files of finished shards in a folder; files of similar names belong to the user."""
    return sorted(
        path for path in folder.glob("hypotheses-*-of-*.txt") if 1 <= _count(path) <= MOST
    )


def _count(path: Path) -> int:
    """The number of shards in the name of a shard's file; 0 for other names."""
    match = PART.fullmatch(path.name)
    return int(match[2]) if match else 0


def check_cut(folder: Path, shard: Shard) -> None:
    """Refuses a shard if the finished shards have another number of shards.

    Raises:
        ValueError: they overlap.
    """
    for path in shard_files(folder):
        if _count(path) != shard.count:
            raise ValueError(
                f"{path} is one of {_count(path)} shards and overlaps shard {shard}. Decode that "
                "many shards, or remove those files."
            )


def missing_shards(folder: Path) -> List[Shard]:
    """The shards that are not finished, of the number of shards in the names of the finished ones.

    Raises:
        ValueError: the finished ones are of different numbers of shards.
    """
    counts = set(map(_count, shard_files(folder)))
    if len(counts) > 1:
        numbers = " and ".join(str(count) for count in sorted(counts))
        raise ValueError(
            f"{folder} holds files of {numbers} shards, which overlap. Remove those of one number."
        )
    shards = [Shard(i + 1, count) for count in counts for i in range(count)]
    return [shard for shard in shards if not (folder / shard_file(shard)).is_file()]


def merge(folder: Path, decoding: str, sentences: int) -> None:
    """Joins the shard files into the file that a run without shards writes; removes them.

    Raises:
        FileNotFoundError: there are none, or one is missing.
        ValueError: one is damaged or a link, or a sentence is in none or in two of them.
    """
    files, missing = shard_files(folder), missing_shards(folder)
    if not files:
        raise FileNotFoundError(f"{folder} holds no finished shard. Run translate --shard first.")
    if missing:
        first = ", ".join(str(shard) for shard in missing[:8])
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {missing[0].count} shards: {first}. Run translate "
            "with --shard for each of them."
        )
    for path in (*files, folder / WHOLE):
        check_no_link(path)
    for path in files:
        check_shard(path, decoding)
    with ExitStack() as stack:
        parts = [_numbered(stack.enter_context(path.open("rb")), path) for path in files]
        lines = _each_once(heapq.merge(*parts), sentences)
        write_shard(folder / WHOLE, Shard(), decoding, lines)
    for path in files:
        path.unlink()


def _numbered(lines: Iterable[bytes], path: Path) -> Iterator[Tuple[int, str, int, bytes]]:
    """Lines of hypotheses with their sort key: sentence, file, line of the file."""
    for place, line in enumerate(lines):
        if not line.startswith(b"#"):
            try:
                line.decode()
                yield number_of(line), path.name, place, line
            except ValueError as error:  # of its number, or bytes that are not UTF-8
                raise ValueError(
                    f"{path}, line {place + 1}, is not a hypothesis. {SHARD_AGAIN}"
                ) from error


def _each_once(lines: Iterable[Tuple[int, str, int, bytes]], sentences: int) -> Iterator[bytes]:
    """The lines alone.

    Raises:
        ValueError: a sentence is missing, or comes from two files.
    """
    last, origin = -1, ""
    for number, name, _, line in lines:
        if number > last + 1:
            break
        if number == last and name != origin:
            raise ValueError(f"Sentence {number} is in both {origin} and {name}. {SHARD_AGAIN}")
        last, origin = number, name
        yield line
    if last + 1 != sentences:
        raise ValueError(
            f"Sentence {last + 1} of {sentences} is in no shard. Decode again into another --out."
        )
