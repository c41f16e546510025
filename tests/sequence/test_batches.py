"""Batches and shards: every sentence once, no batch above its size, whatever the cut."""

import numpy as np
import pytest

from fairseq_kd.sequence.batches import length_sorted_batches
from fairseq_kd.sequence.shards import shard_file
from fairseq_kd.shard import Shard

LENGTHS = np.random.default_rng(3).integers(1, 60, 501)


def test_every_sentence_is_in_one_batch_longest_first():
    batches = length_sorted_batches(LENGTHS, 200)
    order = [int(number) for batch in batches for number in batch]
    assert order == sorted(range(501), key=lambda i: (-LENGTHS[i], i))


def test_no_batch_is_larger_than_asked_for_and_none_could_take_the_next_sentence():
    batches = length_sorted_batches(LENGTHS, 200)
    for batch in batches:
        assert max(LENGTHS[batch]) * len(batch) <= 200
    for batch in batches[:-1]:
        assert max(LENGTHS[batch]) * (len(batch) + 1) > 200


def test_a_sentence_longer_than_a_batch_stands_alone():
    assert [batch.tolist() for batch in length_sorted_batches(np.array([3, 900, 4]), 10)] == [
        [1],
        [2, 0],
    ]


def test_an_empty_set_has_no_batch():
    assert length_sorted_batches(np.array([], int), 10) == []


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_the_shards_share_out_all_batches(count):
    shards = [Shard(i + 1, count) for i in range(count)]
    taken = [number for shard in shards for number in shard.share(50)]
    assert sorted(taken) == list(range(50))
    sizes = [len(shard.share(50)) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_a_shard_is_typed_as_index_and_count():
    assert Shard.parse("3/64") == Shard(3, 64)
    assert str(Shard(3, 64)) == "3/64"
    assert shard_file(Shard(3, 64)) == "hypotheses-03-of-64.txt"


@pytest.mark.parametrize("typed", ["0/3", "4/3", "3", "a/b", "-1/3", "1/3/5", ""])
def test_what_is_no_shard_is_refused(typed):
    with pytest.raises(ValueError, match=f"--shard must be I/N .*such as 3/64, but is {typed}."):
        Shard.parse(typed)
