"""The systems that are compared: checkpoints with a role, and the set that they translate."""

import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch
from fairseq.data import data_utils

from fairseq_kd.checkpoints.updates import updates_behind, updates_done
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.decoding.translation_model import Checkpoint, load_checkpoint, read_subset_for
from fairseq_kd.evaluation.results import TrainingCurves
from fairseq_kd.files.names import SYSTEM, in_one_line
from fairseq_kd.teachers.compatibility import language_pair
from fairseq_kd.teachers.languages import Languages, Pair
from fairseq_kd.teachers.loading import ANY
from fairseq_kd.training_log import LOG_FILE, Record, read_training_log

CURVE_POINTS = 400  # at most
SETTINGS = ("temperature", "agreement", "teacher_entropy", "alpha", "beta", "teacher_gap")


class NamedCheckpoint(NamedTuple):
    """A system as the user gave it: ``--student [NAME=]S.pt``. The role is the flag's name."""

    role: str
    name: str
    path: str

    @classmethod
    def parse(cls, role: str, text: str) -> "NamedCheckpoint":
        """Reads ``NAME=S.pt``, or ``S.pt``, which is named by its role.

        Raises:
            ValueError: it is neither, or the name is not allowed.
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
                "- _ . , : ; + @ ( ) # % & ', and begins with a letter or a digit, but is "
                f"{name!r}. Choose another."
            )
        if name.endswith(", int8"):
            raise ValueError(
                f"--{role} {text} has the name of the int8 conversion of a system. Give it a name "
                'that does not end in ", int8".'
            )
        return cls(role, name, path)


class System(NamedTuple):
    """A checkpoint of the comparison."""

    name: str  # in the report
    role: str  # teacher, student or control
    checkpoint: Checkpoint  # ready to translate
    updates: int  # of its own training
    updates_behind: Optional[int]  # with those of its initial checkpoint; None if unknown

    @property
    def path(self) -> Path:
        """Of the checkpoint."""
        return self.checkpoint.path

    @property
    def sha256(self) -> str:
        """The hash of the checkpoint's file."""
        return self.checkpoint.sha256

    @property
    def max_source(self) -> int:
        """Tokens of a source sentence that the model reads."""
        return self.checkpoint.max_source

    @property
    def slug(self) -> str:
        """The name, as used in file names."""
        return slug(self.name)


def slug(name: str) -> str:
    """A name as part of a file name: letters, digits, - and _."""
    return re.sub(r"[^\w]+", "-", name).strip("-")


def load_systems(
    named: Sequence[NamedCheckpoint], data: Path, teacher: Optional[Pair] = None
) -> List[System]:
    """Loads every system, as ``fairseq-generate`` would.

    Args:
        named: the teacher first.
        data: the folder of the test set.
        teacher: the names of its languages in the teacher, if they are others.

    Raises:
        FileNotFoundError: a checkpoint or its dictionaries are missing.
        ValueError: two systems have the same name, or one is not a translation model.
    """
    by_slug: Dict[str, NamedCheckpoint] = {}
    for each in named:
        first = by_slug.setdefault(slug(each.name), each)
        if first is not each:
            alike = first.name == each.name
            names = each.name if alike else f"{slug(each.name)} in the names of files"
            raise ValueError(
                f"--{first.role} {first.path} and --{each.role} {each.path} are both called "
                f"{names}. Name one of them as --{each.role} NAME={each.path}."
            )
    return [
        load_named(
            each,
            f"--{each.role}",
            Languages.of_data(data, teacher if each.role == "teacher" else None),
        )
        for each in named
    ]


def load_named(named: NamedCheckpoint, flag: str, languages: Languages = ANY) -> System:
    """Loads one system, as ``fairseq-generate`` would.

    Args:
        named: its role, name and checkpoint.
        flag: its flag, for errors.
        languages: the pair to translate; see ``load_teacher``.

    Raises:
        FileNotFoundError, ValueError: as ``load_teacher``.
    """
    checkpoint = load_checkpoint(named.path, flag, languages)
    checkpoint.model.make_generation_fast_(need_attn=False)  # as fairseq-generate does
    path = Path(named.path)
    counts = updates_done(path), updates_behind(path)
    return System(named.name, named.role, checkpoint, *counts)


def common_subset(systems: Sequence[System], folder: Path, name: str) -> Subset:
    """The set to be translated, which must fit every system.

    Raises:
        FileNotFoundError, ValueError: as ``read_subset_for``; or the systems translate different
            language pairs, or the set is empty or has no references.
    """
    pairs = {language_pair(system.checkpoint.task): system for system in systems}
    if len(pairs) > 1:
        directions = " but ".join(
            f"{system.checkpoint.flag} {system.path} translates {'-'.join(pair)}"
            for pair, system in pairs.items()
        )
        raise ValueError(f"{directions}. Compare systems of one direction.")
    subset = read_subset_for([system.checkpoint for system in systems], folder, name)
    if subset.target is None:
        raise ValueError(
            f"{folder} holds no references of {name}. Binarise it with both languages."
        )
    if not len(subset):
        raise ValueError(f"{name} in {folder} holds no sentence. Give another --subset.")
    return subset


def sample_of(subset: Subset, indices: Sequence[int]) -> Dict[str, Any]:
    """A batch of sentence pairs as fairseq's translation task makes it: the longest sources first.

    Returns:
        ``net_input`` with source (B, S), padded left, and target prefix (B, L); ``target`` (B, L).
    """
    indices = sorted(indices, key=lambda i: -len(subset.source[i]))  # an lstm needs this order
    sources = [subset.source[i].long() for i in indices]
    targets = [subset.target[i].long() for i in indices]
    pad, eos = subset.target_dictionary.pad(), subset.target_dictionary.eos()
    collate = data_utils.collate_tokens
    return {
        "net_input": {
            "src_tokens": collate(sources, subset.source_dictionary.pad(), left_pad=True),
            "src_lengths": torch.tensor([len(each) for each in sources]),
            "prev_output_tokens": collate(targets, pad, eos, move_eos_to_beginning=True),
        },
        "target": collate(targets, pad),
        "ntokens": sum(map(len, targets)),
        "nsentences": len(targets),
    }


def training_curves(checkpoint: Path) -> Optional[TrainingCurves]:
    """The training of a checkpoint; None if there is no ``train.log`` beside it."""
    path = checkpoint.parent / LOG_FILE
    if not path.is_file():
        return None
    log = read_training_log(path)
    return TrainingCurves(log.command, _columns(log.training), _columns(log.validation))


def _columns(records: List[Record]) -> Dict[str, List[Optional[float]]]:
    """The columns of at most CURVE_POINTS records, evenly spaced, including the last one."""
    step = max(1, -(-len(records) // CURVE_POINTS))
    kept = records[::-1][::step][::-1]
    names = {name for record in kept for name in record if _is_plotted(name)}
    return {name: [record.get(name) for record in kept] for name in sorted(names)}


def _is_plotted(name: str) -> bool:
    loss = name.endswith("loss") and not name.startswith(("best_", "_"))
    return name == "update" or name in SETTINGS or (loss and name.isidentifier())
