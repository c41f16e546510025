"""Batches: every sentence once, no batch above its size, and their decoding in any order."""

from pathlib import Path

import numpy as np
import pytest
from harness import LSTM, Setup

from fairseq_kd.decoding.engine import Batch, length_sorted_batches
from fairseq_kd.decoding.fairseq_engine import FairseqEngine
from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.translation_model import load_checkpoint, read_subset_for

LENGTHS = np.random.default_rng(3).integers(1, 60, 501)


def test_every_sentence_is_in_one_batch_longest_first():
    batches = length_sorted_batches(LENGTHS, 200)
    order = [int(number) for batch in batches for number in batch]
    assert order == sorted(range(501), key=lambda i: (-LENGTHS[i], i))


def test_no_batch_is_larger_than_requested_and_none_could_take_the_next_sentence():
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


def test_an_lstm_decodes_a_batch_in_any_order(data, tmp_path):
    path = Setup(data, "--criterion", "cross_entropy", training=LSTM).save(tmp_path / "lstm.pt")
    model = load_checkpoint(str(path), "--teacher")
    sources = read_subset_for([model], Path(data), "valid").source
    batch = [sources[i].long() for i in range(6)]
    engine = FairseqEngine([model], Search(beam=2, max_len_a=0, max_len_b=8), "cpu")
    shortest_first = sorted(batch, key=len)
    (decoded,) = engine.translate([Batch(0, shortest_first)])
    alone = [next(engine.translate([Batch(0, [each])]))[0] for each in shortest_first]
    scores = [best.score for best, *_ in alone]
    assert len(set(scores)) == len(batch)
    assert [best.score for best, *_ in decoded] == pytest.approx(scores, abs=1e-5)
