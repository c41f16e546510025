"""Checks that a teacher fits a student: languages, dictionaries, positions."""

from itertools import zip_longest
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple, Union

from fairseq.data import Dictionary
from fairseq.tasks import FairseqTask
from torch import nn

from fairseq_kd.models.structure import learned_positions
from fairseq_kd.teachers.sentence_format import PLAIN, SentenceFormat


def check_same_vocabulary(teacher_name: str, teacher: Any, student: FairseqTask) -> None:
    """Refuses a teacher of another language pair or with other dictionaries than the student's.

    Args:
        teacher_name: the flag and the file that name the teacher, as the user typed them.
        teacher: the task that the teacher was trained on, or an object with its language pair and
            its two dictionaries.
        student: the task of the training; or an object with its language pair, its dictionaries,
            and the words of errors about them: ``described`` and ``advice``.

    Raises:
        ValueError: naming the two pairs, or the first index at which the dictionaries differ and
            both symbols there; or the student's task translates no single pair.
    """
    theirs, ours = language_pair(teacher), language_pair(student)
    if theirs != ours:
        described = getattr(student, "described", "the student learns")
        advice = getattr(student, "advice", "change --source-lang and --target-lang")
        swapped = " (the pair is swapped)" if theirs == ours[::-1] else ""
        raise ValueError(
            f"{teacher_name} translates {'-'.join(theirs)}, but {described} "
            f"{'-'.join(ours)}{swapped}. Give a teacher of the same direction, or "
            f"{advice}.{_other_names(teacher_name, swapped)}"
        )
    check_dictionaries(teacher_name, "teacher", teacher, student.cfg.data, student, ours)


def _other_names(teacher_name: str, swapped: str) -> str:
    """Advice for a teacher that is given by a flag and may call the same languages otherwise."""
    flag = teacher_name.partition(" ")[0]
    if swapped or flag not in ("--kd-teacher", "--teacher"):
        return ""
    return (
        f" If these are other names of the same languages, give {flag}-source-lang and "
        f"{flag}-target-lang."
    )


def check_dictionaries(
    name: str, role: str, model: Any, data: Union[str, Path], owner: Any, pair: Sequence[str]
) -> None:
    """Refuses data that were binarised with other dictionaries than a model's.

    Args:
        name: how errors name the model.
        role: its role, such as teacher.
        model: its task, or another object with two dictionaries.
        data: the folder of the data.
        owner: of the dictionaries of the data: a task or a subset.
        pair: the source and the target language.

    Raises:
        ValueError: naming the first index at which they differ.
    """
    sides = zip(("source", "target"), ("srcdict", "tgtdict"), pair, strict=True)
    for side, option, language in sides:
        theirs, ours = (getattr(each, f"{side}_dictionary") for each in (model, owner))
        difference = first_difference(theirs, ours)
        if difference is not None:
            raise ValueError(
                f"The {side} dictionaries of {name} and {data} differ at index {difference}. "
                f"Binarise the data with --{option} and the {role}'s dict.{language}.txt."
            )


def check_positions(
    teacher_name: str,
    teacher: nn.Module,
    student: FairseqTask,
    around: SentenceFormat = PLAIN,
) -> None:
    """Refuses a teacher with fewer positions than the sentences of the training may have.

    Args:
        teacher_name: the flag and the file that name the teacher, as the user typed them.
        teacher: its model. Only learned positions have a limit.
        student: the task of the training.
        around: what it reads beside a sentence.

    Raises:
        ValueError: naming the side, the teacher's positions and the training's limit.
    """
    limits = (student.cfg.max_source_positions, student.cfg.max_target_positions)
    more = (around.more_source, around.more_target)
    sides = zip(("encoder", "decoder"), ("source", "target"), limits, more, strict=True)
    for side, flag, limit, added in sides:
        positions = learned_positions(getattr(teacher, side, None))
        if positions is not None and positions - added < limit:
            room = f" and {added} tokens beside them" if added else ""
            raise ValueError(
                f"The {side} of {teacher_name} has {positions} positions, but "
                f"--max-{flag}-positions allows sentences of {limit} tokens{room}. Train with "
                f"--max-{flag}-positions {positions - added}."
            )


def language_pair(task: FairseqTask) -> Tuple[str, str]:
    """The source and the target language of a translation task."""
    pair = tuple(getattr(task.cfg, f"{side}_lang", None) for side in ("source", "target"))
    if None in pair:
        raise ValueError(
            f"The student's task, {type(task).__name__}, has no single language pair. Distil with "
            "--task translation, --source-lang and --target-lang."
        )
    return pair


def first_difference(teacher: Dictionary, student: Dictionary) -> Optional[str]:
    """Where two dictionaries first differ, as ``INDEX: "theirs" against "ours"``, or None."""
    for index, symbols in enumerate(zip_longest(teacher.symbols, student.symbols)):
        if symbols[0] != symbols[1]:
            theirs, ours = (f'"{each}"' if each is not None else "no symbol" for each in symbols)
            return f"{index}: {theirs} against {ours}"
    return None
