"""The largest student within a budget: found by bisection, refused if there is none."""

import re

import ctranslate2
import pytest

from fairseq_kd import models  # noqa: F401  (our architectures)
from fairseq_kd.evaluation.size import folder_bytes
from fairseq_kd.sizing import budgets
from fairseq_kd.sizing.budgets import (
    Budget,
    count_of,
    ladder_within,
    largest_within,
    latency_budget,
    median_latency_ms,
    parameter_budget,
    size_budget,
    write_random,
)
from fairseq_kd.sizing.ladder import STRATEGIES, distinct_sizes, ladder_sizes, ratios_to, shrink
from fairseq_kd.sizing.teacher_structure import TeacherStructure


@pytest.fixture(scope="module")
def structure():
    """Of 3+2 layers of width 160 with 4 heads, and 500 words."""
    return TeacherStructure.of_arch(
        "transformer_kd_small_teacher", 500, 500, ["--share-all-embeddings"]
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_last_stage_is_the_largest_that_fits(structure, strategy):
    candidates = distinct_sizes(structure.size, strategy)
    counts = [structure.parameters(size) for _, size in candidates]
    assert counts == sorted(counts, reverse=True)
    for (ratio, _), count, larger in zip(candidates, counts, [None, *counts], strict=False):
        limits = [count, larger - 1] if larger else [count]
        for limit in limits:
            found = largest_within(structure, parameter_budget(structure, limit), strategy)
            assert found == (ratio, count)


def test_few_candidates_are_costed(structure):
    asked = []

    def cost(size):
        asked.append(size)
        return structure.parameters(size)

    budget = Budget("--latency-ms", 500_000, cost, "ms")
    ratio, found = largest_within(structure, budget, "balanced")
    assert found <= 500_000
    assert shrink(structure.size, ratio, "balanced") in asked
    assert len(asked) <= 6
    assert structure.size not in asked  # the dearest


def test_a_ladder_within_a_budget_can_be_built(structure):
    ladder = ladder_within(structure, "100K", "balanced", 0.7)
    assert ladder == ladder_within(structure, 100_000, "balanced", 0.7)
    sizes = ladder_sizes(structure.size, ladder, "balanced")
    assert structure.parameters(sizes[-1]) <= 100_000
    whole = ratios_to(ladder[-1])
    assert set(ladder) < set(whole)  # some of those stages would be the same
    assert (ladder[0], ladder[-1]) == (1.0, whole[-1])


def test_the_embeddings_alone_exceed_the_budget(structure):
    message = (
        "--parameters allows 50,000 parameters, but the smallest stage that the strategy depth "
        "builds at a ratio of at least 0.01 has 802,560 parameters: 1+1 layers of width 160 with 4 "
        "heads, with 80,000 parameters in its embeddings alone. The nearest ladder that can be "
        "built is 1.0,0.7,0.499."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        largest_within(structure, parameter_budget(structure, 50_000), "depth")
    assert len(ladder_sizes(structure.size, [1.0, 0.7, 0.499], "depth")) == 3


@pytest.mark.parametrize("limit", [9_000_000, 1_833_760])
def test_a_budget_for_the_teacher_is_refused(structure, limit):
    message = (
        f"--parameters allows {limit:,} parameters, and the teacher has no more than 1,833,760 "
        "parameters. The nearest ladder that can be built is 1.0,0.833, with "
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        largest_within(structure, parameter_budget(structure, limit), "balanced")


@pytest.mark.parametrize(
    ("text", "count"),
    [("600000", 600_000), ("10M", 10_000_000), ("1.5m", 1_500_000), ("20,000", 20_000),
     ("3K", 3000), ("1B", 10**9), (7000, 7000)],
)  # fmt: skip
def test_numbers_of_parameters_are_read(text, count):
    assert count_of(text) == count


@pytest.mark.parametrize("text", ["many", "0", "-3", "10 MB", ""])
def test_what_is_no_number_of_parameters_is_refused(text):
    message = f"--parameters must be a number such as 600000 or 10M, but is {text}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        count_of(text)


def test_the_size_on_disk_is_that_of_the_converted_model(structure, tmp_path, capsys):
    limit_mb = 0.9
    ratio, found = largest_within(structure, size_budget(structure, limit_mb), "balanced")
    size = shrink(structure.size, ratio, "balanced")
    converted = write_random(structure, size, tmp_path)
    assert found == folder_bytes(converted) / 1e6 <= limit_mb
    weights = structure.parameters(size)
    positions = 4 * 1024 * size.width  # float32, one table for both sides
    assert (converted / "model.bin").stat().st_size == pytest.approx(weights + positions, rel=0.05)
    assert f"measured {size}: {found:,.1f} MB" in capsys.readouterr().err


def test_the_latency_is_of_twenty_tokens(structure, tmp_path, monkeypatch):

    size = shrink(structure.size, 0.25, "balanced")
    model = write_random(structure, size, tmp_path)
    translate = ctranslate2.Translator.translate_batch
    lengths = set()

    class Watched:
        """CTranslate2's translator, whose work is looked at."""

        def __init__(self, *args, **kwargs):
            assert (kwargs["compute_type"], kwargs["intra_threads"]) == ("int8", 1)
            self.translator = measured(*args, **kwargs)

        def translate_batch(self, sources, **kwargs):
            assert kwargs["min_decoding_length"] == 20  # also of a model that would end before
            results = translate(self.translator, sources, **kwargs)
            lengths.add((len(sources[0]), len(results[0].hypotheses[0])))
            return results

    measured = ctranslate2.Translator
    monkeypatch.setattr(ctranslate2, "Translator", Watched)
    assert median_latency_ms(model, 1) > 0
    assert lengths == {(20, 20)}


def test_the_latency_is_the_median_after_a_warm_up(monkeypatch):

    seconds = iter([9, 9, 9, *([2] * 13), *([5] * 12)])
    now = [0]

    class Translator:
        def __init__(self, *args, **kwargs):
            pass

        def translate_batch(self, *args, **kwargs):
            now[0] += next(seconds)

    monkeypatch.setattr(ctranslate2, "Translator", Translator)
    monkeypatch.setattr(budgets.time, "perf_counter", lambda: now[0])
    assert median_latency_ms("model", 1) == 2000


def test_no_sentence_is_translated_in_no_time(structure):
    with pytest.raises(ValueError, match=r"--latency-ms allows 0\.001 ms, but the smallest stage"):
        largest_within(structure, latency_budget(structure, 0.001, 1), "balanced")
