"""The status of each step of a run: done, or the reason why not.

A finished step leaves its manifest, ``steps/NAME.json``, with its recipe: its commands, the hashes
of its input files and the recipes of the steps that it needs. A step is done while its recipe is
that of the workflow and its outputs are unchanged. So a changed option repeats that step and those
that depend on it, and no other.
"""

import fcntl
import hashlib
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from fairseq_kd.distilled_data.manifest import MANIFEST_FILE, read_manifest
from fairseq_kd.files.atomic_files import atomic_write, own_file
from fairseq_kd.files.hashes import FileHashes
from fairseq_kd.files.json_files import read_json, sealed
from fairseq_kd.pipeline.workflow import Step, Workflow, changed_flags, same_commands

STEPS, LOGS, REPLACED, HASHES = "steps", "logs", "replaced", "hashes.json"
DRIVER = "driver"  # the file of the driver's process in STEPS, which no step may be called
REPORTED = ("plots", "translations")  # folders that an evaluation fills beside its report
WAIT_SECONDS = 3.0  # the steps of a killed driver end within it
DONE, MISSING, INTERRUPTED = "done", "missing", "interrupted"
CHANGED, DAMAGED = "changed", "damaged"
RECIPE = {"id": str, "commands": [[str]], "reads": {str: str}, "after": {str: str}}
OUTPUTS = {str: {"bytes": int, "sha256": str}}
MANIFEST_FIELDS = {
    **{"step": str, "kind": str, "parents": [str], "recipe": RECIPE},
    **{"stood_on": {str: OUTPUTS}, "outputs": OUTPUTS, "seed": int, "attempts": int},
    **{"begun": str, "finished": str, "seconds": float},
    **{"machine": str, "version": str, "versions": object},
    **{"updates?": int, "updates_behind?": (int, None), "scores?": {str: object}},  # of a training
}


class StepStatus(NamedTuple):
    """Whether the outputs of a step are current.

    Args:
        step: the step.
        recipe: its commands and the hashes of its inputs, as they are now.
        state: DONE, MISSING, INTERRUPTED, CHANGED or DAMAGED.
        why: the reason why it is not done; "" if it is.
    """

    step: Step
    recipe: Dict[str, Any]
    state: str
    why: str


def manifest_path(workflow: Workflow, step: Step) -> Path:
    """The manifest of a step, which exists once it is finished."""
    return Path(workflow.folder) / STEPS / f"{step.name}.json"


def recipe_path(workflow: Workflow, step: Step) -> Path:
    """The recipe with which a step was started."""
    return Path(workflow.folder) / STEPS / f"{step.name}.recipe.json"


def attempts_path(workflow: Workflow, step: Step) -> Path:
    """The times at which a step was started."""
    return Path(workflow.folder) / STEPS / f"{step.name}.attempts"


def step_statuses(
    workflow: Workflow, verify: bool = False, record: bool = True
) -> List[StepStatus]:
    """The status of every step, in the workflow's order.

    Args:
        workflow: the run.
        verify: hash every file that a manifest names, even if its size and modification time are
            unchanged.
        record: write the hashes of large files into the folder of the run, for the next time.

    Raises:
        FileNotFoundError: a file from outside the run is missing.
    """
    hashes = FileHashes(Path(workflow.folder) / HASHES, verify)
    statuses: Dict[str, StepStatus] = {}
    for step in workflow.steps:
        before = {name: statuses[name] for name in step.after}
        begun = _begun(workflow, step)
        ids = {name: each.recipe["id"] for name, each in before.items()}
        recipe = _recipe(step, ids, hashes, begun or {})
        statuses[step.name] = StepStatus(
            step, recipe, *_state(workflow, step, recipe, before, hashes)
        )
    if record:
        hashes.save()
    return _together(list(statuses.values()))


def _begun(workflow: Workflow, step: Step) -> Optional[Dict[str, Any]]:
    """The recipe with which a step was finished or started, or None."""
    manifest = step_manifest(workflow, step)
    if manifest is not None:
        return manifest["recipe"]
    return read_recipe(workflow, step) if attempts_path(workflow, step).is_file() else None


def _recipe(
    step: Step, before: Dict[str, str], hashes: FileHashes, begun: Dict[str, Any]
) -> Dict[str, Any]:
    """The present recipe of a step; ``begun`` is the one with which it was started."""
    reads = {path: hashes.of(path, begun.get("reads", {}).get(path)) for path in step.reads}
    same = begun and same_commands(begun["commands"], step.commands)
    commands = begun["commands"] if same else step.commands
    return _identified({"commands": commands, "reads": reads, "after": before})


def _identified(content: Dict[str, Any]) -> Dict[str, Any]:
    """A recipe with its id, the hash of its content."""
    text = json.dumps(content, sort_keys=True)
    return {"id": hashlib.sha256(text.encode()).hexdigest(), **content}


def _state(
    workflow: Workflow,
    step: Step,
    recipe: Dict[str, Any],
    before: Dict[str, StepStatus],
    hashes: FileHashes,
) -> "tuple[str, str]":
    manifest, begun = step_manifest(workflow, step), _begun(workflow, step)
    if begun is None:
        if step.folder and Path(step.folder).exists() and not _is_ours(workflow, step.folder):
            return CHANGED, f"{step.folder} already existed and was not created by this run"
        return MISSING, "it has not been made yet"
    if begun["id"] != recipe["id"]:
        return CHANGED, _difference(begun, recipe)
    again = [name for name in before if not _stays(before[name], manifest, hashes)]
    if again:
        return CHANGED, f"{' and '.join(again)} must be made again"
    if manifest is None:
        if step.folder and not Path(step.folder).exists():
            return INTERRUPTED, f"it was interrupted and starts again: {step.folder} is missing"
        return INTERRUPTED, "it was interrupted"
    unknown = [path for path in step.makes if path not in manifest["outputs"]]
    if unknown:
        return INTERRUPTED, f"its manifest has no hash of {unknown[0]}"
    for name, made in stood_on(workflow, step).items():
        if before[name].state == DONE and manifest["stood_on"].get(name) != made:
            return CHANGED, f"{name} was made again"
    if step.folder and not Path(step.folder).exists():
        return DAMAGED, f"{step.folder} is missing"
    for path, made in manifest["outputs"].items():
        wrong = _damage(path, made, hashes)
        wrong = wrong or _damage_of_named(Path(path), hashes)
        if wrong:
            return DAMAGED, wrong
    return DONE, ""


def _stays(before: StepStatus, manifest: Optional[Dict[str, Any]], hashes: FileHashes) -> bool:
    """Whether the outputs of a required step match the manifest of a later step.

    A step that was interrupted, or whose manifest is lost, may have made all of them.
    """
    if before.state != INTERRUPTED or manifest is None:
        return before.state == DONE
    made = manifest["stood_on"].get(before.step.name, {})
    return {*before.step.makes} <= {*made} and not any(
        _damage(path, each, hashes) for path, each in made.items()
    )


def stood_on(workflow: Workflow, step: Step) -> Dict[str, Any]:
    """The outputs of the steps that a step requires, by step name."""
    manifests = {name: step_manifest(workflow, workflow.step(name)) for name in step.after}
    return {name: each["outputs"] for name, each in manifests.items() if each}


def _is_ours(workflow: Workflow, folder: str) -> bool:
    """Whether a step of the run was started in a folder."""
    own = (step for step in workflow.steps if step.folder == folder)
    paths = [
        path
        for step in own
        for path in (manifest_path(workflow, step), attempts_path(workflow, step))
    ]
    return any(path.is_file() for path in paths)


def step_manifest(workflow: Workflow, step: Step) -> Optional[Dict[str, Any]]:
    """The manifest of a finished step; None if it is not finished.

    Raises:
        ValueError: it is damaged.
    """
    path = manifest_path(workflow, step)
    repair = f"Remove it, and {step.name} is run again."
    return read_json(path, MANIFEST_FIELDS, repair) if path.is_file() else None


def read_recipe(workflow: Workflow, step: Step) -> Dict[str, Any]:
    """The recipe with which a step was started.

    Raises:
        FileNotFoundError, ValueError: it is missing or damaged.
    """
    repair = (
        f"Remove it and {attempts_path(workflow, step)}, and {step.name} starts again; its output "
        f"is then moved to {Path(workflow.folder) / REPLACED}."
    )
    return read_json(recipe_path(workflow, step), RECIPE, repair)


def check_reads(workflow: Workflow, step: Step, ran: bool) -> None:
    """Refuses a step of which an input file differs from that in its recipe.

    Args:
        workflow: the run.
        step: the step.
        ran: whether its commands have run. Then it is unknown which file they read, so the recipe
            gets the hash of the present one: the step is made again, whichever file is there then.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file has changed.
    """
    recipe = read_recipe(workflow, step)
    hashes = FileHashes(Path(workflow.folder) / HASHES)
    reads = {path: hashes.of(path, digest) for path, digest in recipe["reads"].items()}
    changed = [path for path, digest in reads.items() if digest != recipe["reads"][path]]
    if not changed:
        return
    if ran:
        _write_recipe(
            workflow,
            step,
            _identified({"commands": recipe["commands"], "reads": reads, "after": recipe["after"]}),
        )
        raise ValueError(
            f"{changed[0]} was changed while {step.name} used it. Run the same command again, "
            f"which makes {step.name} again."
        )
    raise ValueError(
        f"{changed[0]} was changed since the run was started, before {step.name} could read it. "
        "Run the same command again."
    )


def _write_recipe(workflow: Workflow, step: Step, recipe: Dict[str, Any]) -> None:
    with atomic_write(recipe_path(workflow, step)) as file:
        json.dump(sealed(recipe), file, indent=1)


def _damage(path: str, made: Dict[str, Any], hashes: FileHashes) -> str:
    """The damage of an output file, as a clause; "" if there is none."""
    if not Path(path).is_file():
        return f"{path} is missing"
    size = Path(path).stat().st_size
    if size != made["bytes"]:
        return f"{path} has {size:,} bytes, but had {made['bytes']:,} when it was made"
    if hashes.of(path, made["sha256"]) != made["sha256"]:
        return f"{path} was modified: its SHA-256 has changed"
    return ""


def _damage_of_named(path: Path, hashes: FileHashes) -> str:
    """The damage of the files that an output file lists, as a clause; "" if there is none."""
    if path.name == MANIFEST_FILE:  # of a distilled set
        for name, digest in (read_manifest(path.parent) or {"files": {}})["files"].items():
            file = path.parent / name
            if not file.is_file():
                return f"{file} is missing"
            if hashes.of(str(file), digest) != digest:
                return f"{file} was modified: its SHA-256 has changed"
    return ""


def _difference(old: Dict[str, Any], new: Dict[str, Any]) -> str:
    """The first difference of two recipes, for the user."""
    if old["commands"] != new["commands"]:
        before, now = ([arg for line in each["commands"] for arg in line] for each in (old, new))
        return changed_flags(before, now)
    for path, digest in new["reads"].items():
        if path not in old["reads"]:
            return f"it reads {path}, which was not recorded when it was made"
        if old["reads"][path] != digest:
            return f"{path} has changed"
    again = [name for name, digest in new["after"].items() if old["after"].get(name) != digest]
    return f"{' and '.join(again)} must be made again" if again else "its inputs changed"


def _together(statuses: List[StepStatus]) -> List[StepStatus]:
    """Statuses where all steps that share a folder are out of date if one is."""
    stale = {
        status.step.folder: status
        for status in statuses
        if status.state in (CHANGED, DAMAGED) and status.step.folder is not None
    }
    joined = []
    for status in statuses:
        first = stale.get(status.step.folder)
        if first is not None and status.state in (DONE, INTERRUPTED):
            status = status._replace(state=first.state, why=f"{first.step.name}: {first.why}")
        joined.append(status)
    return joined


def prepare_steps(workflow: Workflow, statuses: List[StepStatus]) -> List[str]:
    """Moves the outputs of out-of-date steps aside, and writes the recipes of all open steps.

    Returns:
        A line for each folder or file that was moved.

    Raises:
        ValueError: an out-of-date step still runs, as the job of a driver that was killed.
    """
    steps, replaced = Path(workflow.folder) / STEPS, Path(workflow.folder) / REPLACED
    steps.mkdir(parents=True, exist_ok=True)
    stale = [status.step for status in statuses if status.state in (CHANGED, DAMAGED)]
    for step in stale:
        _refuse_running(steps / f"{step.name}.lock", step)
    moved: Dict[str, str] = {}
    for step in stale:
        there = [path for path in replaced_by(workflow, step) if path.exists()]
        if step.folder is None and there:  # together, for a report shows its plots
            into = _free(replaced, step.name)
            into.mkdir(parents=True)
        for path in there:
            now = _free(replaced, path.name) if step.folder else into / path.name
            now.parent.mkdir(exist_ok=True)
            moved[str(path)] = str(path.rename(now))
            for part in _of_shards(workflow, step, path.name):
                part.unlink()
        attempts_path(workflow, step).unlink(missing_ok=True)
    for status in statuses:
        if status.state != DONE:
            manifest_path(workflow, status.step).unlink(missing_ok=True)
            _write_recipe(workflow, status.step, status.recipe)
    return [f"{old} is now {new}" for old, new in moved.items()]


def replaced_by(workflow: Workflow, step: Step) -> List[Path]:
    """The paths that are moved aside before a step is repeated: its folder, or its outputs."""
    if step.folder:
        return [Path(step.folder)]
    shown = REPORTED if step.kind == "evaluate" else ()
    return [*map(Path, step.makes), *(Path(workflow.folder) / name for name in shown)]


def _of_shards(workflow: Workflow, step: Step, name: str) -> List[Path]:
    """The records of the shards of a step, also of earlier plans, except locks."""
    of_shard = re.compile(rf"({re.escape(name)}-\d+-of-\d+)\.(json|recipe\.json|attempts)")
    others = {each.name for each in workflow.steps if each.folder != step.folder}
    matches = (
        (of_shard.fullmatch(path.name), path) for path in (Path(workflow.folder) / STEPS).iterdir()
    )
    return [path for match, path in matches if match and match[1] not in others]


def _refuse_running(lock: Path, step: Step) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    with open(lock, "a", opener=own_file) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"{step.name} still runs with its old commands, in the job of a killed "
                        "driver. Cancel that job or wait for it, then run the same command again."
                    ) from None
                time.sleep(0.2)


def _free(folder: Path, name: str) -> Path:
    """An unused name with a number in a folder."""
    numbered = (folder / f"{name}.{number}" for number in itertools.count(1))
    return next(path for path in numbered if not path.exists())
