"""Executes one step of a run and writes its manifest: commands, inputs, outputs, times, scores."""

import datetime
import fcntl
import json
import os
import shlex
import sys
import time
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, Dict, Iterator, List

from fairseq_kd import __version__
from fairseq_kd.child_process import child, own_programs
from fairseq_kd.files.atomic_files import atomic_write, own_file
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.files.json_files import read_json, sealed
from fairseq_kd.flag_types import Range, from_environment
from fairseq_kd.machine import gpu_names, versions, with_gpus
from fairseq_kd.pipeline.follower import RECORDS
from fairseq_kd.pipeline.status import (
    LOGS,
    REPORTED,
    STEPS,
    attempts_path,
    check_reads,
    manifest_path,
    read_recipe,
    stood_on,
)
from fairseq_kd.pipeline.workflow import Step, Workflow
from fairseq_kd.progress import PROGRESS_FILE
from fairseq_kd.training_log import LOG_FILE, read_training_log

SLOTS = "FAIRSEQ_KD_SLOTS"  # how many steps run at the same time; set by the driver
VISIBLE = "CUDA_VISIBLE_DEVICES"
PAUSE_SECONDS = 0.2
SCORES = ("nll_loss", "ppl", "bleu", "kd_loss", "agreement")


def run_step(workflow: Workflow, name: str) -> int:
    """Runs or resumes the commands of a step, and writes its manifest.

    Args:
        workflow: the run.
        name: of the step.

    Returns:
        0, or the exit status of the command that failed.

    Raises:
        FileNotFoundError: all commands succeeded, but an output is missing.
    """
    step = workflow.step(name)
    with _only_process(Path(workflow.folder) / STEPS / f"{name}.lock"):
        if manifest_path(workflow, step).is_file():
            return 0
        with own_place(Path(workflow.folder) / STEPS) as environment:
            environment.update(_records(Path(workflow.folder) / LOGS, name))
            attempts = _begin(attempts_path(workflow, step))
            number = workflow.steps.index(step) + 1
            sys.stderr.write(f"[{number}/{len(workflow.steps)}] {step.name}\n")  # as one write
            sys.stderr.flush()
            recipe = read_recipe(workflow, step)
            check_reads(workflow, step, ran=False)
            for command in step.commands:
                status = _run(command, environment, attempts_path(workflow, step), attempts)
                if status != 0:
                    print(f"{name} failed: {shlex.join(command)}", file=sys.stderr)
                    return status
        if read_recipe(workflow, step) != recipe:
            raise ValueError(f"{name} was changed while it ran. Its result is discarded.")
        check_reads(workflow, step, ran=True)
        manifest = _manifest(workflow, step, recipe, attempts)
        with atomic_write(manifest_path(workflow, step)) as file:
            json.dump(sealed(manifest), file, indent=1)
    return 0


def _records(logs: Path, name: str) -> Dict[str, str]:
    """The environment in which the commands of a step record their progress beside its log."""
    return {PROGRESS_FILE: str((logs / f"{name}{RECORDS}").absolute())} if logs.is_dir() else {}


@contextmanager
def _only_process(lock: Path) -> Iterator[None]:
    """Waits until no other process holds the lock, such as one on an unreachable node."""
    with open(lock, "a", opener=own_file) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for a process that still holds {lock}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _begin(path: Path) -> List[Dict[str, str]]:
    """Records that the step has started; returns all attempts with their times."""
    attempts = _attempts(path) if path.is_file() else []
    attempts.append({"start": _now(), "seen": _now()})
    _note(path, attempts)
    return attempts


def _attempts(path: Path) -> List[Dict[str, str]]:
    repair = "Write [] into it: it only records how long the step took."
    attempts = read_json(path, [{"start": str, "seen": str}], repair)
    for number, attempt in enumerate(attempts):
        for key, text in attempt.items():
            if key in ("start", "seen") and not _is_time(text):
                at = f"'[{number}].{key}' must be a time as {_now()}, but is {text!r:.40}"
                raise ValueError(f"{path} is damaged: {at}. {repair}")
    return attempts


def _note(path: Path, attempts: List[Dict[str, str]]) -> None:
    with atomic_write(path) as file:
        json.dump(attempts, file)


def _run(
    command: List[str],
    environment: Dict[str, str],
    kept: Path,
    attempts: List[Dict[str, str]],
    pause_s: float = 10.0,
) -> int:
    """Runs a command and records regularly that it runs, to know the time spent if it is killed."""
    with child(command, env=own_programs(environment)) as process:
        while True:
            try:
                return process.wait(timeout=pause_s)
            except TimeoutExpired:
                attempts[-1]["seen"] = _now()
                _note(kept, attempts)


def _manifest(
    workflow: Workflow, step: Step, recipe: Dict[str, Any], attempts: List[Dict[str, str]]
) -> Dict[str, Any]:
    attempts = [*attempts[:-1], {**attempts[-1], "seen": _now()}]
    return {
        "step": step.name,
        "kind": step.kind,
        "parents": step.after,
        "recipe": recipe,
        "stood_on": stood_on(workflow, step),
        "outputs": {path: _output(step, Path(path)) for path in _made_by(workflow, step)},
        "seed": workflow.seed,
        "begun": attempts[0]["start"],
        "finished": attempts[-1]["seen"],
        "attempts": len(attempts),
        "seconds": round(sum(_seconds(each) for each in attempts)),
        "machine": with_gpus() + (f", {slots()} steps at a time" if slots() > 1 else ""),
        "version": __version__,
        "versions": versions(),
        **_training(step),
    }


def _made_by(workflow: Workflow, step: Step) -> List[str]:
    """The outputs of a step, and the other files of a store, of translations and of a report.

    The manifest of a distilled set names its files itself.
    """
    folders = {kind: [step.folder] for kind in ("store", "translate", "merge")}
    folders["evaluate"] = [f"{workflow.folder}/{name}" for name in REPORTED]
    beside = [
        str(path)
        for folder in folders.get(step.kind, [])
        if step.makes and folder
        for path in sorted(Path(folder).rglob("[!.]*"))
        if path.is_file()
    ]
    return list(dict.fromkeys([*step.makes, *beside]))


def _output(step: Step, path: Path) -> Dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{step.name} ended without {path}, which it should have made. See its log."
        )
    return {"bytes": path.stat().st_size, "sha256": sha256_of([path])}


def _training(step: Step) -> Dict[str, Any]:
    """The updates and validation scores of a training; empty for other kinds of steps."""
    log = Path(step.folder or "") / LOG_FILE
    if step.kind != "train" or not log.is_file():
        return {}
    from fairseq_kd.checkpoints.updates import (  # which import torch
        LAST,
        updates_behind,
        updates_done,
    )

    made = step.makes[0]
    written = updates_done(made)  # fairseq saves the best of those validations that it saves at
    records = [each for each in read_training_log(log).validation if each["update"] <= written]
    last = records[-1] if records else {}
    return {
        "updates": max(written, updates_done(Path(made).with_name(LAST))),
        "updates_behind": updates_behind(made),
        "scores": {name: last[name] for name in SCORES if name in last},
    }


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _is_time(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _seconds(attempt: Dict[str, str]) -> float:
    start, seen = (datetime.datetime.fromisoformat(attempt[key]) for key in ("start", "seen"))
    return max(0.0, (seen - start).total_seconds())  # the clock may have been set back


@contextmanager
def own_place(folder: Path) -> Iterator[Dict[str, str]]:
    """Acquires one of ``slots()`` execution slots; yields environment variables for the step.

    Slot k of several uses GPU k modulo the number of GPUs. A slot is a locked file, which the
    system unlocks when its process is killed. The function waits for a free slot: Snakemake 9.15
    counts the cores of a step that ended alone as free twice, and then starts one step too many.

    Args:
        folder: the folder of the lock files.
    """
    count = slots()
    if count == 1:
        yield {}
        return
    while True:
        for number in range(count):
            with open(folder / f".slot-{number}", "a", opener=own_file) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                gpus = visible_gpus()
                yield {VISIBLE: gpus[number % len(gpus)]} if gpus else {}
                return
        time.sleep(PAUSE_SECONDS)


def slots() -> int:
    """How many steps run at the same time on this machine.

    Raises:
        ValueError: ``FAIRSEQ_KD_SLOTS`` is not a number of slots.
    """
    return from_environment(SLOTS, Range(int, 1, 1000), 1)


def visible_gpus() -> List[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get(VISIBLE)
    if given is not None:
        names = (name.strip() for name in given.split(","))
        return list(takewhile(lambda name: name not in ("", "-1"), names))  # CUDA stops there too
    return [str(number) for number in range(len(gpu_names()))]
