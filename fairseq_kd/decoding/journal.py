"""The batches that a shard has decoded so far, in a file that survives a kill at any byte.

After a first line that says whose journal it is, every batch is one record: a line with its
number, its size in bytes and their CRC-32, then that many bytes of text. What is no whole record,
cut off or damaged, is removed, and its batches are decoded again; those after it are kept.
"""

import io
import os
import re
import sys
import zlib
from pathlib import Path
from typing import IO, List, Tuple

from fairseq_kd.whole_files import make_sole, own_file, written_whole

RECORD = re.compile(rb"# batch ([0-9]{1,18}), ([0-9]{1,18}) bytes, crc32 ([0-9a-f]{8})\n")


MOST_DAMAGED = 16  # records; a file with more is not searched any further


class Journal:
    """Opens a journal, which one process at a time may do, and removes what is no whole record.

    Args:
        path: its file, made if there is none.
        title: one line that must be the same in every run that goes on with it.

    Raises:
        ValueError: it has another title.
    """

    def __init__(self, path: Path, title: str):
        self.path = path
        if path.is_file() and not path.is_symlink():
            make_sole(path)
        self._file = self._opened()
        try:
            begin = f"# {title}\n".encode()
            records, size = self._read(begin), os.fstat(self._file.fileno()).st_size
            self.numbers: List[int] = [number for number, *_ in records]
            ends = [len(begin) if size else 0, *(end for *_, end in records)]
            if any(start != end for (_, start, _), end in zip(records, ends, strict=False)):
                self._remove_damage(begin, records)
            else:
                self._file.truncate(ends[-1])  # what a kill cut off
            if not self._file.seek(0, 2):
                self._write(begin)
        except BaseException:
            self.close()
            raise

    def _opened(self) -> io.FileIO:
        return io.FileIO(self.path, "ab", opener=own_file)

    def _read(self, begin: bytes) -> List[Tuple[int, int, int]]:
        """The numbers of the whole records, with the bytes at which they begin and end."""
        with self.path.open("rb") as file:
            first = file.readline()
            if begin.startswith(first) and first != begin:  # new, or killed within the first line
                self._file.truncate(0)
                return []
            records = self._whole_records(file)
        if first != begin:
            raise ValueError(
                f"{self.path} belongs to another decoding, or is damaged: its first line must be "
                f"{begin.decode()[:-1]!r}, but is {first.decode(errors='replace')[:-1]!r:.99}. "
                "Remove it, or choose another --out. If the file is of this decoding, correct that "
                f"line, and its {len(records):,} batches are kept."
            )
        return records

    def _whole_records(self, file: IO[bytes]) -> List[Tuple[int, int, int]]:
        records, known, damaged = [], set(), 0
        at, size = file.tell(), os.fstat(file.fileno()).st_size
        while damaged < MOST_DAMAGED and (line := file.readline()):
            head, start, at = RECORD.fullmatch(line), at, at + len(line)
            if head is None:
                continue
            number, text_bytes = int(head[1]), int(head[2])
            text = file.read(text_bytes) if text_bytes <= size - at else b""
            if len(text) < text_bytes or zlib.crc32(text) != int(head[3], 16) or number in known:
                damaged += 1
                file.seek(at)
                continue
            at += text_bytes
            known.add(number)
            records.append((number, start, at))
        return records

    def _remove_damage(self, begin: bytes, records: List[Tuple[int, int, int]]) -> None:
        """Writes the file anew with its whole records alone."""
        with self.path.open("rb") as old, written_whole(self.path, "wb") as file:
            file.write(begin)
            for _, start, end in records:
                old.seek(start)
                file.write(old.read(end - start))
        self._file.close()
        self._file = self._opened()
        print(
            f"{self.path} was damaged: {len(records):,} of its batches are whole and kept, the "
            "others are decoded again",
            file=sys.stderr,
        )

    @property
    def batches(self) -> int:
        """How many are whole."""
        return len(self.numbers)

    def append(self, number: int, text: str) -> None:
        """Adds a batch, or, if the disk has no room for all of it, nothing."""
        data = text.encode()
        self._write(
            b"# batch %d, %d bytes, crc32 %08x\n" % (number, len(data), zlib.crc32(data)), data
        )
        self.numbers.append(number)

    def _write(self, *parts: bytes) -> None:
        start = self._file.seek(0, 2)
        left = memoryview(b"".join(parts))
        try:
            while left:  # a nearly full disk takes a part
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(start)
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
