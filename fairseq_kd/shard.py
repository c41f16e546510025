"""One of several equal shares of a work, such as ``--shard 3/64``."""

import argparse
import re
from dataclasses import dataclass

from fairseq_kd.flag_types import shown

MOST = 10_000  # shares of a work


@dataclass(frozen=True)
class Shard:
    """One of several equal shares.

    Args:
        index: from 1 to count.
        count: number of shards.
    """

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """A shard from how it is typed, such as 3/64.

        Raises:
            argparse.ArgumentTypeError: it is typed otherwise, or there is no such shard.
        """
        typed = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if typed is None or not 1 <= int(typed[1]) <= int(typed[2]) <= MOST:
            raise argparse.ArgumentTypeError(
                f"it must be I/N with N from 1 to {MOST:,} and I from 1 to N, such as 3/64, but is "
                f"{shown(text)}"
            )
        return cls(int(typed[1]), int(typed[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def share(self, total: int) -> range:
        """Its items among all: every count-th, so that what stands together is spread."""
        return range(self.index - 1, total, self.count)
