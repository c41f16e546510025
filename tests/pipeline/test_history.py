"""The page that documents how the models of a run were made."""

import json
from pathlib import Path

import pytest
from workflows import manifest, small_workflow

from fairseq_kd.pipeline.execution import run_step
from fairseq_kd.pipeline.history import ancestors, read_manifests, stands_on, write_history
from fairseq_kd.pipeline.status import prepare_steps, step_statuses

NAMES = ["data", "teacher", "middle", "student", "undistilled", "evaluation"]


def build(workflow, names):
    prepare_steps(workflow, step_statuses(workflow))
    for name in names:
        assert run_step(workflow, name) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run and its pages."""
    text = tmp_path_factory.mktemp("text") / "text"
    text.write_text("one\n")
    workflow = small_workflow(tmp_path_factory.mktemp("history") / "run", reads=[str(text)])
    build(workflow, NAMES)
    evaluated = {"quality": {"scores": {"student": {"BLEU": {"score": 14.1}}}}}
    (Path(workflow.folder) / "evaluation.json").write_text(json.dumps(evaluated))
    page = write_history(workflow)
    return workflow, page.with_suffix(".md").read_text(), page.read_text()


def line(parents, kinds=()):
    """Manifests of models with their parents, as many as are named."""
    kinds = dict(kinds)
    return [
        {"step": name, "kind": kinds.get(name, "train"), "parents": list(before)}
        for name, before in parents.items()
    ]


def test_ancestors_are_reported_from_the_oldest(whole):
    manifests = read_manifests(whole[0])
    assert ancestors("student", manifests) == ["teacher", "middle"]
    assert ancestors("middle", manifests) == ["teacher"]
    assert ancestors("undistilled", manifests) == ancestors("data", manifests) == []


def test_a_teacher_that_was_given_stands_at_the_beginning_of_the_line():
    manifests = line({"half": "", "student": ["half"], "undistilled": ""})
    reads = ({"bin/train.idx": "", "big/teacher.pt": ""}, {"bin/train.idx": ""}, {})
    for each, files in zip(manifests, reads, strict=True):
        each["recipe"] = {"reads": files}
    message = [stands_on(each, manifests) for each in manifests]
    assert message == ["big/teacher.pt", "big/teacher.pt → half", "the references"]


@pytest.mark.parametrize("kind", ["store", "translate"])
def test_a_teacher_whose_store_or_translations_teach_stands_at_the_beginning(kind):
    manifests = line({"soft": [], "student": ["soft"]}, {"soft": kind})
    for each, reads in zip(manifests, (["bin/train.idx", "big/teacher.pt"], []), strict=True):
        each["recipe"] = {"reads": dict.fromkeys(reads, "")}
    assert stands_on(manifests[1], manifests) == "big/teacher.pt"


def test_what_a_control_inherits_from_stands_at_the_beginning_of_the_line():
    kinds = {"student-start": "inherit", "data": "prepare"}
    manifests = line({"data": "", "student-start": "", "inherited": ["student-start"]}, kinds)
    reads = ({}, {"big/teacher.pt": ""}, {"bin/train.idx": ""})
    for each, files in zip(manifests, reads, strict=True):
        each["recipe"] = {"reads": files}
    assert stands_on(manifests[-1], manifests) == "big/teacher.pt"


@pytest.mark.parametrize(
    "parents",
    [
        {"t": "", "a": "t", "s": "at"},  # by two ways
        {"t": "", "a": "t", "s": "ta"},
        {"t": "", "a": "t", "b": "a", "s": "tb"},
        {"t": "", "u": "", "a": "tu", "b": "at", "s": "ba"},
    ],
)
def test_who_taught_another_stands_before_it(parents):
    found = ancestors("s", line(parents))
    assert sorted(found) == sorted(parents.keys() - {"s"})
    for name in found:
        assert all(found.index(each) < found.index(name) for each in parents[name])


@pytest.mark.parametrize("parents", [{"s": "s"}, {"a": "s", "s": "a"}, {"a": "ab", "b": "a"}])
def test_ancestors_that_lead_in_a_circle_are_reported_once(parents):
    last = [*parents][-1]
    assert sorted([last, *ancestors(last, line(parents))]) == sorted(parents)


def test_what_is_no_figure_is_not_shown(tmp_path):
    workflow = small_workflow(tmp_path / "run")
    build(workflow, NAMES[:2])
    path = tmp_path / "run" / "steps" / "teacher.json"
    for score, shown in ((1.234, "1.23"), ("x", "-"), (None, "-")):
        changed = {"scores": {"nll_loss": score}, "seconds": -31535932}
        path.write_text(json.dumps({**manifest(workflow, "teacher"), **changed}))
        text = write_history(workflow).with_suffix(".md").read_text()
        row = next(line for line in text.splitlines() if line.startswith("| teacher"))
        assert [cell.strip() for cell in row.split("|")][5:8] == [shown, "-", "0:00:00"]


def test_ancestors_are_found_through_what_they_left_on_disk():
    parents = {"t": "", "x": "t", "a": "x", "y": "a", "s": "y"}
    assert ancestors("s", line(parents, {"x": "store", "y": "inherit"})) == ["t", "a"]


def test_every_model_is_reported_with_what_it_stands_on_and_its_score(whole):
    _, text, _ = whole
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()]
    student = next(row for row in rows if row and row[0] == "student")
    assert student[1] == "teacher → middle"
    assert student[5] == "14.1"
    undistilled = next(row for row in rows if row and row[0] == "undistilled")
    assert undistilled[1] == "the references"
    assert undistilled[5] == "-"


def test_both_pages_hold_every_command_and_every_hash(whole):
    workflow, text, page = whole
    for step in workflow.steps:
        message = manifest(workflow, step.name)
        hashes = [made["sha256"] for made in message["outputs"].values()]
        hashes += message["recipe"]["reads"].values()
        assert hashes
        assert all(each in text and each in page for each in hashes)
        assert step.commands[0][5] in text  # of bash -c SCRIPT slowly LINES FOLDER
        assert step.commands[0][5] in page
        assert message["versions"] in text


def test_a_run_that_is_half_done_has_a_page_too(tmp_path):
    workflow = small_workflow(tmp_path / "run")
    empty = write_history(workflow).read_text()
    assert "<b>0</b><span>models trained</span>" in empty
    build(workflow, NAMES[:3])
    page = write_history(workflow)
    assert page == tmp_path / "run" / "history.html"
    assert "<b>2</b><span>models trained</span>" in page.read_text()
    text = page.with_suffix(".md").read_text()
    assert "\n## middle\n" in text
    assert "\n## student\n" not in text
    assert [each["step"] for each in read_manifests(workflow)] == NAMES[:3]
