"""What of a run is done, and why the rest is not.

A finished step leaves ``steps/NAME.json``, its manifest. In it is its recipe: the commands, the
hashes of the files from outside that it read, and the recipes of the steps before it. A step is
done while its recipe is still the one of the plan and what it made is still what it made. So a
changed option makes that step anew and those that stand on it, and no other.
"""

import fcntl
import hashlib
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Set

from fairseq_kd.distilled_data.manifest import FILE as MANIFEST
from fairseq_kd.distilled_data.manifest import read_manifest
from fairseq_kd.hashes import sha256_of
from fairseq_kd.json_files import read_json, sealed
from fairseq_kd.pipeline.workflow import Plan, Step, differing_words, same_commands
from fairseq_kd.whole_files import own_file, written_whole

STEPS, REPLACED, HASHES = "steps", "replaced", "hashes.json"
STORED = "sentences.npy"  # of a subset of a store
REPORTED = ("plots", "translations")  # folders that an evaluation fills beside its report
SMALL_BYTES = 16 << 20  # files below are hashed each time
PATIENCE_SECONDS = 3.0  # what the steps of a killed driver need to end
DONE, MISSING, BEGUN, CHANGED, DAMAGED = "done", "missing", "begun", "changed", "damaged"
RECIPE = {"id": str, "commands": [[str]], "reads": {str: str}, "after": {str: str}}
OUTPUTS = {str: {"bytes": int, "sha256": str}}
FORM = {
    **{"step": str, "kind": str, "parents": [str], "recipe": RECIPE},
    **{"stood_on": {str: OUTPUTS}, "outputs": OUTPUTS, "seed": int, "attempts": int},
    **{"begun": str, "finished": str, "seconds": float},
    **{"machine": str, "version": str, "versions": object},
    **{"updates?": int, "updates_behind?": (int, None), "scores?": {str: object}},  # of a training
}


class Verdict(NamedTuple):
    """How a step stands.

    Args:
        step: the step.
        recipe: what it is made by now.
        state: one of the words above.
        why: it is not done; "" if it is.
    """

    step: Step
    recipe: Dict[str, Any]
    state: str
    why: str


def manifest_path(plan: Plan, step: Step) -> Path:
    """Where a finished step says so."""
    return Path(plan.folder) / STEPS / f"{step.name}.json"


def recipe_path(plan: Plan, step: Step) -> Path:
    """Where a step that was begun keeps what it is made by."""
    return Path(plan.folder) / STEPS / f"{step.name}.recipe.json"


def attempts_path(plan: Plan, step: Step) -> Path:
    """Where a step that was begun keeps when, each time."""
    return Path(plan.folder) / STEPS / f"{step.name}.attempts"


def judge(plan: Plan, verify: bool = False) -> List[Verdict]:
    """How every step stands, in the plan's order.

    Args:
        plan: the run.
        verify: hash every file that a manifest names, whatever its size and time of change, and
            read every record of the stores.

    Raises:
        FileNotFoundError: a file from outside the run is missing.
    """
    hashes = FileHashes(Path(plan.folder) / HASHES, verify)
    verdicts: Dict[str, Verdict] = {}
    for step in plan.steps:
        before = {name: verdicts[name] for name in step.after}
        begun = _begun(plan, step)
        ids = {name: each.recipe["id"] for name, each in before.items()}
        recipe = _recipe(step, ids, hashes, begun or {})
        verdicts[step.name] = Verdict(step, recipe, *_state(plan, step, recipe, before, hashes))
    hashes.save()
    return _together(list(verdicts.values()))


def _begun(plan: Plan, step: Step) -> Optional[Dict[str, Any]]:
    """The recipe by which a step was finished or begun, or None."""
    manifest = step_manifest(plan, step)
    if manifest is not None:
        return manifest["recipe"]
    return read_recipe(plan, step) if attempts_path(plan, step).is_file() else None


def _recipe(
    step: Step, before: Dict[str, str], hashes: "FileHashes", begun: Dict[str, Any]
) -> Dict[str, Any]:
    """What a step is made by now, where ``begun`` is what it was made by then."""
    reads = {path: hashes.of(path, begun.get("reads", {}).get(path)) for path in step.reads}
    same = begun and same_commands(begun["commands"], step.commands)
    commands = begun["commands"] if same else step.commands
    content = {"commands": commands, "reads": reads, "after": before}
    text = json.dumps(content, sort_keys=True)
    return {"id": hashlib.sha256(text.encode()).hexdigest(), **content}


def _state(
    plan: Plan, step: Step, recipe: Dict[str, Any], before: Dict[str, Verdict], hashes: "FileHashes"
) -> "tuple[str, str]":
    manifest, begun = step_manifest(plan, step), _begun(plan, step)
    if begun is None:
        if step.folder and Path(step.folder).exists() and not _is_ours(plan, step.folder):
            return CHANGED, f"{step.folder} was there before, and this run did not make it"
        return MISSING, "it has not been made yet"
    if begun["id"] != recipe["id"]:
        return CHANGED, _difference(begun, recipe)
    again = [name for name in before if not _stays(before[name], manifest, hashes)]
    if again:
        return CHANGED, f"{' and '.join(again)} must be made again"
    if manifest is None:
        if step.folder and not Path(step.folder).exists():
            return BEGUN, f"it was interrupted, and begins anew: {step.folder} is not there"
        return BEGUN, "it was interrupted"
    unknown = [path for path in step.makes if path not in manifest["outputs"]]
    if unknown:
        return BEGUN, f"its manifest has no hash of {unknown[0]}"
    for name, made in stood_on(plan, step).items():
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


def _stays(before: Verdict, manifest: Optional[Dict[str, Any]], hashes: "FileHashes") -> bool:
    """Whether what a step before has made stays what the manifest of a step after it tells.

    One that was interrupted, or lost its manifest, may have made all of it.
    """
    if before.state != BEGUN or manifest is None:
        return before.state == DONE
    made = manifest["stood_on"].get(before.step.name, {})
    return {*before.step.makes} <= {*made} and not any(
        _damage(path, each, hashes) for path, each in made.items()
    )


def stood_on(plan: Plan, step: Step) -> Dict[str, Any]:
    """What the steps before a step have made, by their names."""
    manifests = {name: step_manifest(plan, plan.step(name)) for name in step.after}
    return {name: found["outputs"] for name, found in manifests.items() if found}


def _is_ours(plan: Plan, folder: str) -> bool:
    """Whether a step of the run was begun in the folder."""
    own = (step for step in plan.steps if step.folder == folder)
    paths = [
        path for step in own for path in (manifest_path(plan, step), attempts_path(plan, step))
    ]
    return any(path.is_file() for path in paths)


def step_manifest(plan: Plan, step: Step) -> Optional[Dict[str, Any]]:
    """What a step left when it was finished, or None.

    Raises:
        ValueError: it is damaged.
    """
    path = manifest_path(plan, step)
    repair = f"Remove it, and {step.name} is run again."
    return read_json(path, FORM, repair) if path.is_file() else None


def read_recipe(plan: Plan, step: Step) -> Dict[str, Any]:
    """What a step that was begun is made by.

    Raises:
        FileNotFoundError, ValueError: it is missing or damaged.
    """
    repair = (
        f"Remove it and {attempts_path(plan, step)}, and {step.name} begins anew; what it has made "
        f"is then moved to {Path(plan.folder) / REPLACED}."
    )
    return read_json(recipe_path(plan, step), RECIPE, repair)


def _damage(path: str, made: Dict[str, Any], hashes: "FileHashes") -> str:
    """What is wrong with a file that a step made, or ""."""
    if not Path(path).is_file():
        return f"{path} is missing"
    size = Path(path).stat().st_size
    if size != made["bytes"]:
        return f"{path} has {size:,} bytes, but was made with {made['bytes']:,}"
    if hashes.of(path, made["sha256"]) != made["sha256"]:
        return f"{path} is not what was made: its SHA-256 has changed"
    return ""


def _damage_of_named(path: Path, hashes: "FileHashes") -> str:
    """What is wrong with the files that a file which a step made stands for, or ""."""
    if path.name == MANIFEST:  # of a distilled set
        for name, digest in (read_manifest(path.parent) or {"files": {}})["files"].items():
            file = path.parent / name
            if not file.is_file():
                return f"{file} is missing"
            if hashes.of(str(file), digest) != digest:
                return f"{file} is not what was made: its SHA-256 has changed"
    if path.name == STORED and hashes.verify:
        from fairseq_kd.teachers.store import TeacherStore  # loads torch

        try:
            TeacherStore(path.parent.parent).subset(path.parent.name).check()
        except (OSError, ValueError) as error:
            return str(error).rstrip(".")
    return ""


def _difference(old: Dict[str, Any], new: Dict[str, Any]) -> str:
    """The first difference of two recipes, as it is told."""
    if old["commands"] != new["commands"]:
        words = ([word for line in each["commands"] for word in line] for each in (old, new))
        return differing_words(*words)
    for path, digest in new["reads"].items():
        if old["reads"].get(path) != digest:
            return f"{path} is another file than it was"
    again = [name for name, digest in new["after"].items() if old["after"].get(name) != digest]
    return f"{' and '.join(again)} must be made again" if again else "its inputs are others"


def _together(verdicts: List[Verdict]) -> List[Verdict]:
    """Steps that fill one folder are made anew together."""
    stale = {
        verdict.step.folder: verdict
        for verdict in verdicts
        if verdict.state in (CHANGED, DAMAGED) and verdict.step.folder is not None
    }
    joined = []
    for verdict in verdicts:
        first = stale.get(verdict.step.folder)
        if first is not None and verdict.state in (DONE, BEGUN):
            verdict = verdict._replace(state=first.state, why=f"{first.step.name}: {first.why}")
        joined.append(verdict)
    return joined


def make_way(plan: Plan, verdicts: List[Verdict]) -> List[str]:
    """Prepares the steps that are not done: what they replace is moved aside, recipes are written.

    Returns:
        What was moved, with where it is now.

    Raises:
        ValueError: a stale step still runs, as the job of a driver that was killed.
    """
    steps, replaced = Path(plan.folder) / STEPS, Path(plan.folder) / REPLACED
    steps.mkdir(parents=True, exist_ok=True)
    stale = [verdict.step for verdict in verdicts if verdict.state in (CHANGED, DAMAGED)]
    for step in stale:
        _refuse_running(steps / f"{step.name}.lock", step)
    moved: Dict[str, str] = {}
    for step in stale:
        there = [path for path in replaced_by(plan, step) if path.exists()]
        if step.folder is None and there:  # together, for a report shows its plots
            into = _free(replaced, step.name)
            into.mkdir(parents=True)
        for path in there:
            now = _free(replaced, path.name) if step.folder else into / path.name
            now.parent.mkdir(exist_ok=True)
            moved[str(path)] = str(path.rename(now))
            for part in _of_shards(plan, step, path.name):
                part.unlink()
        attempts_path(plan, step).unlink(missing_ok=True)
    for verdict in verdicts:
        if verdict.state != DONE:
            manifest_path(plan, verdict.step).unlink(missing_ok=True)
            with written_whole(recipe_path(plan, verdict.step)) as file:
                json.dump(sealed(verdict.recipe), file, indent=1)
    return [f"{old} is now {new}" for old, new in moved.items()]


def replaced_by(plan: Plan, step: Step) -> List[Path]:
    """What is moved aside before a step is made anew: its folder, or its files and theirs."""
    if step.folder:
        return [Path(step.folder)]
    shown = REPORTED if step.kind == "evaluate" else ()
    return [*map(Path, step.makes), *(Path(plan.folder) / name for name in shown)]


def _of_shards(plan: Plan, step: Step, name: str) -> List[Path]:
    """What is kept of the shards of a step, those of earlier plans too, but for their locks."""
    of_shard = re.compile(rf"({re.escape(name)}-\d+-of-\d+)\.(json|recipe\.json|attempts)")
    others = {each.name for each in plan.steps if each.folder != step.folder}
    found = (
        (of_shard.fullmatch(path.name), path) for path in (Path(plan.folder) / STEPS).iterdir()
    )
    return [path for match, path in found if match and match[1] not in others]


def _refuse_running(lock: Path, step: Step) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    with open(lock, "a", opener=own_file) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"{step.name} still runs by its old commands, as the job of a driver that "
                        "was killed. Cancel that job or wait for it, then run this again."
                    ) from None
                time.sleep(0.2)


def _free(folder: Path, name: str) -> Path:
    """A name with a number that nothing in a folder has."""
    numbered = (folder / f"{name}.{number}" for number in itertools.count(1))
    return next(path for path in numbered if not path.exists())


class FileHashes:
    """SHA-256 of files; of large ones computed once for each size and time of change.

    Args:
        path: where they are kept.
        verify: compute those of large files anew, too.
    """

    def __init__(self, path: Path, verify: bool = False):
        self.path, self.verify = path, verify
        self.computed: Set[str] = set()  # here, which is enough
        self.known: Dict[str, Any] = {}
        if path.is_file():
            form = {"files?": {str: {"stamp": [int], "sha256": str}}}
            kept = read_json(path, form, "Remove it: it only saves time.")
            self.known = kept.get("files", {})

    def of(self, path: str, expected: Optional[str] = None) -> str:
        """The hash of a file.

        Args:
            path: of the file.
            expected: if the hash that is kept is another, it is computed: it may be damaged.

        Raises:
            FileNotFoundError: it is missing.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is missing, which the run reads.")
        stat = Path(path).stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        kept = self.known.get(path)
        fresh = path in self.computed or not (self.verify or stat.st_size < SMALL_BYTES)
        if path not in self.computed and kept and expected:
            fresh = fresh and kept["sha256"] == expected
        if kept is None or kept["stamp"] != stamp or not fresh:
            self.computed.add(path)
            self.known[path] = {"stamp": stamp, "sha256": sha256_of([Path(path)])}
        return self.known[path]["sha256"]

    def save(self) -> None:
        """Keeps them for the next time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(self.path) as file:
            json.dump(sealed({"files": self.known}), file)
