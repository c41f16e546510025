"""``--shard 3/64``: one of several equal parts of a job."""

import argparse
import re
from dataclasses import dataclass

from fairseq_kd.flag_types import shown

MOST = 10_000  # shards of a job


@dataclass(frozen=True)
class Shard:
    """One of several equal parts."""

    index: int = 1  # from 1 to count
    count: int = 1  # number of shards

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """A shard from text such as 3/64.

        Raises:
            argparse.ArgumentTypeError: the text has another format, or I is not from 1 to N.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST:
            raise argparse.ArgumentTypeError(
                f"it must be I/N with N from 1 to {MOST:,} and I from 1 to N, such as 3/64, but is "
                f"{shown(text)}"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def share(self, total: int) -> range:
        """The indices of its items: every count-th, so that neighbours go to different shards."""
        return range(self.index - 1, total, self.count)
