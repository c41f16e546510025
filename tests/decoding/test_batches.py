"""Batches: every sentence once, no batch above its size."""

import numpy as np

from fairseq_kd.decoding.engine import length_sorted_batches

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
