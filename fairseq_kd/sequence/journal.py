"""The batches that a shard has decoded so far, in a file that survives a kill at any byte.

After a first line that tells whose journal it is, every batch is one record: a line with its
number, its size in bytes and their CRC-32, then that many bytes of text. A record that was cut off
or damaged ends what is kept: it and all after it are decoded again.
"""

import io
import os
import re
import zlib
from pathlib import Path

from fairseq_kd.whole_files import own_file

RECORD = re.compile(rb"# batch ([0-9]{1,18}), ([0-9]{1,18}) bytes, crc32 ([0-9a-f]{8})\n")


class Journal:
    """Opens a journal, which one process at a time may do, and drops a record that was cut off.

    Args:
        path: its file, made if there is none.
        title: one line that must be the same in every run that goes on with it.

    Raises:
        ValueError: it has another title.
    """

    def __init__(self, path: Path, title: str):
        self.path = path
        self._file = io.FileIO(path, "ab", opener=own_file)
        self.batches, end = self._whole_records(f"# {title}\n".encode())
        self._file.truncate(end)
        if end == 0:
            self._write(f"# {title}\n".encode())

    def _whole_records(self, title: bytes) -> "tuple[int, int]":
        """How many records are whole, and the byte at which the last of them ends."""
        with self.path.open("rb") as file:
            first = file.readline()
            if not first.endswith(b"\n"):  # new, or killed within the first line
                return 0, 0
            if first != title:
                self.close()
                raise ValueError(
                    f"{self.path} belongs to another decoding. Remove it, or choose another --out."
                )
            count, end, size = 0, len(first), os.fstat(file.fileno()).st_size
            while head := RECORD.fullmatch(line := file.readline()):
                if int(head[2]) > size - file.tell():
                    break
                text = file.read(int(head[2]))
                if len(text) < int(head[2]) or zlib.crc32(text) != int(head[3], 16):
                    break
                count, end = count + 1, end + len(line) + len(text)
        return count, end

    def append(self, number: int, text: str) -> None:
        """Adds a batch, or, if the disk has no room for all of it, nothing."""
        data = text.encode()
        self._write(
            b"# batch %d, %d bytes, crc32 %08x\n" % (number, len(data), zlib.crc32(data)), data
        )
        self.batches += 1

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
