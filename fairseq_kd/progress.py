"""The progress line: how far a long job is, how fast, and when it ends.

On a terminal it is rewritten in place; in a log there is a new one every 15 seconds, or as many as
``FAIRSEQ_KD_LOG_SECONDS`` says.
"""

import sys
import time

from tqdm import tqdm

from fairseq_kd.flag_types import Range, from_environment

PAUSE = "FAIRSEQ_KD_LOG_SECONDS"
PAUSES = Range(float, 0, 86_400)
LOG_SECONDS, TERMINAL_SECONDS = 15.0, 0.2
BAR = "{desc}: {percentage:3.0f}% |{bar:20}| {n:,}/{total:,} UNIT, {remaining} left{postfix}"


def log_seconds() -> float:
    """From a line in a log to the next.

    Raises:
        ValueError: ``FAIRSEQ_KD_LOG_SECONDS`` is no number of seconds.
    """
    return from_environment(PAUSE, PAUSES, LOG_SECONDS)


class ProgressLine:
    """Shows what is done of a work, the time left, and what its owner adds.

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
