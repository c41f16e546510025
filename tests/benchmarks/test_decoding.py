"""The benchmark of decoding: every system decodes the same sentences."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from harness import ROOT


@pytest.fixture
def decoding(monkeypatch, cache):
    """The program that compares speeds."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "benchmarks"))  # of the process that decodes
    monkeypatch.chdir(ROOT)
    return importlib.import_module("decoding")


@pytest.mark.slow
def test_every_system_decodes_all_sentences_and_tells_its_speed(
    decoding, ending_teacher, data, tmp_path
):
    args = Namespace(teacher=ending_teacher, data=Path(data), pair="es-en", subset="valid")
    vars(args).update(sentences=9, beam=2, threads=1, compute_types=["float32"])
    vars(args).update(fairseq_batch="4", fairseq_fp16=False)
    sample = decoding.sample_of(args, tmp_path)
    found = decoding.one_round(args, tmp_path, 1)
    assert set(found) == {decoding.FAIRSEQ, "float32"}
    for each in found.values():
        assert len(each.texts) == len(sample) == 9
        assert each.speed > 0
