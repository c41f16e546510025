"""The teachers of a decoding: loaded, and checked against the data that they are to translate."""

import os
from pathlib import Path
from typing import List, NamedTuple

from fairseq.models import FairseqEncoderDecoderModel
from fairseq.tasks import FairseqTask

from fairseq_kd.decoding.subset import Subset, read_subset
from fairseq_kd.teachers.compatibility import first_difference, language_pair
from fairseq_kd.teachers.loading import load_teacher


class Checkpoint(NamedTuple):
    """A checkpoint, its model in eval mode, the task it was trained on, and the flag it came by."""

    path: Path
    model: FairseqEncoderDecoderModel
    task: FairseqTask
    flag: str = "--teacher"


def load_teachers(typed: str) -> List[Checkpoint]:
    """The teachers that ``--teacher`` names, parted as in ``fairseq-generate --path``.

    Raises:
        FileNotFoundError: a checkpoint or its dictionaries are missing.
        ValueError: one is no translation model, or they translate different pairs.
    """
    teachers = [load_checkpoint(path, "--teacher") for path in typed.split(os.pathsep)]
    pairs = {language_pair(teacher.task) for teacher in teachers}
    if len(pairs) > 1:
        told = " and ".join("-".join(pair) for pair in sorted(pairs))
        raise ValueError(f"--teacher names models that translate {told}. Give models of one pair.")
    return teachers


def load_checkpoint(path: str, flag: str) -> Checkpoint:
    """One checkpoint, as it translates.

    Args:
        path: as the user typed it.
        flag: how the user named it.

    Raises:
        FileNotFoundError, ValueError: as ``load_teacher``.
    """
    model, task = load_teacher(path, flag)
    return Checkpoint(Path(path), model.eval().requires_grad_(False), task, flag)


def read_their_subset(teachers: List[Checkpoint], folder: Path, name: str) -> Subset:
    """The set to be translated, in the teachers' pair and with their dictionaries.

    Raises:
        FileNotFoundError, ValueError: as ``read_subset``; or a dictionary is not a teacher's.
    """
    subset = read_subset(folder, name, language_pair(teachers[0].task))
    for teacher in teachers:
        for side, option, theirs, ours, language in (
            ("source", "srcdict", teacher.task.source_dictionary, subset.source_words, 0),
            ("target", "tgtdict", teacher.task.target_dictionary, subset.target_words, 1),
        ):
            difference = first_difference(theirs, ours)
            if difference is not None:
                raise ValueError(
                    f"The {side} dictionaries of {teacher.flag} {teacher.path} and {folder} differ "
                    f"at index {difference}. Binarise the data with --{option} and the "
                    f"{teacher.flag.lstrip('-')}'s dict.{subset.pair[language]}.txt."
                )
    return subset
