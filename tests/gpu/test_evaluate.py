"""An evaluation on CPU and GPU in one report."""

import json

import pytest
from harness import run
from on_gpu import NEEDS_GPU

from fairseq_kd.decoding.engine_choice import has_cublas
from fairseq_kd.evaluation.variants import MEASURED

pytestmark = NEEDS_GPU
ENGINES = [each for device in ("cpu", "cuda") for each in MEASURED[device]]


@pytest.fixture(scope="module")
def measured(ending_teacher, teacher, data, cache, tmp_path_factory):
    """The figures of an evaluation on both devices, and the BLEU of one on the CPU."""
    out = tmp_path_factory.mktemp("evaluated")
    command = ["fairseq-kd", "evaluate", "--teacher", ending_teacher, "--student", teacher]
    command += ["--data", data, "--subset", "test", "--cache", cache, "--beam", "2"]
    run(*command, "--device", "both", "--rounds", "1", "--out", out / "both")
    run(*command, "--device", "cpu", "--rounds", "0", "--no-memory", "--out", out / "cpu")
    both, cpu = (
        json.loads((out / name / "evaluation.json").read_text(encoding="utf-8"))
        for name in ("both", "cpu")
    )
    return both, cpu


@pytest.mark.skipif(not has_cublas(), reason="CTranslate2 needs cuBLAS of CUDA 12")
def test_every_engine_of_both_devices_is_measured(measured):
    both, _ = measured
    for part in (both["speed"]["systems"], both["memory"]["inference"]):
        for by_engine in part.values():
            assert list(by_engine) == ENGINES
            assert all(by_engine.values())
    for each in both["memory"]["inference"].values():
        for use in each.values():
            assert 0 < use["weights"] < use["peak"]
    trained = both["memory"]["training"]["student"]
    assert 0 < trained["alone"] < trained["distilled"]
    assert both["made"]["translated_on"] == both["memory"]["trained_on"] == "cuda"


def test_quality_is_that_of_the_cpu(measured):
    both, cpu = (each["quality"]["scores"] for each in measured)
    for name, score in cpu.items():
        assert both[name]["BLEU"]["score"] == pytest.approx(score["BLEU"]["score"], abs=0.5)
    agreement = [each["quality"]["agreement"]["student"] for each in measured]
    assert agreement[0] == pytest.approx(agreement[1], abs=0.01)
