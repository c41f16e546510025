"""What a driver finds out of a Slurm cluster, by programs that answer as those of one do."""

import io
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from workflows import small_workflow

from fairseq_kd.child_process import TOKEN
from fairseq_kd.pipeline import driver, follower, slurm
from fairseq_kd.pipeline.follower import Follower
from fairseq_kd.pipeline.slurm import state_flags, watched

DISABLED = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
SQUEUE = (
    "The states of jobs are read by squeue, as with slurm-status-command: squeue in the profile, "
    "since sacct fails: Slurm accounting storage is disabled."
)
FORGETS = (
    "Slurm forgets a job 60 seconds after its end (MinJobAge), but its state is read only every "
    "180 seconds in a long job. If the run does not go on after a job, stop it and run the same "
    "command again."
)
FAILED = """\
Error in rule train_stage:
    message: {message}
    jobid: 2
    input: steps/data.json
    output: steps/{step}.json
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Puts sacct and scontrol on PATH, as shell scripts."""

    def programs(sacct, age=300):
        folder = tmp_path / "bin"
        folder.mkdir()
        config = f"echo 'MessageTimeout = 10 sec'; echo 'MinJobAge               = {age} sec'"
        for name, script in (("sacct", sacct), ("scontrol", config)):
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return programs


@pytest.mark.parametrize("command", ["sacct", None])
def test_without_accounting_the_states_of_jobs_are_read_by_squeue(cluster, command):
    cluster(DISABLED)
    assert state_flags("slurm", command) == (["--slurm-status-command", "squeue"], [SQUEUE])


def test_with_accounting_they_are_read_by_sacct(cluster):
    cluster("exit 0", age=60)
    assert state_flags("slurm", None) == ([], [])


def test_other_executors_and_squeue_need_no_accounting(cluster):
    cluster(DISABLED)
    assert state_flags("local", None) == ([], [])
    assert state_flags("slurm", "squeue") == ([], [])


def test_a_cluster_that_forgets_jobs_early_is_reported(cluster):
    cluster(DISABLED, age=60)
    assert state_flags("slurm", "squeue") == ([], [FORGETS])
    assert state_flags("slurm", None)[1] == [SQUEUE, FORGETS]


def test_snakemake_gets_the_flag_and_the_user_the_reason(cluster, tmp_path, monkeypatch, capsys):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    cluster(DISABLED)
    given = []
    monkeypatch.setattr(driver, "_snakemake", lambda *words: given.append(words[2]) or -9)
    flags = ["--executor", "slurm", "--jobs", "2"]
    assert driver.run_workflow(small_workflow(tmp_path / "run"), None, flags) == 137
    assert given == [[*flags, "--slurm-status-command", "squeue"]]
    assert capsys.readouterr().err.startswith(f"{SQUEUE}\n")


def test_the_last_log_of_a_failed_job_is_named_beside_that_of_its_step(
    tmp_path, monkeypatch, capsys
):
    logs = tmp_path / "run" / ".snakemake" / "slurm_logs" / "rule_train_stage"

    def fail(workflow, *others):
        for name in ("teacher/8.log", "teacher/11.log", "undistilled/9.log"):
            (logs / name).parent.mkdir(parents=True, exist_ok=True)
            (logs / name).touch()
        os.utime(logs / "teacher" / "8.log", (2e9, 2e9))
        os.utime(logs / "teacher" / "11.log", (3e9, 3e9))
        (tmp_path / "run" / "steps" / "teacher.attempts").touch()
        return 1

    old = logs / "middle" / "7.log"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (1, 1))
    monkeypatch.setattr(driver, "_snakemake", fail)
    assert driver.run_workflow(small_workflow(tmp_path / "run"), None, []) == 1
    named = (
        f"Not finished: teacher (log: {tmp_path}/run/logs/teacher.log, of its last job: "
        f"{logs}/teacher/11.log), undistilled (of its last job: {logs}/undistilled/9.log). The log"
    )
    assert named in capsys.readouterr().err


@pytest.fixture
def controller(tmp_path, monkeypatch):
    """A file without which the stand-in of squeue gets no answer."""
    there, program = tmp_path / "there", tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\ntest -f {there} && exit\necho 'connect failure' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "PING_SECONDS", 0.01)
    return there


def wait_for(words, stderr):
    """Waits until a thread has written some words."""
    deadline = time.monotonic() + 60
    while words not in stderr.getvalue():
        assert time.monotonic() < deadline, stderr.getvalue()
        time.sleep(0.01)


def test_a_controller_that_does_not_answer_is_reported_once_and_its_return(controller, monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)  # capsys would lose what comes while it is read
    controller.touch()
    with watched("slurm"):
        time.sleep(0.2)
        controller.unlink()
        wait_for("Ctrl+C", stderr)
        time.sleep(0.2)
        controller.touch()
        wait_for("Slurm answers again.\n", stderr)
    assert stderr.getvalue() == (
        "Slurm does not answer: connect failure. Jobs that run go on, and this run does when Slurm "
        "answers again. To end it, press Ctrl+C; the same command resumes it.\n"
        "Slurm answers again.\n"
    )


@pytest.mark.parametrize("executor", [None, "kubernetes"])
def test_other_executors_need_no_slurm(controller, capsys, executor):
    with watched(executor):
        time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_the_reason_of_a_failed_job_is_shown_at_once_with_its_step(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(follower, "POLL_SECONDS", 60)
    log = tmp_path / "snakemake.log"
    with Follower(tmp_path) as following, log.open("a") as file:
        for step, message in (
            ("here", "None"),
            ("generic", "For further error details see the cluster/cloud log."),
            ("student", "SLURM-job '5' failed.For further error details see the cluster log."),
        ):
            text = FAILED.format(step=step, message=message)
            for part in (text[:70], text[70:]):
                file.write(part)
                file.flush()
                following._look()
        file.write("rule train_stage:\n    output: steps/student.json\n")
    assert capsys.readouterr().err == "student: SLURM-job '5' failed.\n"


@pytest.mark.parametrize(("flags", "inherited"), [([], True), (["--executor", "local"], False)])
def test_jobs_do_not_inherit_the_mark_by_which_a_driver_ends_its_children(
    tmp_path, monkeypatch, flags, inherited
):
    given = []

    @contextmanager
    def child(command, **options):
        given.append(command[command.index("-c") + 1])
        yield SimpleNamespace(wait=lambda: -9)

    monkeypatch.setattr(driver, "child", child)
    monkeypatch.setenv(TOKEN, "of the driver")
    driver.run_workflow(small_workflow(tmp_path / "run"), None, flags)
    code = given[0].replace("main()", f"sys.exit({TOKEN!r} in os.environ)")
    status = subprocess.run([sys.executable, "-c", code]).returncode
    assert status == int(inherited)
