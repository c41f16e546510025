"""Weights of a criterion beside a model that fairseq-validate moved without them."""

import pytest
import torch
from layered import STUDENT

from fairseq_kd.criterions.base import follow


@pytest.mark.parametrize("criterion", ["feature_kd", "mutual_learning"])
def test_a_model_that_was_moved_alone_is_validated(setup, large, criterion):
    flags = ["--criterion", criterion, "--label-smoothing", "0.1", *STUDENT]
    made = setup(*flags, *(["--kd-teacher", large] if criterion == "feature_kd" else []))
    want = made.criterion(made.model.eval(), made.batch(0, 1))[0].item()
    made.model.double()
    got = made.criterion(made.model, made.batch(0, 1))[0]
    assert {each.dtype for each in made.criterion.parameters()} == {torch.float64}
    assert got.item() == pytest.approx(want, rel=1e-5)


def test_a_criterion_without_weights_stays_as_it_is():
    follow(torch.nn.ReLU(), torch.nn.Linear(2, 2))
