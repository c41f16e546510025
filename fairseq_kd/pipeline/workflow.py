"""A run as a workflow of steps: command lines, required steps, inputs and outputs."""

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Protocol, Type

from fairseq_kd.command_line import Options
from fairseq_kd.files.atomic_files import atomic_write
from fairseq_kd.files.json_files import read_json
from fairseq_kd.installation import USER_DIR, USER_DIRS

WORKFLOW_FILE, LOCK = "workflow.json", ".lock"  # in the folder of the run
TRAINING = {"needs_gpu": (str, None), "on_cpu": bool, "nodes?": int}
STEP = {"name": str, "kind": str, "commands": [[str]], "after": [str], "reads": [str]}
STEP.update({"makes": [str], "folder": (str, None), "gpus": int, "training?": TRAINING})
FIELDS = {"folder": str, "inputs": dict, "seed": int, "steps": [STEP]}
FORMER_FILE = "plan.json"  # of runs before the file had its present name
FORMER_FIELDS = {"folder": str, "made_from": dict, "seed": int, "steps": [STEP]}
REPAIR = "Run fairseq-kd progressive again, which writes it."


class Training(NamedTuple):
    """What a run must know of a training beside its command line.

    Args:
        needs_gpu: the flag, without dashes, for which it needs a GPU; None if there is none.
        on_cpu: whether it uses no GPU.
        nodes: how many machines it needs.
    """

    needs_gpu: Optional[str] = None
    on_cpu: bool = False
    nodes: int = 1


class Step(NamedTuple):
    """One step of a run.

    Args:
        name: the step's, unique in the run; usually also that of its output folder.
        kind: the kind of work; each kind has a rule in the Snakefile.
        commands: its command lines, each a list of arguments.
        after: the names of the steps whose outputs it needs.
        reads: the input files that no step of the run makes.
        makes: its output files; all exist when it is done.
        folder: the output folder, moved aside if the step changes; None if its commands overwrite
            their outputs.
        gpus: how many GPUs it uses on each machine, if that has any.
        training: of a training, what its command does; None for other steps, and in files of
            versions that did not record it.
    """

    name: str
    kind: str
    commands: List[List[str]]
    after: List[str]
    reads: List[str]
    makes: List[str]
    folder: Optional[str] = None
    gpus: int = 0
    training: Optional[Training] = None


class Command(Protocol):
    """The action of a step: the options of a command, or a training."""

    def argv(self) -> List[str]:
        """The command line."""


class LaidOutStep(NamedTuple):
    """A step of a run with a command object instead of command lines; otherwise like ``Step``."""

    name: str
    kind: str
    command: Command
    after: List[str]
    reads: List[str]
    makes: List[str]
    folder: Optional[str] = None
    gpus: int = 0
    training: Optional[Training] = None

    def recorded(self) -> Step:
        """The step as the workflow records it."""
        content = self._asdict()
        return Step(commands=[content.pop("command").argv()], **content)


def in_shards(
    whole: LaidOutStep, options: Type[Options], flags: Mapping[str, Any], shards: int
) -> List[LaidOutStep]:
    """A step as one, or as parts for several machines and one that merges them.

    Args:
        whole: the step, whose command merges.
        options: of the command that does the work.
        flags: its flags.
        shards: how many parts.
    """
    if shards == 1:
        return [whole._replace(command=options.of(flags))]
    parts = [
        whole._replace(
            name=f"{whole.name}-{index}-of-{shards}",
            command=options.of([*flags.items(), ("shard", f"{index}/{shards}")]),
            makes=[],
        )
        for index in range(1, shards + 1)
    ]
    names = [part.name for part in parts]
    return [*parts, whole._replace(kind="merge", after=names, reads=[], gpus=0)]


def last_part(folder: str) -> str:
    """The last part of a path, which is the name of its step."""
    return os.path.basename(folder)


class Workflow(NamedTuple):
    """All steps of a run, in an order in which they can be executed.

    Args:
        folder: the folder of the run.
        inputs: the run file and the hashes of what it names; if they differ, all commands are
            checked again.
        seed: the random seed of its trainings.
        steps: each after those that it needs.
    """

    folder: str
    inputs: Dict[str, Any]
    seed: int
    steps: List[Step]

    def step(self, name: str) -> Step:
        """The step of a name.

        Raises:
            ValueError: there is none; the message lists all names.
        """
        for step in self.steps:
            if step.name == name:
                return step
        names = ", ".join(step.name for step in self.steps)
        raise ValueError(f"The run has no step {name}. Its steps are {names}.")


def write_workflow(workflow: Workflow) -> Path:
    """Writes the workflow into the folder of the run and returns the path of the file."""
    path = Path(workflow.folder) / WORKFLOW_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        json.dump(_content(workflow), file, indent=1)
    return path


def workflow_sha256(workflow: Workflow) -> str:
    """The SHA-256 of the content of a workflow."""
    return hashlib.sha256(json.dumps(_content(workflow), sort_keys=True).encode()).hexdigest()


def read_workflow(path: Path, sha256: Optional[str] = None) -> Workflow:
    """Reads a workflow from its file.

    Args:
        path: the file, which is not trusted: anybody may have written it.
        sha256: the hash that the workflow must have for its commands to be executed; None if they
            are not executed.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is damaged, or has another hash.
    """
    content = read_json(path, FIELDS, REPAIR)
    steps = [_step(each) for each in content["steps"]]
    workflow = Workflow(**{key: content[key] for key in FIELDS if key != "steps"}, steps=steps)
    if sha256 is not None and workflow_sha256(workflow) != sha256:
        raise ValueError(
            f"{path} was modified after fairseq-kd progressive wrote it. None of its commands is "
            f"run. {REPAIR}"
        )
    return workflow


def holds_former_run(folder: Path) -> bool:
    """Whether a folder holds a run of a version that wrote ``plan.json``.

    Its finished steps count: their manifests do not depend on that file, which is left as it is.
    """
    try:
        read_json(folder / FORMER_FILE, FORMER_FIELDS, REPAIR)
    except (OSError, ValueError):
        return False
    return True


def same_commands(old: List[List[str]], new: List[List[str]]) -> bool:
    """Whether command lines are equal, ignoring the location of this package."""
    if [len(line) for line in old] != [len(line) for line in new]:
        return False
    return all(map(same_word, *(itertools.chain.from_iterable(lines) for lines in (old, new))))


def same_word(old: str, new: str) -> bool:
    """Whether two arguments are equal, or both are the plugin of an installation."""
    return old == new or (Path(old).name in USER_DIRS and Path(new).resolve() == USER_DIR)


def changed_flags(old: List[str], new: List[str]) -> str:
    """The flags that differ between two command lines."""
    ours, theirs = _flags(new), _flags(old)
    changes = []
    for flag in dict.fromkeys([*theirs, *ours]):
        before, now = theirs.get(flag), ours.get(flag)
        if before != now:
            was = "was not given" if before is None else f"was {before or 'given'}"
            changes.append(f"{flag} {was}, is {'not given' if now is None else now or 'given'}")
    return "; ".join(changes) or "its command changed"


def _flags(arguments: List[str]) -> Dict[str, str]:
    """The values of each flag; what precedes the first flag is under "command"."""
    values: Dict[str, str] = {}
    flag = "command"
    for word in arguments:
        if word.startswith("--") and word != "--":
            flag = word
            values[flag] = ""
        else:
            values[flag] = f"{values.get(flag, '')} {word}".strip()
    return values


def _content(workflow: Workflow) -> Dict[str, Any]:
    return {**workflow._asdict(), "steps": [_recorded(step) for step in workflow.steps]}


def _recorded(step: Step) -> Dict[str, Any]:
    """A step as the file has it."""
    content = step._asdict()
    training = content.pop("training")
    return {**content, "training": training._asdict()} if training else content


def _step(content: Dict[str, Any]) -> Step:
    """The step that the file has."""
    known = {key: content[key] for key in Step._fields if key in content}
    training = content.get("training")
    if training is not None:
        known["training"] = Training(**training)
    return Step(**known)
