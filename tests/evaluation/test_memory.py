"""Peaks of work whose memory is known."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.decoding.translation_model import load_checkpoint
from fairseq_kd.evaluation.memory import measured, training_peak
from fairseq_kd.evaluation.size import weight_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 2**20


def holding(kept_mib, added_mib):
    kept = torch.ones(kept_mib * MIB // 4)

    def work():
        torch.ones(added_mib * MIB // 4)
        return kept.numel()

    return work


def failing():
    raise MemoryError


def test_what_is_held_and_what_work_adds_are_distinguished():
    found = measured(partial(holding, 32, 64))
    assert found.loaded / MIB == pytest.approx(32, abs=6)  # the first tensor brings some of torch
    assert found.added / MIB == pytest.approx(64, abs=4)


def test_a_process_that_fails_is_not_passed_over(capfd):
    with pytest.raises(ValueError, match="The process that measures memory ended with status 1"):
        measured(failing)
    capfd.readouterr()


def test_a_training_step_holds_gradients_and_states_and_the_teacher(teacher, data):
    subset = read_subset(Path(data), "test", ("es", "en"))
    model = load_checkpoint(teacher, "--teacher")
    weights = weight_bytes(model.model)
    alone, distilled = (training_peak(model, taught, subset) for taught in (None, model))
    assert 4 * weights < alone < 60 * MIB  # weights, gradients, and two states of Adam
    assert 5 * weights < distilled < 60 * MIB
