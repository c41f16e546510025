"""Checks the zip format of checkpoints: every record is listed once and lies in the file."""

import os
import struct
import zipfile
from pathlib import Path
from typing import IO, Optional

from fairseq_kd.checkpoints.pickles import AGAIN

# The ends of a zip file: its last record; before it, in a large file and in all of torch's, one
# with the position of a longer one, and before that the longer one.
END, LOCATOR, LONG_END = (struct.Struct(f"<4s{rest}") for rest in ("4H2LH", "LQL", "Q2H2L4Q"))
NEVER = "which torch never does. Give a file that fairseq-train wrote."


def fault_of_records(path: Path, size: int) -> Optional[str]:
    """The fault of the records of a zip file of some size in bytes.

    Returns:
        The rest of a sentence about the file; None if all is well, or the file is so damaged that
        torch refuses it.
    """
    try:
        with path.open("rb") as file:
            if not _has_one_directory(file):
                return f"is not a fairseq checkpoint: its records are listed in two places, {NEVER}"
        with zipfile.ZipFile(path) as file:
            records = file.infolist()
            packed = [each.filename for each in records if each.compress_type != zipfile.ZIP_STORED]
            if packed or sum(each.file_size for each in records) > size:  # more than the file has
                what = f"its record {packed[0]} is compressed" if packed else "its records overlap"
                return f"is not a fairseq checkpoint: {what}, {NEVER}"
            damaged = file.testzip()
    except OSError:
        raise
    except Exception:  # a damaged directory of records can raise anything
        return None
    if damaged is None:
        return None
    return f"is damaged: the checksum of {damaged} in it is wrong. {AGAIN}"


def _has_one_directory(file: IO[bytes]) -> bool:
    """Whether a zip file ends in a directory of its records, and nothing else may be taken for it.

    Python reads the one that stands before the ends of the file, and torch the one whose place they
    name.
    """
    at = file.seek(-END.size, os.SEEK_END)
    mark, *_, length, place, comment = END.unpack(file.read(END.size))
    if mark != b"PK\5\6" or comment:
        return False
    file.seek(max(0, at - LOCATOR.size))
    locator = file.read(LOCATOR.size)
    if locator.startswith(b"PK\6\7"):
        _, _, named, _ = LOCATOR.unpack(locator)
        at -= LOCATOR.size + LONG_END.size
        if named != at:
            return False
        file.seek(at)
        mark, *_, length, place = LONG_END.unpack(file.read(LONG_END.size))
        if mark != b"PK\6\6":
            return False
    return place + length == at
