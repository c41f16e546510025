"""The line that shows how far a training is.

On a terminal it is rewritten in place; in a log there is a new one now and then.
"""

import sys
import time
from typing import Any, Dict

from tqdm import tqdm

SHOWN = ("loss", "nll_loss", "kd_loss", "agreement")
LOG_SECONDS = 15.0
BAR = "{desc}: {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} updates, {remaining} left{postfix}"


class ProgressLine:
    """Shows updates done, the losses of the last log line, the speed and the time left.

    Args:
        name: what is being trained.
        total: its last update.
        initial: the updates that an earlier run had done.
    """

    def __init__(self, name: str, total: int, initial: int = 0):
        self.name, self.total, self.initial = name, total, initial
        self.start = time.monotonic()
        self.shown_at = float("-inf")
        self.on_terminal = sys.stderr.isatty()

    def show(self, stats: Dict[str, Any]) -> None:
        """Shows a line of fairseq's training log; in a log file, one every 15 seconds at most."""
        now = time.monotonic()
        update = int(stats["num_updates"])
        if not self.on_terminal and now - self.shown_at < LOG_SECONDS and update < self.total:
            return
        self.shown_at = now
        line = tqdm.format_meter(
            n=update,
            total=self.total,
            elapsed=now - self.start,
            initial=self.initial,
            prefix=self.name,
            postfix=", ".join(f"{key} {float(stats[key]):.2f}" for key in SHOWN if key in stats),
            bar_format=BAR,
            ascii=not self.on_terminal,
        )
        print(
            "\r\033[K" + line if self.on_terminal else line,
            end="" if self.on_terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Leaves the last line standing."""
        if self.on_terminal:
            print(file=sys.stderr)
