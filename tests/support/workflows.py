"""Runs whose steps are small shell commands, for tests of what drives them."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import torch
from harness import ENVIRONMENT, ROOT

from fairseq_kd.files.json_files import sealed
from fairseq_kd.pipeline import status
from fairseq_kd.pipeline.execution import run_step
from fairseq_kd.pipeline.train_command import TrainCommand
from fairseq_kd.pipeline.training_check import check_training_command
from fairseq_kd.pipeline.workflow import Step, Workflow, write_workflow
from fairseq_kd.training_log import flags_of

# Appends what its input held to its output, a line at a time; killed, it goes on where it was.
TEACHER = """\
teacher:
  arch: transformer
  train: {encoder-layers: 4, encoder-embed-dim: 64, encoder-attention-heads: 4,
    decoder-layers: 4, decoder-embed-dim: 64, decoder-attention-heads: 4,
    encoder-ffn-embed-dim: 128, decoder-ffn-embed-dim: 128}
"""
SLOWLY = """\
set -eu
mkdir -p "$(dirname "$2")"
while [ "$(cat "$2" 2> /dev/null | wc -l)" -lt "$1" ]; do sleep 0.02; echo "line" >> "$2"; done
cat "$2" "${@:3}" > "$2.partial"
mv "$2.partial" "$2.made"
"""


def training_of(step):
    """The training that a recorded step runs, read back from its command line."""
    (command,) = step.commands
    words = command[command.index("fairseq-train") + 1 :]
    flags = {flag[2:]: value or True for flag, value in flags_of(words).items()}
    own = {key.replace("-", "_"): flags.pop(key) for key in ("save-dir", "user-dir")}
    gpus = int(command[command.index("--nproc_per_node") + 1]) if "torchrun" in command else 1
    training = TrainCommand(name=command[2], data=words[0], gpus=gpus, flags=flags, **own)
    flags.pop("distributed-world-size", None)
    assert {*training.argv()} == {*command}
    return training


def slow_step(folder, name, lines, *after, reads=()):
    """A step of some lines that depends on others."""
    made = [f"{folder}/{each}/text.made" for each in after]
    command = ["bash", "-c", SLOWLY, "slowly", str(lines), f"{folder}/{name}/text", *made, *reads]
    makes = [f"{folder}/{name}/text.made"]
    kind = {"data": "prepare", "evaluation": "evaluate"}.get(name, "train")
    return Step(name, kind, [command], list(after), list(reads), makes, f"{folder}/{name}")


def small_workflow(folder, student_lines=4, reads=(), times=1):
    """The shape of a run: text, a teacher, two stages, a control, an evaluation of all.

    Its steps take so many times as long.
    """
    steps = [
        slow_step(folder, "data", 2 * times, reads=reads),
        slow_step(folder, "teacher", 5 * times, "data"),
        slow_step(folder, "middle", 4 * times, "data", "teacher"),
        slow_step(folder, "student", student_lines * times, "data", "middle"),
        slow_step(folder, "undistilled", 3 * times, "data"),
        slow_step(folder, "evaluation", 1, "teacher", "middle", "student", "undistilled"),
    ]
    inputs = {"file": "run.yaml", "started in": str(ROOT)}
    workflow = Workflow(str(folder), inputs, 1, steps)
    write_workflow(workflow)
    return workflow


def made(workflow):
    """The outputs of every step, by its name."""
    return {step.name: [Path(path).read_text() for path in step.makes] for step in workflow.steps}


def manifest(workflow, name):
    """A step's manifest; None if it has none."""
    return status.step_manifest(workflow, workflow.step(name))


def write_sealed(path, content):
    """Writes a record as the run does, and returns its path."""
    path.write_text(json.dumps(sealed(content), indent=1))
    return path


DRIVER = """\
import sys
sys.path.remove("")
from pathlib import Path
from fairseq_kd.pipeline.driver import run_workflow
from fairseq_kd.pipeline.workflow import read_workflow
try:
    sys.exit(run_workflow(read_workflow(Path(sys.argv[1])), None, sys.argv[3:], int(sys.argv[2])))
except ValueError as error:
    sys.exit(str(error))
"""


def drive(workflow, *engine, jobs=1, env=None, cwd=ROOT):
    """Starts a driver of a workflow, as a process of its own."""
    file = str(Path(workflow.folder) / "workflow.json")
    command = [sys.executable, "-c", DRIVER, file, str(jobs), *engine]
    env = {**os.environ, **ENVIRONMENT, **(env or {})}
    return subprocess.Popen(command, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True)


def finish(workflow, *engine, **others):
    """Drives a workflow to its end, and returns its messages."""
    driver = drive(workflow, *engine, **others)
    message = driver.communicate()[1]
    assert driver.returncode == 0, message
    return message


def build(workflow, *names):
    """Runs all that is not done, or the steps of these names, in order, and returns the names."""
    wanted = [each for each in status.step_statuses(workflow) if each.state != status.DONE]
    wanted = [each for each in wanted if not names or each.step.name in names]
    status.prepare_steps(workflow, wanted)
    for each in wanted:
        assert run_step(workflow, each.step.name) == 0
    return [each.step.name for each in wanted]


def statuses(workflow, **options):
    """The status of each step with its reason, by its name."""
    return {
        each.step.name: (each.state, each.why) for each in status.step_statuses(workflow, **options)
    }


def checkpoint(path, updates, old_format=False, **extra):
    """Writes a checkpoint that a stage can read, of a model of one weight."""
    path.parent.mkdir(exist_ok=True)
    state = {"args": Namespace(arch="transformer"), "model": {"weight": torch.rand(2000)}}
    state["optimizer_history"] = [{"num_updates": updates}]
    state["extra_state"] = extra
    torch.save(state, path, _use_new_zipfile_serialization=not old_format)
    return path


def args(workflow, name):
    """The parsed flags of a training."""
    return check_training_command(training_of(workflow.step(name)))


def words(workflow, name):
    """The flags of a command of ours, with what follows each."""
    found = {}
    for word in workflow.step(name).commands[0][2:]:
        if word.startswith("--"):
            flag = word
            found[flag] = []
        else:
            found[flag].append(word)
    return {flag: " ".join(values) for flag, values in found.items()}


def kinds(workflow):
    """The kind of each step, by its name."""
    return {step.name: step.kind for step in workflow.steps}
