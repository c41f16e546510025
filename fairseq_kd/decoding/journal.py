"""The journal of a shard: the batches decoded so far, in a file that stays valid after any kill.

After a first line with the shard and the decoding, every batch is one record: a line with its
number, its size in bytes and their CRC-32, then that many bytes of text. Damaged and incomplete
records are removed, and their batches decoded again; whole records after them are kept.
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
MOST_DAMAGED = 16  # records; the rest of a file with more is not searched


class Journal:
    """Opens a journal and removes incomplete records. Only one process may have it open.

    Args:
        path: of the file, which is made if it does not exist.
        title: the first line, which must be the same in every run that continues.

    Raises:
        ValueError: the file has another title.
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
                self._file.truncate(ends[-1])  # cut off by a kill
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
        """Rewrites the file with the whole records only."""
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
        """The number of batches."""
        return len(self.numbers)

    def append(self, number: int, text: str) -> None:
        """Adds a batch; if the disk is full, the file stays as it was."""
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
