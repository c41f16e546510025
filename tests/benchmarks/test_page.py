"""The page of the benchmarks: how far a time is from the least that a GPU needs."""

import importlib

import pytest
from harness import ROOT

ROW = {
    "benchmark": "loss",
    "case": "chunked: 8192 x 32000, 256 <- 512, float16, T=1",
    "unit": "ms",
    "median": "4.11",
}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("page")


@pytest.mark.parametrize(
    ("vocab_size", "student", "teacher", "ms"),
    [
        (32_000, 256, 512, 2.1),
        (32_000, 512, 1024, 3.0),
        (64_000, 512, 1024, 6.0),
        (128_000, 512, 1024, 12.1),
        (256_000, 1024, 1024, 33.3),
    ],
)
def test_the_limit_is_arithmetic_and_memory_traffic_one_after_the_other(
    page, vocab_size, student, teacher, ms
):
    logits = 8192 * vocab_size
    arithmetic = logits * 2 * (student + 2 * student + teacher) / 700e9
    traffic = logits * (2 + 2 + 2 + 2 * 2 + 2 * 2) / 3.35e9
    got = page.limit_ms(8192, vocab_size, student, teacher)
    assert got == pytest.approx(arithmetic + traffic)
    assert got == pytest.approx(ms, abs=0.06)


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, "2.0x"),
        ({"unit": "peak MiB"}, None),
        ({"case": "chunked: 8192 x 32000, 256 <- 512, float32, T=1"}, None),
        ({"benchmark": "training"}, None),
    ],
)
def test_times_of_the_loss_in_half_precision_are_compared_with_it(page, changes, share):
    assert page.of_the_limit({**ROW, **changes}) == share
