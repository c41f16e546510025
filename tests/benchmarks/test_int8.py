"""The benchmark of int8: a model is translated and scored in every kind."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from harness import ROOT


@pytest.fixture
def int8(monkeypatch, cache):
    """The program that measures what int8 costs."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return importlib.import_module("int8")


def test_a_model_is_scored_in_every_kind(int8, ending_teacher, data, capsys):
    given = Namespace(data=Path(data), subset="valid", beam=1)
    scores = int8.bleu_by_kind(Path(ending_teacher), given)
    assert set(scores) == set(int8.KINDS)
    assert all(0 <= score <= 100 for score in scores.values())
    assert capsys.readouterr().out.count(" BLEU\n") == len(int8.KINDS)
