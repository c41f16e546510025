"""The schedules against their formulas, written out for single updates."""

import math

import pytest

from fairseq_kd.criterions.schedules import SHAPES, Schedule


@pytest.mark.parametrize(
    ("shape", "quarter"),
    [
        ("constant", 6.0),
        ("exponential", 6.0 * (1.5 / 6.0) ** 0.25),
        ("linear", 4.875),
        ("cosine", 1.5 + 4.5 * (1 + math.sqrt(0.5)) / 2),
    ],
)
def test_a_schedule_has_its_value_after_a_quarter_of_the_updates(shape, quarter):
    assert Schedule(shape, 6.0, 1.5, 400).at(100) == pytest.approx(quarter)


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"constant", "loss"}))
def test_from_start_to_final_and_no_further(shape):
    schedule = Schedule(shape, 6.0, 2.0, 400)
    assert schedule.at(0) == pytest.approx(6.0)
    assert schedule.at(400) == pytest.approx(2.0)
    assert schedule.at(4000) == schedule.at(400)
    values = [schedule.at(update) for update in range(401)]
    assert values == sorted(values, reverse=True)


def test_a_constant_needs_no_number_of_updates():
    assert Schedule("constant", 4.0, 4.0, 0).at(10**6) == 4.0


def test_the_loss_schedule_follows_the_gap_alone():
    schedule = Schedule("loss", 6.0, 2.0)
    assert [schedule.at(update, 1.0) for update in (0, 1000)] == [6.0, 6.0]
    assert schedule.at(5, 0.25) == pytest.approx(3.0)
    assert schedule.at(5, 0.0) == pytest.approx(2.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_value_that_stays_is_the_same_throughout(shape):
    for value in (0.0, 2.5):
        assert Schedule(shape, value, value, 10).at(7, gap=0.3) == value
