"""The file of a finished shard, and how the files of all shards become one.

A file of hypotheses ends with a line that tells which shard of which decoding it is, how many
sentences it has, and the SHA-256 of the lines before it. The file of shard 1 of 1 is that of all.
"""

import hashlib
import heapq
import mmap
import re
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import Iterable, Iterator, List, Tuple

import numpy as np

from fairseq_kd.decoding.hypotheses import number_of
from fairseq_kd.shard import MOST, Shard
from fairseq_kd.whole_files import written_whole

WHOLE = "hypotheses.txt"
LAST_LINE = re.compile(
    r"# shard ([0-9]{1,18})/([0-9]{1,18}) of decoding ([0-9a-f]+): ([0-9]{1,18}) sentences, "
    r"sha256 ([0-9a-f]{64})\n"
)
PART = re.compile(r"hypotheses-([0-9]{1,18})-of-([0-9]{1,18})\.txt")
AGAIN = "Remove it and run that shard again."


def shard_file(shard: Shard) -> str:
    """The name of the file of what a shard decoded."""
    if shard.count == 1:
        return WHOLE
    return f"hypotheses-{shard.index:0{len(str(shard.count))}d}-of-{shard.count}.txt"


def write_shard(path: Path, shard: Shard, decoding: str, lines: Iterable[bytes]) -> None:
    """Writes a file of hypotheses, whole or not at all.

    Args:
        path: the file.
        shard: what it is.
        decoding: the plan's id.
        lines: in order of the sentences.
    """
    digest, sentences, last = hashlib.sha256(), 0, None
    with written_whole(path) as file:
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

    Only their places are held in memory, so that a shard may be larger than it.
    """
    numbers, starts, ends = array("q"), array("q"), array("q")
    with journal.open("rb") as file:
        at = 0
        for line in file:
            if line.startswith(b"H-"):
                try:
                    numbers.append(number_of(line))
                except ValueError as error:
                    told = f"{journal}, byte {at + 1}, is no hypothesis. {AGAIN}"
                    raise ValueError(told) from error
                starts.append(at)
                ends.append(at + len(line))
            at += len(line)
        if not numbers:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for i in np.argsort(np.asarray(numbers), kind="stable"):
                yield content[starts[i] : ends[i]]


def check_shard(path: Path, decoding: str) -> Tuple[Shard, int]:
    """Reads a file of hypotheses to its end, and makes sure that it is what its name says.

    Returns:
        The shard and its number of sentences.

    Raises:
        ValueError: it is cut off, was changed, has another shard's name, or belongs to another
            decoding.
    """
    digest, line = hashlib.sha256(), b""
    with path.open("rb") as file:
        for following in file:
            digest.update(line)
            line = following
    told = LAST_LINE.fullmatch(line.decode(errors="replace"))
    if told is None:
        raise ValueError(f"{path} is cut off: its last line does not tell what it holds. {AGAIN}")
    shard = Shard(int(told[1]), int(told[2]))
    if told[3] != decoding:
        raise ValueError(
            f"{path} belongs to another decoding (teacher, data or options) than its folder. Move "
            "it to the folder where it was decoded, or give this folder the decoding.json from "
            "there."
        )
    if shard_file(shard) != path.name:
        raise ValueError(
            f"{path} holds shard {shard}: files were renamed or swapped. "
            f"Give it its name back, {shard_file(shard)}."
        )
    if digest.hexdigest() != told[5]:
        raise ValueError(f"{path} was changed after it was written: its hash is another. {AGAIN}")
    return shard, int(told[4])


def shard_files(folder: Path) -> List[Path]:
    """The files of finished shards in a folder; others of a similar name are the user's."""
    return sorted(
        path for path in folder.glob("hypotheses-*-of-*.txt") if 1 <= _count(path) <= MOST
    )


def _count(path: Path) -> int:
    """Of how many shards a file is one, by its name; 0 if it has not the name of a shard."""
    named = PART.fullmatch(path.name)
    return int(named[2]) if named else 0


def check_cut(folder: Path, shard: Shard) -> None:
    """Refuses a shard beside finished ones that were cut otherwise.

    Raises:
        ValueError: they overlap.
    """
    for path in shard_files(folder):
        if _count(path) != shard.count:
            raise ValueError(
                f"{path} is a shard of another cut, which shard {shard} overlaps. Go on with that "
                "cut, or remove its files."
            )


def missing_shards(folder: Path) -> List[Shard]:
    """The shards that are not finished, of as many as the names of the finished ones tell.

    Raises:
        ValueError: they were cut into different numbers of shards.
    """
    counts = set(map(_count, shard_files(folder)))
    if len(counts) > 1:
        told = " and ".join(str(count) for count in sorted(counts))
        raise ValueError(
            f"{folder} holds files of {told} shards, which overlap. Remove those of one cut."
        )
    shards = [Shard(i + 1, count) for count in counts for i in range(count)]
    return [shard for shard in shards if not (folder / shard_file(shard)).is_file()]


def merge(folder: Path, decoding: str, sentences: int) -> None:
    """Joins the files of all shards to the one that an undivided run writes, and removes them.

    Raises:
        FileNotFoundError: there is none, or one is missing.
        ValueError: one is damaged, or a sentence is in none or in two of them.
    """
    files, missing = shard_files(folder), missing_shards(folder)
    if not files:
        raise FileNotFoundError(f"{folder} holds no finished shard. Run translate --shard first.")
    if missing:
        told = ", ".join(str(shard) for shard in missing[:8])
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {missing[0].count} shards: {told}. Run translate "
            "with --shard for each of them."
        )
    for path in files:
        check_shard(path, decoding)
    with ExitStack() as stack:
        parts = [_numbered(stack.enter_context(path.open("rb")), path) for path in files]
        lines = _each_once(heapq.merge(*parts), sentences)
        write_shard(folder / WHOLE, Shard(), decoding, lines)
    for path in files:
        path.unlink()


def _numbered(lines: Iterable[bytes], path: Path) -> Iterator[Tuple[int, str, int, bytes]]:
    """Hypotheses with what orders them: sentence, file and place in it."""
    for place, line in enumerate(lines):
        if not line.startswith(b"#"):
            try:
                yield number_of(line), path.name, place, line
            except ValueError as error:
                raise ValueError(f"{path}, line {place + 1}, is no hypothesis. {AGAIN}") from error


def _each_once(lines: Iterable[Tuple[int, str, int, bytes]], sentences: int) -> Iterator[bytes]:
    """The lines alone, while every sentence comes in its turn and from one file."""
    last, origin = -1, ""
    for number, name, _, line in lines:
        if number > last + 1:
            break
        if number == last and name != origin:
            raise ValueError(f"Sentence {number} is in both {origin} and {name}. {AGAIN}")
        last, origin = number, name
        yield line
    if last + 1 != sentences:
        raise ValueError(
            f"Sentence {last + 1} of {sentences} is in no shard. Decode again into another --out."
        )
