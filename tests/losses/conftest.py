"""Logits and masks of odd shapes, and softmax by hand."""

import math

import pytest
import torch

SHAPES = [(1, 1, 2), (2, 5, 7), (3, 1, 41)]  # odd on purpose: a transposed axis cannot hide


@pytest.fixture(params=SHAPES, ids=str)
def batch(request):
    """(student, teacher, real): float64 logits and a mask that leaves out the last token of each
    sentence but the first."""
    generator = torch.Generator().manual_seed(sum(request.param))
    student, teacher = (
        3 * torch.randn(request.param, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    real = torch.ones(request.param[:2], dtype=torch.bool)
    real[1:, -1] = False
    return student, teacher, real


@pytest.fixture(scope="session")
def softmax():
    """The softmax of a list of logits at a temperature, as a list."""

    def by_hand(logits, temperature):
        weights = [math.exp(z / temperature) for z in logits]
        return [weight / sum(weights) for weight in weights]

    return by_hand
