"""Locks: one process at a time works on a run, a training or another output."""

import datetime
import fcntl
import json
import os
import socket
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, NamedTuple, Optional

from fairseq_kd.child_process import end_started_by, new_token, running
from fairseq_kd.files.atomic_files import make_folder, own_file
from fairseq_kd.files.write_errors import writing

PATIENCE_SECONDS = 20.0  # for the children of a killed process to end
HOLDER_CHARACTERS = 10_000  # more than the holder writes into a lock
BEGIN = '{"pid": '  # of the text in a lock


class Lock(NamedTuple):
    """A lock that is held.

    Args:
        descriptor: processes that inherit it also hold the lock.
        token: identifies processes that the holder starts (see ``child_process.child``).
    """

    descriptor: int
    token: str


@contextmanager
def locked(
    path: Path, what: str, written: Optional[Path] = None, finished: bool = False
) -> Iterator[Lock]:
    """Holds a lock; first ends remaining processes of a killed earlier holder, or waits for them.

    Args:
        path: of the lock, which is removed afterwards. Its folder is created if necessary.
        what: the protected object, for messages: a flag with its value, or a folder.
        written: what errors of writing name (default: the folder of the lock).
        finished: the work may be finished. Then a read-only folder needs no lock: finished work is
        found, otherwise the first write fails.

    Raises:
        ValueError: another process holds it, or the file is not a lock.
        OSError: it cannot be written; ``write_errors.explained`` says why.
    """
    make_folder(path.parent)
    written = path.parent if written is None else written
    if finished and read_only(path.parent):
        yield Lock(-1, new_token())
        return
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with _opened(path, written) as file:
            if _acquired(file, path):
                token = new_token()
                _end_what_is_left(_holder(file), _place(file))
                with writing(written):
                    _write_holder(file, token)
                try:
                    yield Lock(file.fileno(), token)
                except Exception:
                    path.unlink(missing_ok=True)
                    raise
                path.unlink(missing_ok=True)  # kept after a signal, as processes may remain
                return
            holder = _holder(file)
        if _alive(holder) or time.monotonic() > deadline:
            raise ValueError(
                f"{what} is in use since {holder.get('since', 'a moment ago')} by process "
                f"{holder.get('pid', '?')} on {holder.get('host', '?')}. Wait for it or stop it, "
                "then run the command again."
            )
        time.sleep(0.2)


def _opened(path: Path, written: Path) -> IO[str]:
    """The file of a lock, created if it does not exist.

    Raises:
        ValueError: its content is not that of a lock.
        OSError: it cannot be made.
    """
    how = {"encoding": "utf-8", "errors": "replace", "opener": own_file}
    with writing(written, path):
        file = open(path, "a+", **how)  # noqa: SIM115  (its user closes it)
    file.seek(0)
    begin = file.read(len(BEGIN))
    if not BEGIN.startswith(begin):  # which may have been cut off
        file.close()
        raise ValueError(f"{path} exists and is not a fairseq_kd lock. Move it away.")
    return file


def read_only(folder: Path) -> bool:
    """Whether this process cannot write into a folder, as on a disk that is mounted read-only."""
    return not os.access(folder, os.W_OK)


def is_held(path: Path) -> Optional[bool]:
    """Whether a process holds a lock; None if no lock exists, or the file system has no locks."""
    try:
        with open(path, "rb", opener=own_file) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, ValueError):
        return None
    return False


def lock_beside(path: Path) -> Path:
    """The lock of a file or folder that appears whole, and so cannot hold it."""
    return path.with_name(f".{path.name}.lock")


def _acquired(file: IO[str], path: Path) -> bool:
    """Whether this process has acquired the lock, and the path still names it.

    Raises:
        ValueError: the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):  # held, or just removed by its holder
        return False
    except OSError as error:
        raise ValueError(
            f"The file system of {path} cannot lock files ({error.strerror}). Choose a folder on "
            "another file system."
        ) from error


def _holder(file: IO[str]) -> Dict[str, Any]:
    """The current holder, or the holder that was killed; empty if none is recorded."""
    file.seek(0)
    try:
        return dict(json.loads(file.read(HOLDER_CHARACTERS)))
    except (ValueError, RecursionError):  # it is being written, was cut off, or is not a lock
        return {}


def _write_holder(file: IO[str], token: str) -> None:
    file.seek(0)
    file.truncate()
    since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "token": token}
    json.dump({**holder, "place": _place(file)}, file)
    file.flush()


def _alive(holder: Dict[str, Any]) -> bool:
    """Whether the holder still runs; a holder on another machine is assumed to run."""
    if not holder:
        return False
    return holder.get("host") != socket.gethostname() or running(holder.get("pid", 0))


def _place(file: IO[str]) -> List[int]:
    """Device and inode of a lock, which a copy of it does not have."""
    state = os.fstat(file.fileno())
    return [state.st_dev, state.st_ino]


def _end_what_is_left(holder: Dict[str, Any], place: List[int]) -> None:
    """Ends processes of the last holder that survived when the holder was killed.

    If this lock is a copy, as in a copied run, processes of the original's holder are not ended.
    """
    here = holder.get("host") == socket.gethostname() and holder.get("place") == place
    if here and holder.get("token"):
        killed = end_started_by(holder["token"])
        if killed:
            listed = ", ".join(map(str, killed))
            print(f"ended processes left by a killed run: {listed}", file=sys.stderr)
