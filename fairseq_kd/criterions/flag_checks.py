"""Checks of flags before the first update: values out of range, flags without effect."""

import importlib.util
import os
from dataclasses import fields
from typing import Any, Dict, Sequence

import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY

from fairseq_kd.fairseq_flags import TRAIN_ALONE
from fairseq_kd.flag_types import UNPRINTABLE, Range, flag_name

FAIRSEQ_RANGES = {  # of the flags that fairseq's own criterion has
    "label_smoothing": Range(float, 0, 1, below=True),
    "ignore_prefix_size": Range(int, 0, 1_000_000),
}


def check_values(cfg: Any) -> None:
    """Refuses numbers out of range, unknown choices, and text that is not one line.

    Args:
        cfg: the flags of a criterion, whose config's fields have their ranges and choices.
    """
    for field in fields(CRITERION_DATACLASS_REGISTRY[cfg._name]):
        allowed, value = field.metadata.get("range"), getattr(cfg, field.name, None)
        allowed = allowed or FAIRSEQ_RANGES.get(field.name)
        if allowed is not None and value is not None:
            allowed.check(flag_name(field.name), value)
        choices = field.metadata.get("choices")
        if choices is not None and value is not None and value not in choices:
            raise ValueError(
                f"{flag_name(field.name)} must be one of {', '.join(choices)}, but is {value}."
            )
        ours = field.name.startswith("kd_") and isinstance(value, str)
        if ours and (not value.strip() or UNPRINTABLE.search(value)):
            raise ValueError(
                f"{flag_name(field.name)} must be text on one line and not empty, but is {value!r}."
            )


def refuse_a_missing_tpu(cfg: Any) -> None:
    """Refuses ``--bf16`` of ``fairseq-train``, which means a TPU, where torch_xla is missing."""
    if cfg.tpu and importlib.util.find_spec("torch_xla") is None:
        raise ValueError(
            "fairseq-train takes --bf16 and --tpu for a training on TPUs, which needs torch_xla. "
            "On a GPU train with --fp16 or --amp, or by fairseq-hydra-train common.bf16=true."
        )


def refuse_ignored_ranks() -> None:
    """Refuses ``torchrun`` on CPUs without ranks in the flags, which fairseq ignores.

    Each process would train a model of its own, and all write the same checkpoints.

    Raises:
        ValueError: the environment has several workers, but this process trains alone.
    """
    workers = os.environ.get("WORLD_SIZE", "")
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    if workers.isdigit() and int(workers) > 1 and "RANK" in os.environ and alone:
        raise ValueError(f"torchrun started {workers} processes, but {TRAIN_ALONE}")


def distils(cfg: Any) -> bool:
    """Whether the teacher's distributions are distilled, now or later in the schedule."""
    return cfg.kd_alpha > 0 or bool(cfg.kd_alpha_final)


def check_weights(cfg: Any, others: Dict[str, float]) -> None:
    """Refuses a loss whose weights are all 0.

    Args:
        cfg: the flags.
        others: the weights of further terms, by flag.
    """
    weights = {"--kd-alpha": cfg.kd_alpha, "--kd-beta": cfg.kd_beta, **others}
    if not any(weights.values()):
        *flags, last = weights
        raise ValueError(
            f"{', '.join(flags)} and {last} are {'all' if others else 'both'} 0, so there is no "
            "loss. Set one above 0."
        )


def check_one_teacher_source(cfg: Any, others: Dict[str, float]) -> None:
    """Refuses a distillation without a source of soft targets, or with two.

    Args:
        cfg: the flags.
        others: the weights of further terms that need the teacher, by flag.
    """
    if cfg.kd_teacher and cfg.kd_store:
        raise ValueError(
            f"--kd-teacher is {cfg.kd_teacher} and --kd-store is {cfg.kd_store}, but only one "
            "source is allowed. Leave one out, or mix both by --criterion multi_teacher_kd."
        )
    check_some_teacher(cfg, others)


def check_some_teacher(cfg: Any, others: Dict[str, float]) -> None:
    """Refuses a distillation without a teacher, and flags of a teacher that does not run."""
    if not cfg.kd_teacher and not cfg.kd_store:
        weights = {"--kd-alpha": cfg.kd_alpha or cfg.kd_alpha_final, **others}
        distilling = [name for name, weight in weights.items() if weight]
        raise ValueError(
            f"{distilling[0]} is {weights[distilling[0]]}, but there is no teacher. Give its "
            "checkpoint by --kd-teacher or its store by --kd-store, or set "
            f"{' 0 '.join(distilling)} 0 --kd-beta 1 to train without distillation."
        )
    if not cfg.kd_teacher and cfg.kd_teacher_dtype != "student":
        raise ValueError(
            f"--kd-teacher-dtype is {cfg.kd_teacher_dtype}, but has no effect with --kd-store. "
            "Leave it out, or give the teacher by --kd-teacher."
        )
    sides = ("source", "target")
    given = [side for side in sides if getattr(cfg, f"kd_teacher_{side}_lang") is not None]
    if given and not cfg.kd_teacher:
        raise ValueError(
            f"--kd-teacher-{given[0]}-lang is {getattr(cfg, f'kd_teacher_{given[0]}_lang')}, but "
            "has no effect with --kd-store. Leave it out; fairseq-kd store has its own "
            f"--teacher-{given[0]}-lang."
        )
    if len(given) == 1:
        raise ValueError(
            f"--kd-teacher-{given[0]}-lang is given alone. Give --kd-teacher-source-lang and "
            "--kd-teacher-target-lang, or neither."
        )


def check_one_live_teacher(cfg: Any) -> None:
    """Refuses teachers whose layers cannot be read: a store, or several models."""
    if cfg.kd_store:
        raise ValueError(
            f"--kd-store holds a teacher's distributions, but --criterion {cfg._name} also needs "
            "its layers. Give the teacher itself, by --kd-teacher."
        )
    path = cfg.kd_teacher or ""
    if os.pathsep in path and not os.path.exists(path):
        raise ValueError(
            f"--kd-teacher {path} names several teachers, but --criterion {cfg._name} reads the "
            "layers of one. Name one."
        )


def check_undistilled(cfg: Any, defaults: type, used: Sequence[str] = ()) -> None:
    """Refuses, where alpha is 0, every flag of the distillation that is not at its default.

    Args:
        cfg: the flags.
        defaults: the dataclass that declares them.
        used: the fields that have an effect even so.
    """
    for field in fields(defaults):
        value = getattr(cfg, field.name)
        ours = field.name.startswith("kd_") and field.name not in ("kd_alpha", "kd_beta", *used)
        if ours and value != field.default:
            raise ValueError(
                f"{flag_name(field.name)} is {value}, but has no effect while --kd-alpha is 0. "
                "Leave it out, or set --kd-alpha above 0."
            )
