"""Shards: every item belongs to exactly one."""

import argparse
import re

import pytest

from fairseq_kd.shard import Shard


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_the_shards_share_out_all_of_the_work(count):
    shards = [Shard(i + 1, count) for i in range(count)]
    taken = [number for shard in shards for number in shard.share(50)]
    assert sorted(taken) == list(range(50))
    sizes = [len(shard.share(50)) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_a_shard_is_typed_as_index_and_count():
    assert Shard.parse("3/64") == Shard(3, 64)
    assert str(Shard(3, 64)) == "3/64"


@pytest.mark.parametrize(
    "typed", ["0/3", "4/3", "3", "a/b", "-1/3", "1/3/5", "1/10001", "1/2000000000"]
)
def test_what_is_no_shard_is_refused(typed):
    message = (
        f"it must be I/N with N from 1 to 10,000 and I from 1 to N, such as 3/64, but is {typed}"
    )
    with pytest.raises(argparse.ArgumentTypeError, match=f"^{re.escape(message)}$"):
        Shard.parse(typed)
