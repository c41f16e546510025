"""Runs on a real Slurm of two nodes, disturbed as clusters are: they end as the undisturbed run."""

import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from forks import run_forked
from harness import ENVIRONMENT, ROOT, write_text
from local_slurm import local_slurm, missing
from workflows import drive, small_workflow

from fairseq_kd.checkpoints.reading import read_checkpoint

PLUGIN = "snakemake_executor_plugin_slurm"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec(PLUGIN) is None, reason="needs Snakemake's executor for Slurm"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
PAGE = (ROOT / "docs" / "progressive.md").read_text(encoding="utf-8")
(PROFILE,) = re.findall(r"^```yaml\n(executor: slurm\n.*?)^```", PAGE, re.M | re.S)
SMALL = ["encoder-embed-dim=32", "decoder-embed-dim=32", "encoder-ffn-embed-dim=64"]
SMALL += ["max-update=30", "save-interval-updates=10", "warmup-updates=10"]
# Threads that wait without work: the nodes have fewer cores than they claim.
PASSIVE = {"OMP_WAIT_POLICY": "passive"}
TWO_NODES = """\
run: {folder}
data: {data}
teacher: {teacher}
ladder: [{{ratio: 0.5, name: student}}]
each: {{temperature: 1}}
train: {{cpu: true, dropout: 0, max-update: 40, max-tokens: 400, lr: 0.005, log-interval: 1,
  save-interval-updates: 10, update-freq: {update_freq}}}
controls: []
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with local_slurm(tmp_path_factory.mktemp("slurm") / "slurm") as slurm:
        yield slurm


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The profile of the page, in a folder as it says."""
    folder = tmp_path_factory.mktemp("profile") / "slurm"
    folder.mkdir()
    (folder / "config.yaml").write_text(PROFILE, encoding="utf-8")
    return folder


@pytest.fixture
def start(slurm, tmp_path):
    """Starts drivers, which end with the test."""
    drivers = []

    def driver(*words, out="messages", env=None):
        drivers.append(
            Driver(slurm, tmp_path / out, words, {**ENVIRONMENT, **PASSIVE, **(env or {})})
        )
        return drivers[-1]

    yield driver
    for each in drivers:
        each.process.kill()


class Driver:
    """A run, whose messages go into a file."""

    def __init__(self, slurm, out, words, env):
        self.slurm, self.out = slurm, out
        command = [sys.executable, "-m", "fairseq_kd.cli", "progressive", *map(str, words)]
        with out.open("a") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=file)

    def until(self, condition, seconds=300):
        """Waits for a condition of the jobs, by the names of their steps."""

        def met():
            assert self.process.poll() is None, self.out.read_text()
            return condition(self.slurm.running())

        return self.slurm.wait(met, seconds)

    def ends(self):
        assert self.process.wait(600) == 0, self.out.read_text() + self.slurm.report()
        return self.out.read_text()


def stop(save_dir, number=signal.SIGSTOP):
    """Sends a signal to the trainers that write into a folder."""
    mark, found = f"--save-dir\0{save_dir}\0".encode(), []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if mark in words and b"bin/fairseq-train\0" in words.partition(mark)[0]:
            os.kill(int(path.parent.name), number)
            found.append(path)
    return found


def weights(path):
    return read_checkpoint(str(path))["model"]


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def power_fails(slurm, node):
    """A node goes down with all that runs on it, and comes back."""
    slurm.lose_power(node)
    slurm.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=power")
    slurm.start_node(node)
    slurm.ask("scontrol", "update", f"nodename={node}", "state=resume")


def test_the_demo_on_two_nodes_ends_as_here_whatever_happens_to_its_jobs(
    slurm, profile, start, tmp_path
):
    text = write_text(tmp_path / "text", {"train": 160, "valid": 20, "test": 10})
    changes = [f"data.text={text}", "evaluate.rounds=0", *(f"train.{each}" for each in SMALL)]
    here, there = tmp_path / "here" / "demo", tmp_path / "there" / "demo"
    words = ["scripts/demo.yaml", *(word for change in changes for word in ("--set", change))]
    # As many as the profile gives a training, if the machine has so many.
    threads = {"OMP_NUM_THREADS": str(min(4, os.cpu_count()))}
    undisturbed = start(*words, "--set", f"run={here}", out="here.messages", env=threads)
    words += ["--set", f"run={there}", "--profile", profile]
    run = start(*words)

    shards = ["teacher-translations-1-of-2", "teacher-translations-2-of-2"]
    jobs = run.until(lambda jobs: {*shards} <= jobs.keys() and jobs)  # at the same time
    assert {"n1", "n2"} == {node for _, node in jobs.values()}
    slurm.ask("scancel", jobs[shards[0]][0])

    # A training that hangs until its time is up.
    run.until(lambda jobs: (there / "undistilled" / "checkpoint_last.pt").exists())
    assert stop(there / "undistilled")
    job, _ = slurm.running()["undistilled"]
    slurm.ask("scontrol", "update", f"jobid={job}", "endtime=now")
    run.until(lambda jobs: jobs.get("undistilled", (job,))[0] != job)

    run.until(lambda jobs: (there / "student" / "checkpoint_last.pt").exists())
    assert stop(there / "student")
    job, node = slurm.running()["student"]
    power_fails(slurm, node)
    run.until(lambda jobs: jobs.get("student", (job,))[0] != job and stop(there / "student"))

    run.process.kill()
    run.process.wait()
    changed = start(*words, "--set", "train.max-update=31", out="changed")
    assert changed.process.wait() != 0
    assert "student" in slurm.running()
    refused = r"(student|undistilled) still runs with its old commands, in the job of a killed"
    assert re.search(refused, changed.out.read_text())
    again = start(*words)
    again.until(lambda jobs: "waiting for a process that still holds" in again.out.read_text())
    assert stop(there / "student", signal.SIGCONT)
    message = again.ends()
    undisturbed.ends()

    assert "The states of jobs are read by squeue, as with slurm-status-command: squeue" in message
    for step, why in (
        (shards[0], r"failed, SLURM status is: 'CANCELLED'"),
        ("undistilled", r"failed, SLURM status is: 'TIMEOUT'"),
        ("student", r"failed due to a node failure"),
    ):
        assert re.search(rf"^{step}: SLURM-job '\d+' {why}", message, re.M), message
    assert re.search(r"^undistilled: resuming after update \d+$", message, re.M)
    assert re.search(r"^student: resuming after update \d+$", message, re.M)
    for name in ("student", "undistilled"):
        last = Path(name, "checkpoint_last.pt")
        assert same(weights(here / last), weights(there / last)), name
    for name in ("teacher-translations/hypotheses.txt",):
        assert (here / name).read_text() == (there / name).read_text()
    rows = [re.findall(r"^\|.*", (run / "report.md").read_text(), re.M) for run in (here, there)]
    assert rows[0][:6] == rows[1][:6]


def test_a_training_on_two_nodes_equals_one_of_two_batches_an_update(
    slurm, data, teacher, start, tmp_path
):
    (tmp_path / "profile").mkdir()
    own = PROFILE.partition("set-threads:")[0].replace("mem_mb: 16000", "mem_mb: 2000")
    (tmp_path / "profile" / "config.yaml").write_text(own, encoding="utf-8")
    for name, line, update_freq in (("one", "", 2), ("two", "nodes: 2\n", 1)):
        folders = {"folder": tmp_path / name, "data": data, "teacher": teacher}
        text = TWO_NODES.format(**folders, update_freq=update_freq)
        (tmp_path / f"{name}.yaml").write_text(f"{line}{text}", encoding="utf-8")
    run_forked("fairseq-kd", "progressive", tmp_path / "one.yaml", "--until", "student")
    words = [tmp_path / "two.yaml", "--until", "student", "--profile", tmp_path / "profile"]
    run = start(*words)

    folder = tmp_path / "two" / "student"
    run.until(lambda jobs: (folder / "checkpoint_last.pt").exists())
    assert len(stop(folder)) >= 2  # trainers, and the loaders of their data
    (job, nodes) = slurm.running()["student"]
    assert nodes == "n[1-2]"
    assert "gres/gpu" not in slurm.ask("scontrol", "show", "job", job)
    power_fails(slurm, "n2")
    message = run.ends()

    assert re.search(r"^student: SLURM-job '\d+' failed due to a node failure", message, re.M)
    assert re.search(r"^student: resuming after update \d+$", message, re.M)
    log = (folder / "train.log").read_text()
    assert "training on 2 devices" in log
    attempts = log.split("\n$ ")
    for attempt in attempts:
        saved = re.findall(r"Saved checkpoint \S+ \(epoch \d+ @ (\d+) updates", attempt)
        assert len(saved) == len({*saved})  # by one of the two
    one, two = (
        weights(tmp_path / name / "student" / "checkpoint_last.pt") for name in ("one", "two")
    )
    for key, weight in one.items():
        torch.testing.assert_close(weight, two[key], rtol=1e-3, atol=1e-4)


def test_the_log_of_a_job_that_fails_before_its_step_is_named(slurm, profile, tmp_path):
    workflow = small_workflow(tmp_path / "run")
    path = tmp_path / "run" / "logs" / "snakemake.log"
    driver = drive(workflow, "--profile", str(profile), "--retries", "0")
    slurm.wait(lambda: path.is_file() and "has been submitted" in path.read_text(), 60)
    file = tmp_path / "run" / "workflow.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 2'))
    message = driver.communicate()[1]
    assert driver.returncode == 1
    (log,) = (tmp_path / "run" / ".snakemake" / "slurm_logs").glob("rule_prepare_text/data/*.log")
    assert f"Not finished: data (of its last job: {log}). The log has the reason;" in message
    assert "was modified after fairseq-kd progressive wrote it" in log.read_text()
