"""Runs one step of a run, and leaves its manifest: what was done, with what, what came of it."""

import datetime
import fcntl
import json
import math
import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, Dict, Iterator, List, Optional

from fairseq_kd import __version__
from fairseq_kd.child_process import child
from fairseq_kd.hashes import sha256_of
from fairseq_kd.json_files import read_json, sealed
from fairseq_kd.machine import versions, with_gpus
from fairseq_kd.pipeline.side_by_side import own_place, places
from fairseq_kd.pipeline.state import STEPS, attempts_path, manifest_path, read_recipe, stood_on
from fairseq_kd.pipeline.workflow import Plan, Step
from fairseq_kd.training_log import FILE as LOG
from fairseq_kd.training_log import Record, read_training_log
from fairseq_kd.whole_files import own_file, written_whole

SCORES = ("nll_loss", "ppl", "bleu", "kd_loss", "agreement")


def run_step(plan: Plan, name: str) -> int:
    """Runs the commands of a step, or goes on with them, and writes its manifest.

    Args:
        plan: the run.
        name: of the step.

    Returns:
        0, or the exit status of the command that failed.

    Raises:
        FileNotFoundError: a command ended well but did not make what it should have.
    """
    step = plan.step(name)
    with _only_process(Path(plan.folder) / STEPS / f"{name}.lock"):
        if manifest_path(plan, step).is_file():
            return 0
        with own_place(Path(plan.folder) / STEPS) as environment:
            attempts = _begin(attempts_path(plan, step))
            number = plan.steps.index(step) + 1
            sys.stderr.write(f"[{number}/{len(plan.steps)}] {step.name}\n")  # as one write
            sys.stderr.flush()
            recipe = read_recipe(plan, step)
            for command in step.commands:
                status = _run(command, environment, attempts_path(plan, step), attempts)
                if status != 0:
                    print(f"{name} failed: {shlex.join(command)}", file=sys.stderr)
                    return status
        if read_recipe(plan, step) != recipe:
            raise ValueError(f"{name} was changed while it ran. Its result does not count.")
        manifest = _manifest(plan, step, recipe, attempts)
        with written_whole(manifest_path(plan, step)) as file:
            json.dump(sealed(manifest), file, indent=1)
    return 0


@contextmanager
def _only_process(lock: Path) -> Iterator[None]:
    """Waits until no other process holds the lock, such as one on a node thought dead."""
    with open(lock, "a", opener=own_file) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for a process that still holds {lock}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _begin(path: Path) -> List[Dict[str, str]]:
    """Notes that the step is begun, and returns all its beginnings with their known ends."""
    attempts = _attempts(path) if path.is_file() else []
    attempts.append({"start": _now(), "seen": _now()})
    _note(path, attempts)
    return attempts


def _attempts(path: Path) -> List[Dict[str, str]]:
    repair = "Write [] into it: it only says how long the step took."
    attempts = read_json(path, [{"start": str, "seen": str}], repair)
    for number, attempt in enumerate(attempts):
        for key, text in attempt.items():
            if key in ("start", "seen") and not _is_time(text):
                at = f"'[{number}].{key}' must be a time as {_now()}, but is {text!r:.40}"
                raise ValueError(f"{path} is damaged: {at}. {repair}")
    return attempts


def _note(path: Path, attempts: List[Dict[str, str]]) -> None:
    with written_whole(path) as file:
        json.dump(attempts, file)


def _run(
    command: List[str],
    environment: Dict[str, str],
    kept: Path,
    attempts: List[Dict[str, str]],
    pause_s: float = 10.0,
) -> int:
    """Runs a command, and notes now and then that it is alive, so that a kill loses no time.

    The commands of this environment come first, whatever PATH says.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, **environment, "PATH": path}
    with child(command, env=environment) as process:
        while True:
            try:
                return process.wait(timeout=pause_s)
            except TimeoutExpired:
                attempts[-1]["seen"] = _now()
                _note(kept, attempts)


def _manifest(
    plan: Plan, step: Step, recipe: Dict[str, Any], attempts: List[Dict[str, str]]
) -> Dict[str, Any]:
    attempts = [*attempts[:-1], {**attempts[-1], "seen": _now()}]
    return {
        "step": step.name,
        "kind": step.kind,
        "parents": step.after,
        "recipe": recipe,
        "stood_on": stood_on(plan, step),
        "outputs": {path: _output(step, Path(path)) for path in step.makes},
        "seed": plan.seed,
        "begun": attempts[0]["start"],
        "finished": attempts[-1]["seen"],
        "attempts": len(attempts),
        "seconds": round(sum(_seconds(each) for each in attempts)),
        "machine": with_gpus() + (f", {places()} steps at a time" if places() > 1 else ""),
        "version": __version__,
        "versions": versions(),
        **_training(step),
    }


def _output(step: Step, path: Path) -> Dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{step.name} ended without {path}, which it should have made. See its log."
        )
    return {"bytes": path.stat().st_size, "sha256": sha256_of([path])}


def _training(step: Step) -> Dict[str, Any]:
    """Of a training, how far it went and how well."""
    log = Path(step.folder or "") / LOG
    if step.kind != "train" or not log.is_file():
        return {}
    read = read_training_log(log)
    counts: Optional[Dict[str, float]] = read.validation[-1] if read.validation else None
    if counts and step.makes[0].endswith("_best.pt"):  # of the checkpoint that counts
        counts = best_validation(read.validation, step.commands[0])
    scores = {name: counts[name] for name in SCORES if name in counts} if counts else {}
    from fairseq_kd.updates import updates_behind  # which imports torch

    return {
        "updates": int(read.training[-1]["update"]) if read.training else 0,
        "updates_behind": updates_behind(step.makes[0]),
        "scores": scores,
    }


def best_validation(records: List[Record], command: List[str]) -> Record:
    """That of ``checkpoint_best.pt``: the last of the best by the metric that the command names."""
    metric, largest = "loss", "--maximize-best-checkpoint-metric" in command
    if "--best-checkpoint-metric" in command:
        metric = command[command.index("--best-checkpoint-metric") + 1]
    sign = -1 if largest else 1
    return min(reversed(records), key=lambda each: sign * each.get(metric, sign * math.inf))


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
