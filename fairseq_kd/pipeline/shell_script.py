"""Writes a run as one bash script, which trains the same models without Snakemake."""

import re
import shlex
from itertools import pairwise
from pathlib import Path, PurePath
from typing import List

from fairseq_kd.files.atomic_files import write_new
from fairseq_kd.files.names import in_one_line
from fairseq_kd.pipeline.workflow import Step, Workflow

HEAD = """\
#!/usr/bin/env bash
# The run of {file}, as plain commands.
#
#   usage: {script}        from the folder in which it was written: {start}
#
# Env: RUN={shown}   the folder of the run
# Killed? Run it again: finished steps are kept, and a training resumes from its last checkpoint.
# This script does not detect a changed run file; fairseq-kd progressive does.
set -euo pipefail

usage() {{ sed -n '2,/^set/s/^# \\{{0,1\\}}//p' "$0"; }}
[[ "${{1:-}}" =~ ^(-h|--help)$ ]] && {{ usage; exit 0; }}
[[ $# -eq 0 ]] || {{ usage >&2; exit 2; }}
run=${{RUN:-{folder}}}
if [[ $run == *:* ]]; then
  echo "RUN must have no colon, which separates paths, but is $run." >&2
  exit 2
fi
step() {{ printf '[%s/{count}] %s\\n' "$1" "$2"; }}
"""


def write_script(workflow: Workflow, out: Path) -> None:
    """Writes the script, executable.

    Args:
        workflow: the run.
        out: the file.

    Raises:
        ValueError: another file exists, or the run has no folder of its own.
    """
    if workflow.folder == ".":
        raise ValueError("run: . cannot be moved by RUN. Give another run: for --shell.")
    parts = [
        HEAD.format(
            file=in_one_line(workflow.inputs["file"]),
            script=in_one_line(out),
            start=in_one_line(workflow.inputs["started in"]),
            shown=in_one_line(shlex.quote(workflow.folder)),
            folder=shlex.quote(workflow.folder),
            count=len(workflow.steps),
        )
    ]
    parts += [_step(workflow, number, step) for number, step in enumerate(workflow.steps, 1)]
    write_new(out, "\n".join(parts), "--shell")
    out.chmod(0o755)


def _step(workflow: Workflow, number: int, step: Step) -> str:
    lines = [f"step {number} {shlex.quote(step.name)}"]
    # Trainings and evaluations resume by themselves; every other step is done when the last of its
    # outputs exists.
    made = [] if step.kind in ("train", "evaluate") else step.makes[-1:]
    for command in step.commands:
        text = " \\\n  ".join(_lines(command, workflow))
        if made:
            text = f"[[ -e {_word(made[0], workflow)} ]] || {text}"
        lines.append(text)
    return "\n".join(lines) + "\n"


def _lines(command: List[str], workflow: Workflow, width: int = 96) -> List[str]:
    """A command split into lines that begin with a flag."""
    lines = [_word(command[0], workflow)]
    for before, word in pairwise(command):
        quoted = _word(word, workflow, before)
        if word.startswith("--") and word != "--" and len(lines[-1]) + len(quoted) > width * 0.75:
            lines.append(quoted)
        else:
            lines[-1] += f" {quoted}"
    return lines


def _word(word: str, workflow: Workflow, before: str = "") -> str:
    """An argument quoted for bash, with the folder of the run as a variable.

    Args:
        word: the argument; paths in it are separated by ``:``, or stand after ``NAME=``.
        workflow: the run.
        before: the argument before it.
    """
    if before == "--out" and word == workflow.folder:
        return '"$run"'
    quoted, at = "", 0
    for path in re.finditer(rf"(?:^|(?<=[:=])){re.escape(workflow.folder)}(/[^:=]*)", word):
        if _is_made(path[0], workflow):
            quoted += _escaped(word[at : path.start()]) + "$run" + _escaped(path[1])
            at = path.end()
    return f'"{quoted}{_escaped(word[at:])}"' if at else shlex.quote(word)


def _is_made(path: str, workflow: Workflow) -> bool:
    """Whether a step makes the file at a path, or a folder that contains it."""
    folders = {step.folder for step in workflow.steps if step.folder}
    files = {made for step in workflow.steps for made in step.makes}
    return path in files or not folders.isdisjoint({path, *map(str, PurePath(path).parents)})


def _escaped(text: str) -> str:
    return re.sub(r'([\\"`$])', r"\\\1", text)
