"""The comparison: its run files can be read, and its page says what its CSV says."""

import importlib
import json
import sys

import pytest
from harness import ROOT, run

from fairseq_kd.pipeline.run_file import read_run
from fairseq_kd.pipeline.workflow import Step, Workflow

BENCHMARKS = ROOT / "benchmarks"
FILES = sorted((BENCHMARKS / "comparison").glob("*.yaml"))


@pytest.fixture
def page(monkeypatch):
    """The program that makes the page."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("comparison_page")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_run_file_can_be_read(path):
    described = read_run(path)
    assert described.folder.name == path.stem
    assert described.ladder


def test_the_strategies_of_the_run_files_stand_on_the_page(page):
    rows = {stage.name for stage in read_run(BENCHMARKS / "comparison" / "strategies.yaml").ladder}
    assert rows - {"stage-70", "stage-49"} <= set(page.STRATEGIES)


def test_the_page_is_current(page, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DOCS", tmp_path)
    page.main()
    want = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == want
    assert "<!--" not in want


def test_a_row_tells_mean_spread_and_the_least_certain_seed(page):
    figures = (("10", "0.01"), ("13", ""), ("16", "0.2"))
    runs = [{"BLEU": value, "p_word": p} for value, p in figures]
    row = page.Row("word", runs)
    assert row.shown("BLEU") == "13.0 ± 3.0"
    assert row.each("BLEU") == "10.0, 13.0, 16.0"
    assert page.worst_p(row, "p_word") == "0.200"
    assert page.Row("word", runs[:1]).shown("BLEU") == "10.0"


def test_a_model_costs_what_it_needs_but_for_text_and_teacher(page, tmp_path):
    steps = {"data": [], "teacher": ["data"], "stage": ["teacher"], "start": ["stage"]}
    steps |= {"student": ["data", "start"], "other": ["data"]}
    workflow = Workflow(
        str(tmp_path), {}, 1, [Step(n, "train", [], a, [], []) for n, a in steps.items()]
    )
    (tmp_path / "steps").mkdir()
    for place, name in enumerate(steps):
        (tmp_path / "steps" / f"{name}.json").write_text(json.dumps({"seconds": 10**place}))
    comparison = importlib.import_module("comparison")
    assert comparison.seconds(workflow, "student") == 100 + 1000 + 10000
    assert comparison.seconds(workflow, "teacher") == 0


def test_the_script_shows_its_header_and_names_what_it_does_not_know():
    script = BENCHMARKS / "comparison.sh"
    assert "usage: benchmarks/comparison.sh TABLE [ROW...]" in run(script, "--help").stdout
    assert run(script, check=False).returncode == 2
    unknown = run(script, "strategy", check=False)
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("There is no table strategy: benchmarks/comparison/strategy.y")
