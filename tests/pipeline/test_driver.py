"""The driver with a real Snakemake, whose steps are small shell commands."""

import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from disks import small_disk
from harness import ROOT
from workflows import build, drive, finish, made, manifest, slow_step, small_workflow

from fairseq_kd import cli
from fairseq_kd.files.write_errors import explained
from fairseq_kd.pipeline import driver
from fairseq_kd.pipeline.status import StepStatus
from fairseq_kd.pipeline.workflow import write_workflow

pytestmark = pytest.mark.skipif(find_spec("snakemake") is None, reason="needs Snakemake")
NAMES = ["data", "teacher", "middle", "student", "undistilled", "evaluation"]


PROFILE = """\
__use_yte__: true
__definitions__: [import pathlib, "pathlib.Path('profile').touch()"]
"""
TRAPS = {
    "profiles/default/config.yaml": PROFILE,
    **{
        f"{module}.py": f"open({module!r}, 'w')"
        for module in ("snakemake", "fairseq_kd", "yte", "argparse")
    },
    ".snakemake/pip-deployments/snakemake_executor_plugin_x/__init__.py": "open('plugin', 'w')",
}


@pytest.fixture(scope="module")
def started_in(tmp_path_factory):
    """A folder whose files leave a file there if they are run."""
    folder = tmp_path_factory.mktemp("started in")
    for name, content in TRAPS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.fixture(scope="module")
def whole(started_in, tmp_path_factory):
    """An undisturbed run, in a folder with any name, and its messages."""
    workflow = small_workflow(tmp_path_factory.mktemp("whole") / "it's #1: a run")
    return workflow, finish(workflow, cwd=started_in)


def test_no_file_of_the_folder_where_it_was_started_is_run(whole, started_in):
    files = {str(path.relative_to(started_in)) for path in started_in.rglob("*") if path.is_file()}
    assert files == {*TRAPS}


def begun(message):
    return re.findall(r"^\[\d+/\d+\] ([\w-]+)$", message, re.M)


def test_every_step_is_made_once_and_in_order(whole):
    workflow, message = whole
    assert sorted(begun(message)) == sorted(NAMES)
    order = begun(message)
    for step in workflow.steps:
        assert all(order.index(name) < order.index(step.name) for name in step.after)
    assert all(manifest(workflow, name)["attempts"] == 1 for name in NAMES)
    assert "history.html documents how every result was made" in message


def test_one_step_at_a_time_has_the_machine(whole):
    workflow, _ = whole
    times = sorted(
        (manifest(workflow, n)["begun"], manifest(workflow, n)["finished"]) for n in NAMES
    )
    for (_, finished), (started, _) in pairwise(times):
        assert finished <= started


def test_a_second_time_there_is_nothing_to_do(whole):
    workflow, _ = whole
    message = finish(workflow)
    assert begun(message) == []
    assert len(re.findall(r"^  done ", message, re.M)) == 6


def test_a_changed_option_is_reported_and_only_what_depends_on_it_is_made(whole, tmp_path):
    workflow = small_workflow(tmp_path / "run")
    build(workflow)
    message = finish(small_workflow(tmp_path / "run", student_lines=6))
    assert begun(message) == ["student", "evaluation"]
    assert re.search(r"^  changed +student +command was .* is bash -c", message, re.M | re.S)
    assert f"{workflow.folder}/student is now {workflow.folder}/replaced/student.1" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["half"], "half is not a flag of Snakemake. Did you mean --until half?"),
        (["--set", "seed=2", "--", "-n"], "-- -n of Snakemake is --dry-run here, before --."),
        (["--", "-n"], "-- -n of Snakemake is --dry-run here, before --. Give that instead."),
    ],
)
def test_a_flag_of_snakemake_that_progressive_has_itself_is_refused(
    tmp_path, capsys, flags, message
):
    assert cli.main(["progressive", str(tmp_path / "run.yaml"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_until_a_step_only_what_it_needs_is_made(tmp_path):
    workflow = small_workflow(tmp_path / "run")
    assert driver.wanted(workflow, "middle") == ["data", "teacher", "middle"]
    with pytest.raises(ValueError, match="has no step none"):
        driver.wanted(workflow, "none")


def test_a_second_driver_names_the_process_of_the_first(tmp_path):
    workflow = small_workflow(tmp_path / "run", student_lines=200)
    first = drive(workflow)
    lock = tmp_path / "run" / ".lock"
    while not (lock.is_file() and lock.read_text()):
        time.sleep(0.05)
    second = drive(workflow)
    message = second.communicate()[1]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.returncode == 1
    assert re.search(rf"run is in use since .* by process {first.pid} on ", message)


def test_a_failing_step_is_named_with_its_log_and_goes_on_when_mended(tmp_path):
    workflow, broken = small_workflow(tmp_path / "run"), tmp_path / "broken"
    broken.touch()
    build(workflow, "data", "undistilled")
    middle = workflow.step("middle")
    middle = middle._replace(commands=[["test", "!", "-e", str(broken)], *middle.commands])
    steps = [middle if step.name == "middle" else step for step in workflow.steps]
    write_workflow(workflow._replace(steps=steps))
    failing = drive(workflow)
    message = failing.communicate()[1]
    assert failing.returncode == 1
    assert (
        f"Not finished: middle (log: {workflow.folder}/logs/middle.log). The log has the "
        "reason" in message
    )
    assert "middle failed: test '!' -e" in message
    broken.unlink()
    assert "teacher" not in begun(finish(workflow))


def test_commands_that_come_into_the_workflow_while_a_run_goes_on_are_not_run(tmp_path):
    workflow, file = small_workflow(tmp_path / "run"), tmp_path / "run" / "workflow.json"
    data = workflow.step("data")
    changed = [*data.commands, ["sed", "-i", "s/slowly/theirs/", str(file)]]
    workflow = workflow._replace(steps=[data._replace(commands=changed), *workflow.steps[1:]])
    write_workflow(workflow)
    running = drive(workflow)
    message = running.communicate()[1]
    assert running.returncode == 1
    refused = f"fairseq-kd step: {file} was modified after fairseq-kd progressive wrote it"
    assert f"{refused}. None of its commands is run. Run fairseq-kd progressive again" in message
    assert begun(message) == ["data"]
    assert not (tmp_path / "run" / "teacher").exists()


def test_what_somebody_wrote_for_the_engine_is_not_taken(tmp_path):
    theirs = tmp_path / "steps" / "driver.json"
    theirs.parent.mkdir()
    theirs.write_text('{"python": "theirs"}')
    words = ["--snakefile", str(driver.SNAKEFILE), "--directory", str(tmp_path), "--dry-run"]
    words += ["--config", "driver=sha256-0"]
    found = subprocess.run([sys.executable, "-m", "snakemake", *words], capture_output=True)
    assert found.returncode == 1
    assert b"steps/driver.json was changed since fairseq-kd progressive wrote it." in found.stdout


def test_an_engine_that_was_killed_is_reported_as_that(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(driver, "_snakemake", lambda *given: -signal.SIGKILL)
    assert driver.run_workflow(small_workflow(tmp_path / "run"), None, []) == 128 + signal.SIGKILL
    message = "Not finished: Snakemake was ended by SIGKILL. Finished steps are kept; run the same"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "cores"), [("4,2", 4), (" 3 ", 3), ("08", 8), ("", None), (None, None)]
)
def test_as_many_cores_are_used_as_openmp_is_given(given, cores, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert driver._cores() == (cores or len(os.sched_getaffinity(0)))


def test_cores_that_this_process_may_not_use_are_not_counted(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 7})
    assert driver._cores() == 3


@pytest.mark.parametrize("given", ["abc", "0", "-1", "4x", "1" * 5000, "٤"])
def test_a_number_of_threads_that_is_none_is_refused_by_its_variable(tmp_path, monkeypatch, given):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    message = (
        f"OMP_NUM_THREADS must be a number of threads, such as 4, but is {given!r:.60}. Correct"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        driver.run_workflow(small_workflow(tmp_path / "run"), None, [])


def test_a_pipe_in_the_place_of_a_log_is_refused(tmp_path):
    workflow = small_workflow(tmp_path / "run")
    (tmp_path / "run" / "logs").mkdir()
    os.mkfifo(tmp_path / "run" / "logs" / "middle.log")
    message = r"logs/middle\.log must be a regular file, but is a pipe or a device\. Remove it\."
    with pytest.raises(ValueError, match=message):
        driver.run_workflow(workflow, None, [])


def test_a_pause_of_the_progress_that_is_none_is_refused_before_the_first_step(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("FAIRSEQ_KD_LOG_SECONDS", "abc")
    with pytest.raises(ValueError, match="FAIRSEQ_KD_LOG_SECONDS must be a number from 0 to 86,4"):
        driver.run_workflow(small_workflow(tmp_path / "run"), None, [])


def test_control_characters_in_an_overview_are_not_sent_to_the_terminal(workflow):
    status = StepStatus(workflow.steps[0], {}, "changed", "--lr was \033]0;x\007\nmore, is 1")
    message = "  changed     data  --lr was \\x1b]0;x\\x07\nmore, is 1"
    assert driver.overview([status]) == message


@pytest.mark.parametrize("name", ["middle.log", "snakemake.log"])
def test_a_link_in_the_place_of_a_log_is_refused(tmp_path, name):
    workflow, precious = small_workflow(tmp_path / "run"), tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "run" / "logs").mkdir()
    (tmp_path / "run" / "logs" / name).symlink_to(precious)
    with pytest.raises(ValueError, match=rf"{name} is a symbolic link\. Replace it by the file"):
        driver.run_workflow(workflow, None, [])
    assert precious.read_text() == "precious"


def test_a_disk_that_gets_full_in_a_step_is_reported_and_what_was_made_is_kept(tmp_path):
    with small_disk(tmp_path / "disk", "size=16m") as disk:
        workflow = small_workflow(disk / "run")
        build(workflow, "data", "undistilled")
        filling = ["dd", "if=/dev/zero", f"of={disk}/run/large", "bs=1M", "count=32"]
        middle = workflow.step("middle")._replace(commands=[filling])
        workflow = workflow._replace(
            steps=[middle if s.name == "middle" else s for s in workflow.steps]
        )
        with pytest.raises(OSError) as error:  # noqa: PT011
            driver.run_workflow(workflow, None, [])
        kept = "finished steps are kept"
        message = (
            f"The disk of {workflow.folder} is full; {kept}. Free some space and run the same "
        )
        assert explained(error.value, None, kept).startswith(message)
        (disk / "run" / "large").unlink()
        assert "teacher" not in begun(finish(small_workflow(disk / "run")))


def kill_at_random_moments(workflow, times, seed):
    """Starts the driver again and again and kills it; what it started must go with it."""
    chance, killed = random.Random(seed), 0
    while killed < times:
        process = drive(workflow)
        time.sleep(chance.uniform(0.3, 2.5))
        assert process.poll() is None, "the run ended before it was killed often enough"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += 1


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same(tmp_path, times):
    workflow = small_workflow(tmp_path / "run", times=4 * times)
    kill_at_random_moments(workflow, times, seed=times)
    finish(workflow)
    undisturbed = small_workflow(tmp_path / "undisturbed", times=4 * times)
    build(undisturbed)
    assert made(workflow) == made(undisturbed)
    assert not list(Path(workflow.folder).glob("replaced/*"))


SBATCH = """\
#!{python}
# Stands in for a cluster's submission: runs the job script in the background, each on its own
# "node", and dies on the node of the first job of the teacher as if it lost power.
import os, re, subprocess, sys
state = {state!r}
script = open(sys.argv[-1]).read()
number = len(os.listdir(state)) + 1
job = os.path.join(state, str(number))
open(job, "w").write("running")
first = "steps/teacher.json" in script and not os.path.exists(state + "-lost")
lost = {attempts!r} if first else ""
if lost:
    open(state + "-lost", "w").close()
watch = '''
setsid bash "$1" & pid=$!
if [ -n "$3" ]; then until [ -e "$3" ]; do sleep 0.1; done; sleep 0.5; kill -9 -- -$pid; fi
if wait $pid; then echo success > "$2"; else echo failed > "$2"; fi
'''
subprocess.Popen(["bash", "-c", watch, "node", sys.argv[-1], job, lost], start_new_session=True,
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(number)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("snakemake_executor_plugin_cluster_generic") is None, reason="needs the executor"
)
def test_a_cluster_runs_the_steps_and_a_job_whose_node_dies_is_run_again(whole, tmp_path):
    state = tmp_path / "jobs"
    state.mkdir()
    sbatch, sacct = tmp_path / "sbatch", tmp_path / "sacct"
    attempts = str(tmp_path / "run" / "steps" / "teacher.attempts")
    names = {"python": sys.executable, "state": str(state), "attempts": attempts}
    sbatch.write_text(SBATCH.format(**names))
    sacct.write_text(f'#!/bin/sh\ncat "{state}/$1"\n')
    for script in (sbatch, sacct):
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    folder = tmp_path / "run"
    workflow = small_workflow(folder)
    shards = [f"translations-{index}-of-3" for index in (1, 2, 3)]
    parts = [slow_step(folder, name, 100, "data")._replace(kind="translate") for name in shards]
    merged = slow_step(folder, "translations", 1, *shards)._replace(kind="merge")
    teacher = slow_step(folder, "teacher", 200, "data")
    steps = [teacher if step.name == "teacher" else step for step in workflow.steps]
    workflow = workflow._replace(steps=[*steps, *parts, merged])
    write_workflow(workflow)
    engine = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(sbatch)]
    engine += ["--cluster-generic-status-cmd", str(sacct), "--jobs", "6", "--retries", "2"]
    engine += ["--seconds-between-status-checks", "1", "--latency-wait", "10"]
    for trap in ("yaml.py", "snakemake_executor_plugin_x/__init__.py"):
        (folder / trap).parent.mkdir(exist_ok=True)
        (folder / trap).write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    message = finish(workflow, *engine)
    assert not (tmp_path / "sprung").exists()
    assert (tmp_path / "jobs-lost").exists()
    assert manifest(workflow, "teacher")["attempts"] == 2
    assert sorted(set(begun(message))) == sorted([*NAMES, *shards, "translations"])
    assert made(workflow)["teacher"] == ["line\n" * 200 + made(whole[0])["data"][0]]
    ends = {name: manifest(workflow, name) for name in (*shards, "translations")}
    last_begun = max(ends[name]["begun"] for name in shards)
    assert all(last_begun < ends[name]["finished"] for name in shards)  # all at the same time
    assert ends["translations"]["begun"] >= max(ends[name]["finished"] for name in shards)


@pytest.mark.parametrize("module", ["driver", "execution", "preparation"])
def test_a_step_begins_without_the_seconds_that_torch_takes(module):
    code = f"import sys, fairseq_kd.pipeline.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_without_snakemake_the_line_that_installs_it_is_reported(monkeypatch):
    monkeypatch.setattr(driver, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs Snakemake: pip install 'snakemake>=9'"):
        driver.check_snakemake()


def test_the_snakefile_is_formatted():
    formatter = [sys.executable, "-m", "snakefmt", "--check", str(driver.SNAKEFILE)]
    found = subprocess.run(formatter, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
