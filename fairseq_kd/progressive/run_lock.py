"""Lets one driver at a time work on a run."""

import datetime
import fcntl
import json
import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

FILE = ".lock"
PATIENCE_SECONDS = 20.0  # what a killed driver started needs to end


@contextmanager
def run_lock(folder: Path) -> Iterator[int]:
    """Holds the lock of a run; everything that is started with its descriptor holds it too.

    So after a kill the lock is free when the last process is gone, which this waits for.

    Raises:
        ValueError: another driver is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a+", encoding="utf-8") as file:
        _acquire(file, folder)
        file.seek(0)
        file.truncate()
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()
        yield file.fileno()


def _acquire(file, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            file.seek(0)
            text = file.read()
            holder = json.loads(text) if text else {}
            if _alive(holder) or time.monotonic() > deadline:
                raise ValueError(
                    f"{folder} is being worked on since {holder.get('since', 'a moment ago')} by "
                    f"process {holder.get('pid', '?')} on {holder.get('host', '?')}. Wait for it, "
                    "or end it; the same command then goes on."
                ) from None
            time.sleep(0.2)


def _alive(holder: dict) -> bool:
    """Whether the driver that took the lock still runs; on another machine it is taken to."""
    if holder.get("host") != socket.gethostname():
        return True
    stat = Path(f"/proc/{holder.get('pid')}/stat")
    return stat.is_file() and ") Z " not in stat.read_text()  # a zombie works no more
