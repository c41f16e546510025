"""A run as steps: commands that can be copied, what they need, and what they make."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import fairseq_kd
from fairseq_kd.json_files import read_json
from fairseq_kd.whole_files import written_whole

ROOT = Path(fairseq_kd.__file__).resolve().parents[1]
OURS = ("user_dir", "scripts/prepare.sh")  # in ROOT, and in commands of a run
FILE, LOCK = "plan.json", ".lock"  # in the folder of the run
STEP = {"name": str, "kind": str, "commands": [[str]], "after": [str], "reads": [str]}
STEP.update({"makes": [str], "folder": (str, None), "gpus": int})
FORM = {"folder": str, "made_from": dict, "seed": int, "steps": [STEP]}
REPAIR = "Run fairseq-kd progressive again, which writes it."


class Step(NamedTuple):
    """One step of a run.

    Args:
        name: of the step, and of the folder that it fills.
        kind: what it does, a rule of the Snakefile.
        commands: its command lines, word by word.
        after: steps whose results it needs.
        reads: files from outside the run that it needs.
        makes: files that are there when it is done.
        folder: what is begun anew if the step changes; None if the commands overwrite.
        gpus: that it uses, if the machine has any.
    """

    name: str
    kind: str
    commands: List[List[str]]
    after: List[str]
    reads: List[str]
    makes: List[str]
    folder: Optional[str] = None
    gpus: int = 0


class Plan(NamedTuple):
    """A run that was looked up and laid out.

    Args:
        folder: of the run.
        made_from: what it was laid out from, to know when it must be again.
        seed: of its trainings.
        steps: in an order that works.
    """

    folder: str
    made_from: Dict[str, Any]
    seed: int
    steps: List[Step]

    def step(self, name: str) -> Step:
        """The step of a name.

        Raises:
            ValueError: there is none; all names are told.
        """
        for step in self.steps:
            if step.name == name:
                return step
        names = ", ".join(step.name for step in self.steps)
        raise ValueError(f"The run has no step {name}. Its steps are {names}.")


def write_plan(plan: Plan) -> Path:
    """Writes it into the folder of the run, and says where."""
    path = Path(plan.folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        json.dump(_content(plan), file, indent=1)
    return path


def plan_sha256(plan: Plan) -> str:
    """The SHA-256 of what a plan says."""
    return hashlib.sha256(json.dumps(_content(plan), sort_keys=True).encode()).hexdigest()


def read_plan(path: Path, sha256: Optional[str] = None) -> Plan:
    """A plan from its file.

    Args:
        path: the file, which anybody may have written.
        sha256: of the plan whose commands are to run; None if none are.

    Raises:
        FileNotFoundError, ValueError: it is missing, damaged or another plan.
    """
    content = read_json(path, FORM, REPAIR)
    steps = [Step(**{key: step[key] for key in Step._fields}) for step in content["steps"]]
    plan = Plan(**{key: content[key] for key in FORM if key != "steps"}, steps=steps)
    if sha256 is not None and plan_sha256(plan) != sha256:
        raise ValueError(
            f"{path} is not what fairseq-kd progressive laid out: it was changed since. No command "
            f"of it is run. {REPAIR}"
        )
    return plan


def same_commands(old: List[List[str]], new: List[List[str]]) -> bool:
    """Whether command lines do the same, from wherever our own files are named."""
    if [len(line) for line in old] != [len(line) for line in new]:
        return False
    words = (list(itertools.chain.from_iterable(lines)) for lines in (old, new))
    return all(map(same_word, *words))


def same_word(old: str, new: str) -> bool:
    """Whether two words of command lines are equal, or both name the same file of ours."""
    ours = (own for own in OURS if f"/{old}".endswith(f"/{own}"))
    return old == new or any(Path(new).resolve() == ROOT / own for own in ours)


def differing_words(old: List[str], new: List[str]) -> str:
    """How two command lines differ: by flags, where they can be told."""
    ours, theirs = _flags(new), _flags(old)
    told = []
    for flag in dict.fromkeys([*theirs, *ours]):
        before, now = theirs.get(flag), ours.get(flag)
        if before != now:
            was = "was not given" if before is None else f"was {before or 'given'}"
            told.append(f"{flag} {was}, is {'not given' if now is None else now or 'given'}")
    return "; ".join(told) or "its command is another"


def _flags(words: List[str]) -> Dict[str, str]:
    """By flag, the words that follow it; what stands before any flag is its command."""
    found: Dict[str, str] = {}
    flag = "command"
    for word in words:
        if word.startswith("--") and word != "--":
            flag = word
            found[flag] = ""
        else:
            found[flag] = f"{found.get(flag, '')} {word}".strip()
    return found


def _content(plan: Plan) -> Dict[str, Any]:
    return {**plan._asdict(), "steps": [step._asdict() for step in plan.steps]}
