"""Training state that is observed from the trainer's calls to its task."""

from types import SimpleNamespace

import pytest
from fairseq.logging import metrics

from fairseq_kd.criterions.training_state import DECAY, RunningMean, UpdateClock, teacher_gap


class Task:
    def __init__(self):
        self.calls = []

    def train_step(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return "result"

    def reduce_metrics(self, logging_outputs, criterion):
        self.calls.append((logging_outputs, criterion))


@pytest.fixture
def task():
    metrics.reset()
    yield Task()
    metrics.reset()


def test_the_clock_tells_the_update_and_passes_the_call_on(task):
    clock = UpdateClock(task)
    assert clock.update == 0
    assert task.train_step("sample", "model", "criterion", "optimizer", 7, ignore_grad=True) == (
        "result"
    )
    assert clock.update == 7
    call = ("sample", "model", "criterion", "optimizer", 7)
    assert task.calls == [(call, {"ignore_grad": True})]


def test_the_gap_is_a_running_mean_over_updates_of_all_workers(task):
    criterion = SimpleNamespace(training=True)
    gap = teacher_gap(task, criterion, UpdateClock(task))
    assert gap.value == 1.0
    want = 1.0
    for agreed, tokens in ((3, 10), (9, 12), (8, 8)):
        halves = [{"kd_agreed": agreed - 1, "kd_ntokens": tokens - 4}]
        halves += [{"kd_agreed": 1, "kd_ntokens": 4}]
        task.reduce_metrics(halves, criterion)
        want = DECAY * want + (1 - DECAY) * (1 - agreed / tokens)
        assert gap.value == pytest.approx(want)
    assert len(task.calls) == 3


def test_without_what_was_saved_the_gap_of_a_later_update_is_its_own(task):
    """fairseq reads no meters from the checkpoint of an epoch's end."""
    criterion, clock = SimpleNamespace(training=True), UpdateClock(task)
    gap = teacher_gap(task, criterion, clock)
    clock.update = 900
    task.reduce_metrics([{"kd_agreed": 8, "kd_ntokens": 10}], criterion)
    assert gap.value == pytest.approx(0.2)
    task.reduce_metrics([{"kd_agreed": 7, "kd_ntokens": 10}], criterion)
    assert gap.value == pytest.approx(DECAY * 0.2 + (1 - DECAY) * 0.3)


def test_validation_and_empty_updates_leave_the_gap_as_it_is(task):
    criterion = SimpleNamespace(training=False)
    gap = teacher_gap(task, criterion, UpdateClock(task))
    task.reduce_metrics([{"kd_agreed": 1, "kd_ntokens": 1}], criterion)
    criterion.training = True
    task.reduce_metrics([{"kd_agreed": 0, "kd_ntokens": 0}, {}], criterion)
    assert gap.value == 1.0


def test_the_gap_is_restored_with_the_meters_of_a_checkpoint(task):
    gap = teacher_gap(task, SimpleNamespace(training=True), UpdateClock(task))
    for agreed in (5, 7):
        gap.observe([{"kd_agreed": agreed, "kd_ntokens": 10}])
    value, saved = gap.value, metrics.state_dict()
    metrics.reset()
    assert gap.value == 1.0
    metrics.load_state_dict(saved)
    assert gap.value == value < 1
    gap.observe([{"kd_agreed": 1, "kd_ntokens": 10}])
    again, saved = gap.value, metrics.state_dict()
    assert again != value
    metrics.load_state_dict(saved)  # a second restart finds what the first run after it left
    assert gap.value == again


def test_a_mean_without_a_start_begins_with_the_first_value(task):
    criterion = SimpleNamespace(training=True)
    mean = RunningMean(task, criterion, "x", lambda total: total("sum") / total("kd_ntokens"))
    assert mean.value is None
    mean.observe([{"sum": 6.0, "kd_ntokens": 3}])
    assert mean.value == 2.0
    mean.observe([{"sum": 4.0, "kd_ntokens": 1}])
    assert mean.value == pytest.approx(DECAY * 2.0 + (1 - DECAY) * 4.0)
