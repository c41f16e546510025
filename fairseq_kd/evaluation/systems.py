"""The systems that are compared: a teacher, its students, and students that had no teacher."""

import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from fairseq_kd.hashes import sha256_of
from fairseq_kd.names import SYSTEM, in_one_line
from fairseq_kd.sequence.subset import Subset
from fairseq_kd.sequence.teachers import Checkpoint, load_checkpoint, read_their_subset
from fairseq_kd.teachers.compatibility import language_pair
from fairseq_kd.updates import updates_behind, updates_done

ROLES = ("teacher", "student", "control")


class System(NamedTuple):
    """One checkpoint of the comparison.

    Args:
        name: as it stands in the report.
        role: one of ROLES.
        model: the checkpoint, loaded and ready to translate.
        sha256: of its file.
        updates: of its own training.
        updates_behind: its weights, those of what it started from included; None if unknown.
    """

    name: str
    role: str
    model: Checkpoint
    sha256: str
    updates: int
    updates_behind: Optional[int]

    @property
    def path(self) -> Path:
        """Of the checkpoint."""
        return self.model.path

    @property
    def slug(self) -> str:
        """The name as a file's."""
        return slug(self.name)


class Named(NamedTuple):
    """A system as the user gave it: ``--student [NAME=]S.pt``."""

    role: str
    name: str
    path: str

    @classmethod
    def parse(cls, role: str, text: str) -> "Named":
        """Reads ``NAME=S.pt`` or ``S.pt``, whose name is its role.

        Raises:
            ValueError: it is neither, or the name is that of an int8 form.
        """
        name, separator, path = text.partition("=")
        if separator and "/" in name and not Path(text).exists() and Path(path).exists():
            raise ValueError(f"--{role} {text}: a name holds no slash, as {name} does. Rename it.")
        if not separator or "/" in name:
            name, path = role, text
        if not slug(name) or not path:
            raise ValueError(f"--{role} is given as S.pt or NAME=S.pt, but is {text}.")
        if not SYSTEM.fullmatch(name):
            raise ValueError(
                f"--{role} {in_one_line(text)}: a name is made of letters, digits, blanks and "
                "- _ . , : ; + @ ( ) # % & = ', and begins with a letter or a digit, but is "
                f"{name!r}. Choose another."
            )
        if name.endswith(", int8"):
            raise ValueError(
                f"--{role} {text} is called as the int8 form of a system is. Give it a name that "
                'does not end in ", int8".'
            )
        return cls(role, name, path)


def slug(name: str) -> str:
    """A name as a part of file names: letters, digits, - and _."""
    return re.sub(r"[^\w]+", "-", name).strip("-")


def load_systems(named: Sequence[Named]) -> List[System]:
    """Loads every system, as ``fairseq-generate`` would.

    Args:
        named: the teacher first.

    Raises:
        FileNotFoundError: a checkpoint or its dictionaries are missing.
        ValueError: two systems have one name, one is no translation model, or they translate
            different pairs.
    """
    taken: Dict[str, Named] = {}
    for each in named:
        before = taken.setdefault(slug(each.name), each)
        if before is not each:
            raise ValueError(
                f"--{before.role} {before.path} and --{each.role} {each.path} are both called "
                f"{each.name}. Tell them apart as --{each.role} NAME={each.path}."
            )
    return [load_named(each, f"--{each.role}") for each in named]


def load_named(named: Named, flag: str) -> System:
    """Loads one system, as ``fairseq-generate`` would.

    Args:
        named: its name and checkpoint.
        flag: how the user named it.

    Raises:
        FileNotFoundError, ValueError: as ``load_teacher``.
    """
    model = load_checkpoint(named.path, flag)
    model.model.make_generation_fast_(need_attn=False)  # what fairseq-generate does to it
    path = Path(named.path)
    counts = updates_done(path), updates_behind(path)
    return System(named.name, named.role, model, sha256_of([path]), *counts)


def common_subset(systems: Sequence[System], folder: Path, name: str) -> Subset:
    """The set to be translated, which every system reads.

    Raises:
        FileNotFoundError, ValueError: as ``read_their_subset``; or the systems translate different
            pairs, or the set has no references.
    """
    pairs = {language_pair(system.model.task): system for system in systems}
    if len(pairs) > 1:
        told = " but ".join(
            f"{system.model.flag} {system.path} translates {'-'.join(pair)}"
            for pair, system in pairs.items()
        )
        raise ValueError(f"{told}. Compare systems of one direction.")
    subset = read_their_subset([system.model for system in systems], folder, name)
    if subset.target is None:
        raise ValueError(
            f"{folder} holds no references of {name}. Binarise it with both languages."
        )
    if not len(subset):
        raise ValueError(f"{name} in {folder} holds no sentence. Give another --subset.")
    return subset


def teacher_of(systems: Sequence[System]) -> System:
    """The teacher, which stands first."""
    return systems[0]


def controls_of(systems: Sequence[System]) -> List[System]:
    """The students that had no teacher."""
    return [system for system in systems if system.role == "control"]
