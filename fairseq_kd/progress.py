"""The progress of a long job: work done, speed, and time left.

On a terminal the line is rewritten in place; in a log there is a new one every 15 seconds, or every
``FAIRSEQ_KD_LOG_SECONDS`` seconds. A step of a run also appends the figures of each line to the
file that ``FAIRSEQ_KD_PROGRESS`` names, from which the driver of the run reads them.
"""

import json
import math
import os
import sys
import time
from contextlib import suppress
from typing import NamedTuple, Optional

from tqdm import tqdm
from tqdm.std import Bar

from fairseq_kd.files.atomic_files import own_file
from fairseq_kd.files.json_files import difference
from fairseq_kd.flag_types import Range, from_environment

PROGRESS_FILE = "FAIRSEQ_KD_PROGRESS"  # of the records of a step
PAUSE = "FAIRSEQ_KD_LOG_SECONDS"
PAUSES = Range(float, 0, 86_400)
LOG_SECONDS, TERMINAL_SECONDS = 15.0, 0.2
BAR_CHARACTERS = 20
MOST = 2**53  # units; beyond it a number of JSON is not whole
RECORD = {"name": str, "done": int, "total": int, "unit": str, "note": str}
RECORD["seconds_left"] = (float, None)


class Progress(NamedTuple):
    """The progress of a job.

    Args:
        name: of the job.
        done: units that are done.
        total: units to do, above 0.
        unit: what is counted, in the plural.
        seconds_left: the time to its end; None if it is not known yet.
        note: further figures.
    """

    name: str
    done: int
    total: int
    unit: str
    seconds_left: Optional[float]
    note: str

    @classmethod
    def of_record(cls, text: str) -> "Optional[Progress]":
        """The progress in a line of a file of records; None if it holds none."""
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if difference(record, RECORD) or not 1 <= record["total"] <= MOST or record["done"] < 0:
            return None
        if record["done"] > MOST:
            return None
        seconds = record["seconds_left"]
        if seconds is not None and not (math.isfinite(seconds) and 0 <= seconds < 1e12):
            return None
        return cls(**{key: record[key] for key in cls._fields})

    @property
    def ended(self) -> bool:
        """Whether all units are done."""
        return self.done >= self.total

    @property
    def percent(self) -> str:
        """The share that is done."""
        return f"{100 * self.done / self.total:.0f}%"

    @property
    def time_left(self) -> str:
        """The time to its end in minutes and seconds."""
        return "?" if self.seconds_left is None else tqdm.format_interval(self.seconds_left)

    def line(self, in_ascii: bool = True) -> str:
        """The progress as a line with a bar."""
        bar = Bar(min(1, self.done / self.total), charset=Bar.ASCII if in_ascii else Bar.UTF)
        units = f"{self.done:,}/{self.total:,} {self.unit}, {self.time_left} left"
        note = f", {self.note}" if self.note else ""
        return f"{self.name}: {self.percent:>4} |{bar:{BAR_CHARACTERS}}| {units}{note}"


def log_seconds() -> float:
    """Seconds between two lines in a log.

    Raises:
        ValueError: ``FAIRSEQ_KD_LOG_SECONDS`` is not a number of seconds.
    """
    return from_environment(PAUSE, PAUSES, LOG_SECONDS)


class ProgressLine:
    """Shows the progress of a job, the time left, and further figures.

    Args:
        name: of the work.
        total: units to do.
        unit: what is counted, in the plural.
        done: units that an earlier run had done.

    Raises:
        ValueError: as ``log_seconds`` does.
    """

    def __init__(self, name: str, total: int, unit: str, done: int = 0):
        self.name, self.total, self.unit = name, total, unit
        self.done = self.initial = done
        self.start, self.shown_at = time.monotonic(), float("-inf")
        self.on_terminal, pause = sys.stderr.isatty(), log_seconds()
        self.pause = TERMINAL_SECONDS if self.on_terminal else pause

    def add(self, units: int, more: str = "") -> None:
        """Counts more units done."""
        self.show(self.done + units, more)

    def show(self, done: int, more: str = "") -> None:
        """Shows the units done so far, but not too often."""
        self.done = done
        now = time.monotonic()
        if not self.total or (now - self.shown_at < self.pause and done < self.total):
            return
        self.shown_at = now
        units = (int(done), int(self.total))  # numpy's numbers, too
        progress = Progress(self.name, *units, self.unit, self._seconds_left(), more)
        _append_record(progress)
        line = progress.line(in_ascii=not self.on_terminal)
        print(
            "\r\033[K" + line if self.on_terminal else line,
            end="" if self.on_terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def _seconds_left(self) -> Optional[float]:
        done, seconds = self.done - self.initial, self.seconds
        return seconds / done * max(0, self.total - self.done) if done > 0 < seconds else None

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *error) -> None:
        """Ends the last line."""
        if self.on_terminal:
            print(file=sys.stderr)

    @property
    def seconds(self) -> float:
        """Since this run began."""
        return time.monotonic() - self.start


def _append_record(progress: Progress) -> None:
    path = os.environ.get(PROGRESS_FILE)
    if path:
        with suppress(OSError), open(path, "a", encoding="utf-8", opener=own_file) as file:
            file.write(f"{json.dumps(progress._asdict())}\n")
