"""The line that shows how far a long work is, how fast, and when it ends.

On a terminal it is rewritten in place; in a log there is a new one every 15 seconds, or as many as
``FAIRSEQ_KD_LOG_SECONDS`` says.
"""

import os
import sys
import time

from tqdm import tqdm

PAUSE = "FAIRSEQ_KD_LOG_SECONDS"
LOG_SECONDS, TERMINAL_SECONDS = float(os.environ.get(PAUSE, 15)), 0.2
BAR = "{desc}: {percentage:3.0f}% |{bar:20}| {n:,}/{total:,} UNIT, {remaining} left{postfix}"


class ProgressLine:
    """Shows what is done of a work, the time left, and what its owner adds.

    Args:
        name: of the work.
        total: units to do.
        unit: what is counted, in the plural.
        done: units that an earlier run had done.
    """

    def __init__(self, name: str, total: int, unit: str, done: int = 0):
        self.name, self.total, self.unit = name, total, unit
        self.done = self.initial = done
        self.start, self.shown_at = time.monotonic(), float("-inf")
        self.on_terminal = sys.stderr.isatty()

    def add(self, units: int, more: str = "") -> None:
        """Counts more units done."""
        self.show(self.done + units, more)

    def show(self, done: int, more: str = "") -> None:
        """Shows the units done so far; in a log file, every LOG_SECONDS at most."""
        self.done = done
        now = time.monotonic()
        pause = TERMINAL_SECONDS if self.on_terminal else LOG_SECONDS
        if not self.total or (now - self.shown_at < pause and done < self.total):
            return
        self.shown_at = now
        line = tqdm.format_meter(
            n=done,
            total=self.total,
            elapsed=now - self.start,
            initial=self.initial,
            prefix=self.name,
            postfix=more,
            bar_format=BAR.replace("UNIT", self.unit),
            ascii=not self.on_terminal,
        )
        print(
            "\r\033[K" + line if self.on_terminal else line,
            end="" if self.on_terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *error) -> None:
        """Leaves the last line standing."""
        if self.on_terminal:
            print(file=sys.stderr)

    @property
    def seconds(self) -> float:
        """Since this run began."""
        return time.monotonic() - self.start

    @property
    def per_second(self) -> float:
        """Units that this run does in a second."""
        return (self.done - self.initial) / max(self.seconds, 1e-9)
