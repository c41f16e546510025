"""--jobs: steps at the same time, each with its own GPU, never before what they need."""

import json
import re
import signal
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import pytest
from workflows import drive, finish, manifest, slow_step, small_workflow

from fairseq_kd import cli
from fairseq_kd.pipeline import driver
from fairseq_kd.pipeline.execution import VISIBLE, visible_gpus
from fairseq_kd.pipeline.workflow import (
    Training,
    read_workflow,
    workflow_sha256,
    write_workflow,
)

pytestmark = pytest.mark.skipif(find_spec("snakemake") is None, reason="needs Snakemake")
STUDENTS = ["one", "two", "three"]
DEVICE = "evaluate.device is cuda or both"


def wide_workflow(folder):
    """A teacher, three students that need only it, and an evaluation; each records its GPU."""
    small = small_workflow(folder)
    steps = [slow_step(folder, "data", 2), slow_step(folder, "teacher", 5, "data")]
    steps += [slow_step(folder, name, 60, "teacher") for name in STUDENTS]
    steps.append(slow_step(folder, "evaluation", 1, "teacher", *STUDENTS))
    message = f'echo "$1 ${VISIBLE} $OMP_NUM_THREADS" >> {folder}/message'
    steps = [
        step._replace(commands=[["bash", "-c", message, "message", step.name], *step.commands])
        for step in steps
    ]
    workflow = small._replace(steps=steps)
    write_workflow(workflow)
    return workflow


def message(workflow):
    """The GPU and the threads of each step."""
    lines = [line.split() for line in (Path(workflow.folder) / "message").read_text().splitlines()]
    return {name: (gpu, threads) for name, gpu, threads in lines}


def spans(workflow, names):
    return [
        (manifest(workflow, name)["begun"], manifest(workflow, name)["finished"]) for name in names
    ]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Two jobs on four cores and two GPUs."""
    workflow = wide_workflow(tmp_path_factory.mktemp("wide") / "run")
    finish(workflow, jobs=2, env={VISIBLE: "3,5", "OMP_NUM_THREADS": "4"})
    return workflow


def test_two_students_at_most_run_at_the_same_time(wide):
    times = spans(wide, STUDENTS)
    overlapping = [a for a in combinations(times, 2) if max(a)[0] < min(a[0][1], a[1][1])]
    assert overlapping
    assert len(overlapping) < 3
    (_, taught), (evaluated, _) = spans(wide, ["teacher", "evaluation"])
    assert all(taught <= begun and ended <= evaluated for begun, ended in times)


def test_each_has_a_gpu_of_its_own_and_its_share_of_the_cores(wide):
    given = message(wide)
    assert {given[name][0] for name in STUDENTS} == {"3", "5"}
    assert {given[name][1] for name in STUDENTS} == {"2"}
    assert given["evaluation"][1] == "4"


@pytest.mark.slow
def test_after_a_kill_the_same_command_goes_on(tmp_path):
    workflow = wide_workflow(tmp_path / "run")
    first = drive(workflow, jobs=3)
    while not (tmp_path / "run" / "two").is_dir():
        assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finish(workflow, jobs=3)
    assert manifest(workflow, "teacher")["attempts"] == 1
    assert all(manifest(workflow, name) for name in STUDENTS)


@pytest.mark.parametrize(
    ("kind", "gpus", "flag", "there", "why"),
    [
        ("train", 2, None, "1", "needs 2 GPUs, since gpus is 2, but this process can use 1"),
        ("train", 0, "fp16", "", "needs 1 GPU, since fp16 is given, but this process can use none"),
        ("evaluate", 1, None, "", f"needs 1 GPU, since {DEVICE}, but this process can use none"),
    ],
)
def test_gpus_that_are_not_there_are_missed_before_anything_runs(
    tmp_path, monkeypatch, kind, gpus, flag, there, why
):
    monkeypatch.setenv(VISIBLE, there)
    workflow = small_workflow(tmp_path / "run")
    steps = [
        step._replace(kind=kind, gpus=gpus, training=Training(needs_gpu=flag))
        for step in workflow.steps
    ]
    with pytest.raises(ValueError, match=rf"^data {why} on this machine\. Leave that out, or "):
        driver.run_workflow(workflow._replace(steps=steps), None, [])
    assert not (tmp_path / "run" / "steps").exists()


def test_what_is_recorded_of_a_training_is_read_again_and_may_be_missing(tmp_path):
    workflow = small_workflow(tmp_path / "run")
    kept = (tmp_path / "run" / "workflow.json").read_text(encoding="utf-8")
    assert "training" not in kept  # as in the files of versions that did not record it
    assert read_workflow(tmp_path / "run" / "workflow.json", workflow_sha256(workflow)) == workflow
    steps = [step._replace(training=Training("fp16", True)) for step in workflow.steps]
    recorded = workflow._replace(steps=steps)
    path = write_workflow(recorded)
    assert read_workflow(path, workflow_sha256(recorded)) == recorded


ELSEWHERE = (
    "--jobs divides this machine, but --profile, --workflow-profile, an executor or "
    "SNAKEMAKE_PROFILE runs the steps elsewhere. Give the number of jobs to Snakemake: -- --jobs N."
)
CORES = "--jobs divides all cores, or as many as OMP_NUM_THREADS gives. Leave out --cores."


@pytest.mark.parametrize(
    ("gpus", "flags", "message"),
    [
        (0, ["--executor", "slurm"], ELSEWHERE),
        (0, ["--workflow-profile", "p"], ELSEWHERE),
        (0, ["-c4"], CORES),
        (0, ["--cores", "4"], CORES),
        (2, [], "--jobs is 2, but data uses several GPUs. Leave out --jobs or gpus."),
    ],
)
def test_jobs_that_cannot_be_side_by_side_are_refused(tmp_path, gpus, flags, message):
    workflow = small_workflow(tmp_path / "run")
    steps = [step._replace(gpus=gpus or step.gpus) for step in workflow.steps]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        driver.run_workflow(workflow._replace(steps=steps), None, flags, 2)


def test_a_number_of_jobs_for_a_run_that_is_only_shown_is_refused(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(json.dumps({"data": "nowhere"}))
    words = ["progressive", str(tmp_path / "run.yaml"), "--jobs", "2", "--dry-run"]
    assert cli.main(words) == 2
    assert "--jobs has no effect with --dry-run or --shell." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "gpus"), [("", []), ("0", ["0"]), ("2, 7", ["2", "7"]), ("0,-1,1", ["0"])]
)
def test_visible_gpus_are_those_that_the_environment_names(named, gpus, monkeypatch):
    monkeypatch.setenv(VISIBLE, named)
    assert visible_gpus() == gpus
