"""The journal of a shard: the batches decoded so far, in a file that stays valid after any kill.

After a first line with the shard and the decoding, every batch is one record: a line with its
number, its size in bytes and their CRC-32, then that many bytes of text, of which no line looks
like the first one of a record. Damaged and incomplete records are removed, and their batches
decoded again; whole records after them are kept. A file without a whole record is moved aside.
"""

import io
import os
import re
import sys
import zlib
from pathlib import Path
from typing import IO, Callable, List, Tuple

from fairseq_kd.files.atomic_files import atomic_write, make_sole, moved_aside, own_file

RECORD = re.compile(rb"# batch ([0-9]{1,18}), ([0-9]{1,18}) bytes, crc32 ([0-9a-f]{8})\n")
IsBatch = Callable[[int, bytes], bool]
LONGEST = 64  # bytes of the first line of a record


class Journal:
    """Opens a journal and removes incomplete records. Only one process may have it open.

    Args:
        path: of the file, which is made if it does not exist.
        title: the first line, which must be the same in every run that continues.
        is_batch: whether a text can be that of the batch of a number.

    Raises:
        ValueError: the file has another title.
    """

    def __init__(self, path: Path, title: str, is_batch: IsBatch = lambda *_: True):
        self.path, self._is_batch = path, is_batch
        if path.is_file() and not path.is_symlink():
            make_sole(path)
        self._file = self._opened()
        try:
            begin = f"# {title}\n".encode()
            records, size = self._read(begin), os.fstat(self._file.fileno()).st_size
            self.numbers: List[int] = [number for number, *_ in records]
            ends = [len(begin) if size else 0, *(end for *_, end in records)]
            starts = [start for _, start, _ in records]
            if starts == ends[:-1] and (size == ends[-1] or self._is_cut_off(ends[-1])):
                self._file.truncate(ends[-1])
            else:
                self._remove_damage(begin, records)
            if not self._file.seek(0, 2):
                self._write(begin)
        except BaseException:
            self.close()
            raise

    def _opened(self) -> io.FileIO:
        return io.FileIO(self.path, "ab", opener=own_file)

    def _read(self, begin: bytes) -> List[Tuple[int, int, int]]:
        """The number of each whole record, with the byte offsets of its start and end."""
        with self.path.open("rb") as file:
            first = file.readline()
            if begin.startswith(first) and first != begin:  # new, or killed within the first line
                self._file.truncate(0)
                return []
            records = self._whole_records(file)
        if first != begin:
            raise ValueError(
                f"{self.path} belongs to another decoding, or is damaged: its first line must be "
                f"{begin.decode()[:-1]!r}, but is {first.decode(errors='replace')[:-1]!r:.99}. If "
                f"it belongs to this decoding, correct that line to keep its {len(records):,} "
                "batches; otherwise choose another --out."
            )
        return records

    def _whole_records(self, file: IO[bytes]) -> List[Tuple[int, int, int]]:
        records, known, at = [], set(), file.tell()
        while line := file.readline():
            start, at = at, at + len(line)
            head = RECORD.fullmatch(line)
            if head is None:
                continue
            number, text_bytes = int(head[1]), int(head[2])
            text = _text(file, text_bytes)
            whole = len(text) >= text_bytes and zlib.crc32(text[:text_bytes]) == int(head[3], 16)
            if whole and number not in known and self._is_batch(number, text[:text_bytes]):
                at += text_bytes
                known.add(number)
                records.append((number, start, at))
            else:
                at += len(text)
            file.seek(at)
        return records

    def _is_cut_off(self, start: int) -> bool:
        """Whether only the beginning of one record follows, as after a kill."""
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.readline()
            head = RECORD.fullmatch(line)
            if head is None:
                return len(line) < LONGEST and not line.endswith(b"\n")
            text = _text(file, int(head[2]))
            return len(text) < int(head[2]) and file.tell() == start + len(line) + len(text)

    def _remove_damage(self, begin: bytes, records: List[Tuple[int, int, int]]) -> None:
        """Rewrites the file with the complete records only."""
        if not records:
            aside = moved_aside(self.path)
            consequence = (
                f"all of its batches are damaged and are decoded again; it is kept as {aside}"
            )
        else:
            consequence = (
                f"{len(records):,} of its batches are undamaged and kept, the others are decoded "
                "again"
            )
            with self.path.open("rb") as old, atomic_write(self.path, "wb") as file:
                file.write(begin)
                for _, start, end in records:
                    old.seek(start)
                    file.write(old.read(end - start))
        self._file.close()
        self._file = self._opened()
        print(f"{self.path} was damaged: {consequence}", file=sys.stderr)

    def append(self, number: int, text: str) -> None:
        """Adds a batch; if the disk is full, the file is unchanged."""
        data = text.encode()
        self._write(
            b"# batch %d, %d bytes, crc32 %08x\n" % (number, len(data), zlib.crc32(data)), data
        )
        self.numbers.append(number)

    def _write(self, *parts: bytes) -> None:
        start = self._file.seek(0, 2)
        left = memoryview(b"".join(parts))
        try:
            while left:  # a nearly full disk writes a part
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(start)
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _text(file: IO[bytes], size: int) -> bytes:
    """The lines up to a size, but none from the next record on; the last may go beyond it."""
    lines, read = [], 0
    while read < size and (line := file.readline()) and not RECORD.fullmatch(line):
        lines.append(line)
        read += len(line)
    return b"".join(lines)
