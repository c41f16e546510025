"""The least entropy that learned weights can have."""

import itertools
import math

import pytest

from fairseq_kd.losses.entropy_floor import even_share


def entropy(weights):
    return -sum(w * math.log(w) for w in weights if w > 0)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("floor", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_weights_that_collapsed_have_just_that_entropy(count, floor):
    m = even_share(count, floor)
    collapsed = [(1 - m) * (i == 0) + m / count for i in range(count)]
    assert sum(collapsed) == pytest.approx(1)
    assert entropy(collapsed) == pytest.approx(floor * math.log(count), abs=1e-9)


def test_no_weights_have_less():
    m = even_share(3, 0.5)
    grid = [i / 10 for i in range(11)]
    for a, b in itertools.product(grid, grid):
        if a + b <= 1:
            weights = [(1 - m) * s + m / 3 for s in (a, b, 1 - a - b)]
            assert entropy(weights) >= 0.5 * math.log(3) - 1e-9


def test_a_floor_of_0_leaves_the_softmax_alone_and_1_leaves_nothing_to_learn():
    assert even_share(2, 0.0) == 0.0
    assert even_share(2, 1.0) == pytest.approx(1.0)
