"""Temporary folders that are removed after a block, or after a kill by the next use."""

import fcntl
import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Optional

BEGIN = "fairseq_kd-temporary-"
RANDOM = r"[a-z0-9_]{8}"  # with which tempfile ends a name


@contextmanager
def temporary_folder(
    parent: Optional[Path] = None, begin: str = BEGIN, kind: str = BEGIN
) -> Iterator[Path]:
    """Makes a folder that is removed after the block, unless that has moved it elsewhere.

    It is locked in the meantime. Unlocked folders of the same kind were left by killed processes,
    and are removed.

    Args:
        parent: the folder that it is made in; None for the system's folder of temporary files.
        begin: of its name.
        kind: a regular expression of the beginnings of all names of this kind.

    Raises:
        OSError: it cannot be made.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    names = re.compile(kind + RANDOM)
    for left in filter(names.fullmatch, os.listdir(parent)):
        _remove_if_left(parent / left)
    folder, lock = _locked_folder(parent, begin)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(parent: Path, begin: str) -> "tuple[Path, int]":
    """A new folder and the descriptor of its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=begin, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # removed by another process before it was locked
        with suppress(OSError):  # a file system without locks, where nothing is removed
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder, lock
        os.close(lock)


def _remove_if_left(folder: Path) -> None:
    """Removes a temporary folder unless a process has it locked."""
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
