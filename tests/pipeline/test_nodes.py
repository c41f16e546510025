"""Trainings on several nodes: their commands, on Slurm and without it."""

import re
import shlex
import socket
import subprocess

import pytest
from harness import ENVIRONMENT
from workflows import small_workflow

from fairseq_kd.pipeline import driver
from fairseq_kd.pipeline.status import step_statuses
from fairseq_kd.pipeline.train_command import on_each_machine
from fairseq_kd.pipeline.workflow import Training, read_workflow, workflow_sha256, write_workflow

RUN = "ladder: [{ratio: 0.5, name: student}]\ncontrols: []\nnodes: 2\n"


def test_a_dry_run_prints_the_line_of_each_machine(workflow_of):
    workflow = workflow_of(f"{RUN}gpus: 4\ntrain: {{max-update: 100}}")
    assert workflow.step("student").training == Training(nodes=2)
    lines = driver.commands(step_statuses(workflow)).splitlines()
    at = lines.index("# student")
    assert lines[at + 1].startswith("fairseq-kd stage student -- srun --ntasks-per-node 1 ")
    assert lines[at + 2] == (
        "# or, without Slurm, when progressive has stopped at this step, on each of 2 machines, "
        "FIRST being one:"
    )
    workers = (
        "torchrun --rdzv-endpoint FIRST:29500 --nproc_per_node 4 --nnodes 2 --rdzv-backend c10d "
        "--rdzv-id student --no-python fairseq-train "
    )
    assert lines[at + 3].startswith(workers)
    assert lines[at + 3].endswith(lines[at + 1].partition(" fairseq-train ")[2])


def test_on_cpus_it_needs_no_gpus(workflow_of):
    workflow = workflow_of(f"{RUN}train: {{max-update: 100, cpu: true}}")
    assert workflow.step("student").training == Training(None, True, 2)
    (command,) = workflow.step("student").commands
    assert any('--distributed-rank "$RANK"' in word for word in command)


@pytest.mark.parametrize("nodes", ["0", "true", "two"])
def test_a_number_of_nodes_that_is_none_is_refused(refuses, nodes):
    text = RUN.replace("nodes: 2", f"nodes: {nodes}")
    refuses(text, "nodes")


def with_nodes(folder):
    workflow = small_workflow(folder)
    several = workflow.step("student")._replace(training=Training(nodes=2))
    steps = [several if step.name == "student" else step for step in workflow.steps]
    return workflow._replace(steps=steps)


def test_its_gpus_are_not_looked_for_on_this_machine(tmp_path, monkeypatch):
    workflow = with_nodes(tmp_path / "run")
    monkeypatch.setattr(driver, "_snakemake", lambda *given: -9)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    steps = [step._replace(gpus=4) if step.training else step for step in workflow.steps]
    assert driver.run_workflow(workflow._replace(steps=steps), None, []) == 137


def test_a_workflow_of_an_earlier_version_has_no_number_of_nodes(tmp_path):
    workflow = with_nodes(tmp_path / "run")
    path = write_workflow(workflow)
    assert read_workflow(path, workflow_sha256(workflow)) == workflow
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r',\s*"nodes": 2', "", text), encoding="utf-8")
    assert read_workflow(path).step("student").training == Training()


@pytest.mark.slow
def test_the_line_of_each_machine_trains_and_the_run_takes_what_it_made(
    workflow_of, tmp_path, monkeypatch
):
    flags = "max-update: 12, max-tokens: 500, save-interval-updates: 6, cpu: true"
    workflow = workflow_of(f"{RUN}run: run\ntrain: {{{flags}}}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    log = tmp_path / "run" / "logs" / "student.log"
    assert driver.run_workflow(workflow, "student", []) == 1
    (command,) = workflow.step("student").commands
    line = shlex.join(on_each_machine(command))
    advice = "student needs several machines, as a job of Slurm has them: execute the run with --pr"
    assert advice in log.read_text(encoding="utf-8")
    assert f"then the same command again: {line}\n" in log.read_text(encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        first = f"localhost:{free.getsockname()[1]}"
    words = [word.replace("FIRST:29500", first) for word in on_each_machine(command)]
    machines = [
        subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    logs = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], logs
    assert [log.count("Saved checkpoint") for log in sorted(logs, key=len)] == [0, 2]
    assert driver.run_workflow(workflow, "student", []) == 0
    assert "student: all 12 updates are done" in log.read_text(encoding="utf-8")
