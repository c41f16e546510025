"""Files that appear whole or not at all, and what is said when the disk is full."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Iterator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written_whole(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file that takes its name only when the block ends without an error.

    Args:
        path: the name.
        mode: ``w`` for text, ``wb`` for bytes.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with beside.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    beside.replace(path)


@contextmanager
def full_disk_explained(folder: Path, kept: str) -> Iterator[None]:
    """Says in one sentence that a write failed for want of space.

    Args:
        folder: where is written.
        kept: what is not lost, as the end of "The disk of FOLDER is full; ...".

    Raises:
        OSError: instead of the one that the operating system gave.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            f"The disk of {folder} is full; {kept}. Free some space and run the same command again."
        ) from error
