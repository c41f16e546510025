"""Trainings on several nodes: their commands, on Slurm and without it."""

import re

import pytest
from workflows import small_workflow

from fairseq_kd.pipeline import driver
from fairseq_kd.pipeline.state import step_statuses
from fairseq_kd.pipeline.workflow import Training, read_workflow, workflow_sha256, write_workflow

RUN = "ladder: [{ratio: 0.5, name: student}]\ncontrols: []\nnodes: 2\n"


def test_a_dry_run_prints_the_line_of_each_machine(workflow_of):
    workflow = workflow_of(f"{RUN}gpus: 4\ntrain: {{max-update: 100}}")
    assert workflow.step("student").training == Training(nodes=2)
    lines = driver.commands(step_statuses(workflow)).splitlines()
    at = lines.index("# student")
    assert lines[at + 1].startswith("fairseq-kd stage student -- srun --ntasks-per-node 1 ")
    assert lines[at + 2] == "# or, without Slurm, on each of 2 machines, FIRST being one:"
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


def test_on_this_machine_a_training_on_several_nodes_is_refused_before_anything_runs(tmp_path):
    workflow = with_nodes(tmp_path / "run")
    message = (
        r"^student needs 2 machines, since nodes is 2\. Give the --profile of a Slurm cluster; or "
        r"run the line that --dry-run shows on each machine, and then the same command again\.$"
    )
    with pytest.raises(ValueError, match=message):
        driver.run_workflow(workflow, None, [])
    assert not (tmp_path / "run" / "steps").exists()


def test_one_that_was_run_by_hand_is_not_refused(tmp_path, monkeypatch):
    workflow = with_nodes(tmp_path / "run")
    (tmp_path / "run" / "student").mkdir()
    (tmp_path / "run" / "student" / "checkpoint_last.pt").touch()
    monkeypatch.setattr(driver, "_snakemake", lambda *given: -9)
    assert driver.run_workflow(workflow, None, []) == 137


def test_a_workflow_of_an_earlier_version_has_no_number_of_nodes(tmp_path):
    workflow = with_nodes(tmp_path / "run")
    path = write_workflow(workflow)
    assert read_workflow(path, workflow_sha256(workflow)) == workflow
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r',\s*"nodes": 2', "", text), encoding="utf-8")
    assert read_workflow(path).step("student").training == Training()
