"""A teacher on a GPU fills a store and translates as it does on the CPU."""

import statistics

import pytest
import torch
from harness import run
from on_gpu import NEEDS_GPU
from stores import unpacked
from translations import hypotheses

from fairseq_kd.decoding.engine_choice import has_cublas
from fairseq_kd.teachers.store import TeacherStore

pytestmark = NEEDS_GPU
WITHOUT = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_store_is_that_of_the_cpu(teacher, data, tmp_path, dtype):
    kept = []
    for name, given, env in (("gpu", dtype, {}), ("cpu", "float32", WITHOUT)):
        command = ["fairseq-kd", "store", "--teacher", teacher, "--data", data, "--subset", "valid"]
        run(*command, "--topk", "8", "--dtype", given, "--out", tmp_path / name, env=env)
        store = TeacherStore(tmp_path / name)
        subset = store.subset("valid")
        each = [subset.records(number) for number in range(len(subset))]
        kept.append([unpacked(records, store.vocab_size) for records in each])
    error = {"float32": 2e-3, "float16": 1e-2, "bfloat16": 1e-1}[dtype]
    for ours, theirs in zip(*kept, strict=True):
        torch.testing.assert_close(ours.log_p[:, 0], theirs.log_p[:, 0], rtol=0, atol=error)
        assert (ours.ids[:, 0] == theirs.ids[:, 0]).float().mean() > 0.9
        torch.testing.assert_close(ours.log_tail, theirs.log_tail, rtol=error, atol=error)


@pytest.fixture
def translated(ending_teacher, data, cache, tmp_path):
    """Translations of the validation set by an engine in a precision, on GPU and CPU."""
    command = ["fairseq-kd", "translate", "--teacher", ending_teacher, "--data", data]
    command += ["--subset", "valid", "--cache", cache, "--max-tokens", "200"]

    def translate(engine, compute_type):
        given = [*command, "--engine", engine, "--compute-type"]
        run(*given, compute_type, "--device", "cuda", "--out", tmp_path / "gpu")
        run(*given, "float32", "--out", tmp_path / "cpu", env=WITHOUT)
        return [hypotheses(tmp_path / name) for name in ("gpu", "cpu")]

    return translate


@pytest.mark.parametrize("compute_type", ["float32", "float16", "bfloat16"])
def test_fairseq_translates_as_on_the_cpu(translated, compute_type):
    ours, theirs = translated("fairseq", compute_type)
    assert_like(ours, theirs, compute_type)


@pytest.mark.parametrize("compute_type", ["float32", "float16", "int8_float32"])
@pytest.mark.skipif(not has_cublas(), reason="CTranslate2 needs cuBLAS of CUDA 12")
def test_ctranslate2_translates_as_on_the_cpu(translated, compute_type):
    ours, theirs = translated("ctranslate2", compute_type)
    assert_like(ours, theirs, compute_type)


@pytest.mark.skipif(has_cublas(), reason="for where CTranslate2 lacks cuBLAS of CUDA 12")
def test_without_cublas_fairseq_decodes_on_the_gpu(ending_teacher, data, cache, tmp_path):
    command = ["fairseq-kd", "translate", "--teacher", ending_teacher, "--data", data]
    command += ["--subset", "valid", "--cache", cache, "--out", tmp_path / "out"]
    message = run(*command).stderr
    assert "pip install nvidia-cublas-cu12" in message
    assert "float16, cuda" in message


def assert_like(ours, theirs, compute_type):
    """The same text in float32; with coarser rounding, translations with similar scores."""
    assert list(ours) == list(theirs)
    errors = [abs(ours[number][0].score - theirs[number][0].score) for number in ours]
    if compute_type == "float32":
        assert ours.keys() == {n for n in ours if ours[n][0].tokens == theirs[n][0].tokens}
    limits = (1e-4, 1e-3) if compute_type == "float32" else (0.05, 0.3)  # bits a token
    assert statistics.mean(errors) < limits[0]
    assert max(errors) < limits[1]
