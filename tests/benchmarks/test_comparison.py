"""The comparison: its run files can be read, and its page matches its CSV."""

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


def test_the_rows_of_the_run_file_have_names_on_the_page(page):
    rows = {stage.name for stage in read_run(BENCHMARKS / "comparison" / "converged.yaml").ladder}
    assert rows | {"undistilled"} == set(page.STUDENTS)


def test_the_page_is_current(page, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DOCS", tmp_path)
    page.main()
    want = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == want
    assert "<!--" not in want


def test_a_row_shows_mean_and_spread(page):
    runs = [{"BLEU": value} for value in ("10", "13", "16")]
    assert page.Row("word", runs).shown("BLEU") == "13.0 ± 3.0"
    assert page.Row("word", runs[:1]).shown("BLEU") == "10.0"


def test_a_gain_stands_only_where_as_many_updates_are_behind_both(page):
    same = {"parameters": "50", "chrF": "40", "p_undistilled": "0.01"}
    rows = {
        "teacher": {**same, "parameters": "100", "behind": "9", "BLEU": "30"},
        "undistilled": {**same, "behind": "5", "BLEU": "20", "p_undistilled": ""},
        "word": {**same, "behind": "5", "BLEU": "24"},
        "inherit": {**same, "behind": "14", "BLEU": "27"},
    }
    table = page.students({name: page.Row(name, [run]) for name, run in rows.items()})
    cells = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:]]
    assert [line[-3:-1] for line in cells] == [["", ""], ["", ""], ["+4.0", "0.010"], ["", ""]]


def test_rows_are_evaluated_with_the_options_of_the_run_and_as_students(page, tmp_path):
    comparison = importlib.import_module("comparison")
    words = ["fairseq-kd", "evaluate", "--data", "d", "--out", "run", "--teacher", "teacher=t.pt"]
    words += ["--student", "word=w.pt", "--student", "other=o.pt", "--control", "inherit=i.pt"]
    step = Step("evaluation", "evaluate", [[*words, "--beam", "3", "--no-memory"]], [], [], [])
    options = comparison.evaluation_of(Workflow(str(tmp_path), {}, 1, [step]))
    asked = comparison.of_rows(options, ["inherit", "word"], tmp_path / "rows")
    assert (asked.teacher, asked.control) == ("teacher=t.pt", ())
    assert asked.student == ("word=w.pt", "inherit=i.pt")
    assert (asked.beam, asked.no_memory, str(asked.data)) == (3, True, "d")
    assert asked.argv()[-3:] == ["--beam", "3", "--no-memory"]


def test_validation_losses_are_recorded_by_updates(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    comparison = importlib.import_module("comparison")
    monkeypatch.setattr(comparison, "CURVES", tmp_path / "curves.csv")
    (tmp_path / "word").mkdir()
    line = '| INFO | valid | {"epoch": 1, "valid_nll_loss": "5.25", "valid_num_updates": "10"}'
    (tmp_path / "word" / "train.log").write_text(f"2026-01-01 00:00:00 {line}\n")
    workflow = Workflow(str(tmp_path), {}, 3, [])
    comparison.write_curve("converged", workflow, "word")
    comparison.write_curve("converged", workflow, "teacher")
    text = (tmp_path / "curves.csv").read_text()
    assert text == "table,row,seed,updates,nll_loss\nconverged,word,3,10,5.25\n"


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
