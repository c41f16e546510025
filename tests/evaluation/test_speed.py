"""Speed of engines whose speed is known: they turn the clock themselves."""

from dataclasses import astuple

import pytest
import torch

from fairseq_kd.decoding.hypothesis_files import Hypothesis
from fairseq_kd.evaluation import speed
from fairseq_kd.evaluation.speed import in_turns, latencies, spread_over_lengths, throughputs
from fairseq_kd.progress import ProgressLine


class Clock:
    """A fake time.perf_counter, and the times at which engines translated."""

    def __init__(self):
        self.now, self.order, self.sizes = 0.0, [], []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        pass


class Engine:
    """Takes so many seconds a source token and a batch, and a hundred more the first time."""

    def __init__(self, clock, name, per_token, per_batch=0.0):
        self.clock, self.name, self.cost, self.cold = clock, name, (per_token, per_batch), True

    def translate(self, batches):
        for batch in batches:
            self.clock.order.append(self.name)
            self.clock.sizes.append(len(batch.sources))
            tokens = sum(len(source) for source in batch.sources)
            self.clock.now += self.cost[0] * tokens + self.cost[1] + (100 if self.cold else 0)
            self.cold = False
            yield [[Hypothesis("a b c", 0.0)] for _ in batch.sources]


class Silent(ProgressLine):
    """Shows nothing, and asks for no time."""

    def __init__(self):
        pass

    def add(self, units, more=""):
        pass


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(speed, "time", Clock())
    return speed.time


def sentences(*lengths):
    return [torch.zeros(length, dtype=torch.int64) for length in lengths]


def test_latency_is_the_median_and_the_95th_percentile_without_the_warm_up(clock):
    engines = {"slow": Engine(clock, "slow", 0.010), "fast": Engine(clock, "fast", 0.001)}
    lengths = range(2, 23)  # 21 lengths: the median is 12, the 95th percentile 21
    found = latencies(engines, sentences(*lengths), 2, Silent())
    assert astuple(found["slow"]) == pytest.approx((120.0, 210.0, 0.0))
    assert astuple(found["fast"]) == pytest.approx((12.0, 21.0, 0.0))


def test_the_drift_is_what_the_slowest_round_took_more_than_the_fastest(clock):
    class Slowing(Engine):
        def translate(self, batches):
            yield from super().translate(batches)
            self.cost = (self.cost[0] * 1.05, 0.0)

    engines = {"steady": Engine(clock, "steady", 0.01), "slowing": Slowing(clock, "slowing", 0.01)}
    found = latencies(engines, sentences(10), 3, Silent())
    assert found["steady"].drift == pytest.approx(0.0)
    assert found["slowing"].drift == pytest.approx(1.05**2 - 1)
    # two warm-ups have slowed it by 1.05 each; the middle one of the rounds counts
    assert found["slowing"].median_ms == pytest.approx(100 * 1.05**3)


def test_a_quick_engine_measures_more_often_so_that_single_times_count_less(clock):
    class Disturbed(Engine):
        def translate(self, batches):
            if clock.order.count("quick") in (6, 10):  # two of its nine times
                clock.now += 1.0
            yield from super().translate(batches)

    engines = {"slow": Engine(clock, "slow", 0.0035), "quick": Disturbed(clock, "quick", 0.001)}
    found = latencies(engines, sentences(10), 3, Silent())
    assert clock.order.count("slow") == 4 + 3  # four to warm up
    assert clock.order.count("quick") == 4 + 3 * 3
    assert found["quick"].median_ms == pytest.approx(10.0)
    assert found["quick"].drift > 1


def test_torch_gets_its_threads_back_even_after_a_failure():
    before = torch.get_num_threads()

    def fail():
        with speed.torch_threads(before + 1) as count:
            assert torch.get_num_threads() == count == before + 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == before


def test_throughput_counts_sentences_and_target_tokens(clock):
    engines = {"one": Engine(clock, "one", 0.0, per_batch=0.5)}
    found = throughputs(engines, sentences(*[4] * 8), [4], 3, Silent())
    assert astuple(found["one", 4]) == pytest.approx(
        (8 / 1.0, 24 / 1.0)
    )  # two batches, three tokens per sentence


def test_one_warm_up_by_a_part_of_a_batch_serves_all_sizes(clock):
    engines = {"one": Engine(clock, "one", 0.0, per_batch=0.5)}
    found = throughputs(engines, sentences(*[4] * 128), [64, 128], 1, Silent())
    assert clock.sizes == [speed.WARM_UP, 64, 64, 128]
    assert found["one", 64].sentences_per_s == pytest.approx(128 / 1.0)
    assert found["one", 128].sentences_per_s == pytest.approx(128 / 0.5)


def test_systems_run_in_turns_and_each_begins_once(clock):
    engines = {name: Engine(clock, name, 0.001) for name in "abc"}
    latencies(engines, sentences(*[3] * 16), 3, Silent())
    measured = clock.order[12:]  # after the warm-up of four sentences each
    assert "".join(measured[::8]) == "abcabc" + "bcabca" + "cabcab"  # eight sentences a turn
    assert [key for key, _ in in_turns(engines, 4)] == ["b", "c", "a"]


def test_the_sample_has_all_lengths_and_nothing_that_cannot_be_read():
    chosen = spread_over_lengths(sentences(1, 9, 3, 50, 5, 7, 2, 8), longest=9, count=3)
    assert sorted(map(len, chosen)) in ([2, 5, 9], [2, 7, 9])
    assert len(spread_over_lengths(sentences(1, 9, 3), longest=9, count=30)) == 2
    assert spread_over_lengths(sentences(1, 20), longest=9, count=3) == []
