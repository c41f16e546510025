"""Writes a student checkpoint that starts from a teacher, for ``--finetune-from-model``."""

import os
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_kd.checkpoints.reading import is_made_of
from fairseq_kd.checkpoints.updates import inherited_history, updates_behind
from fairseq_kd.fairseq_flags import as_arguments
from fairseq_kd.files.atomic_files import atomic_write, check_apart, make_folder
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.inheritance.importance import Importance
from fairseq_kd.inheritance.importance_data import (
    ImportanceData,
    ImportanceMeasurement,
    undecided_sides,
)
from fairseq_kd.inheritance.initial_weights import inherit
from fairseq_kd.models.structure import SIDES, Structure
from fairseq_kd.models.transformer_options import check_heads, model_args
from fairseq_kd.teachers.languages import Languages
from fairseq_kd.teachers.loading import ANY, load_teacher, read_translation_model
from fairseq_kd.teachers.multilingual import TeacherTask


def write_student(
    teacher: str,
    arch: str,
    out: Path,
    layers: Dict[str, Optional[List[int]]],
    model_flags: List[str],
    languages: Languages = ANY,
    data: Optional[ImportanceData] = None,
) -> str:
    """Writes a student checkpoint that starts from a teacher's weights.

    Args:
        teacher: the teacher's checkpoint.
        arch: the student's architecture.
        out: the file to write; it appears whole or not at all.
        layers: the teacher layers for each side, or None to choose them.
        model_flags: flags of fairseq-train for the student's model.
        languages: the student's pair, of a multilingual teacher.
        data: the sentences on which importance is measured; None: by weights.

    Returns:
        What was copied from where, and the flags that train the student.

    Raises:
        FileNotFoundError: the teacher, its dictionaries or the data are missing.
        ValueError: this student cannot start from this teacher, the data do not fit it, or the file
            exists.
    """
    check_apart(out, {"--teacher": teacher, **({"--data": data.folder} if data else {})})
    if os.path.isfile(teacher):
        made_of = {"teacher": sha256_of([Path(teacher)]), "arch": arch}
        made_of |= {"layers": layers, "model_flags": model_flags}
        made_of |= {"languages": list(languages.teacher)} if languages.teacher else {}
        made_of |= {"importance": data.identity()} if data else {}
        if is_made_of(out, made_of):
            return f"{out} already exists"
    name = f"--teacher {teacher}"
    model, task = load_teacher(teacher, "--teacher", languages)
    args, form = model_args(arch, model.args, model_flags)
    for side in SIDES:
        if getattr(args, f"{side}_embed_path", None):
            raise ValueError(
                f"--{side}-embed-path has no effect: the student's embeddings are the teacher's. "
                "Leave it out."
            )
    flags = as_arguments({"arch": arch, **form})
    student = _built(args, task, arch)
    ours, theirs = Structure(student, f"--arch {arch}"), Structure(model, name)
    lines = inherit(ours, theirs, layers)
    if data is not None:  # what cannot be inherited was refused before the sentences are read
        sides = undecided_sides(ours, theirs, layers)
        importance = ImportanceMeasurement(name, model, task, data).measure(sides)
        lines = [*_measured(importance), *inherit(ours, theirs, layers, importance)]
    _save(out, student, args, teacher, task, made_of)
    sizes = [sum(each.numel() for each in whole.parameters()) for whole in (student, model)]
    return "\n".join(
        [
            *lines,
            f"{sizes[0]:,} parameters of {sizes[1]:,}, in {out}. Train it with",
            f"  {shlex.join([*flags, *model_flags, '--finetune-from-model', str(out)])}",
        ]
    )


def _measured(importance: Importance) -> List[str]:
    """What leaving out layers costs."""
    return [
        f"{side} layers left out one at a time: nll_loss "
        f"{', '.join(f'{loss:.3f}' for loss in losses.tolist())} (teacher: {importance.loss:.3f})"
        for side, losses in importance.layers.items()
    ]


def _built(args: Namespace, task: Any, arch: str) -> Any:
    """The student with random weights.

    Raises:
        ValueError: fairseq cannot build it.
    """
    check_heads(f"--arch {arch}", args)
    try:
        return build_model(args, task)
    except Exception as error:  # fairseq raises AssertionError, AttributeError and others
        reason = " ".join(str(error).split()) or "it gives no reason"
        raise ValueError(
            f"fairseq cannot build --arch {arch} with the flags after -- "
            f"({type(error).__name__}: {reason}). Correct the flags."
        ) from error


def _save(
    out: Path, student: Any, args: Namespace, teacher: str, task: Any, made_of: Dict[str, Any]
) -> None:
    """Writes the checkpoint that fairseq-train would write before its first update."""
    cfg = read_translation_model(teacher, f"--teacher {teacher}")["cfg"]
    cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    if isinstance(task, TeacherTask):  # the student's task is a plain one
        plain = OmegaConf.to_container(task.cfg, resolve=True, enum_to_str=True)
        cfg["task"] = {**plain, "_name": "translation"}
        args.task = "translation"
    start = {
        "args": None,
        "cfg": {**cfg, "model": args},
        "model": student.state_dict(),
        "criterion": None,
        "optimizer_history": inherited_history(out, updates_behind(teacher)),
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
        "task_state": {},
        "made_of": made_of,
    }
    make_folder(out.parent)
    with atomic_write(out, "wb", new=True) as file:
        torch.save(start, file)
