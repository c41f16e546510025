"""Writes a student checkpoint that starts from a teacher, for ``--finetune-from-model``."""

import argparse
from argparse import Namespace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, build_model
from fairseq.models.transformer import TransformerModel
from omegaconf import OmegaConf

from fairseq_kd.models.architectures import ARCHITECTURES
from fairseq_kd.models.inheritance import inherit
from fairseq_kd.models.structure import Structure
from fairseq_kd.teachers.loading import load_teacher

# What makes weights mean the same, beside the sizes: taken from the teacher unless asked otherwise.
FORM = (
    "share_all_embeddings",
    "share_decoder_input_output_embed",
    "encoder_normalize_before",
    "decoder_normalize_before",
    "encoder_learned_pos",
    "decoder_learned_pos",
    "no_token_positional_embeddings",
    "no_scale_embedding",
    "layernorm_embedding",
    "no_cross_attention",
    "cross_self_attention",
    "activation_fn",
    "max_source_positions",
    "max_target_positions",
)


def write_student(
    teacher: str,
    arch: str,
    out: Path,
    layers: Dict[str, Optional[List[int]]],
    model_flags: List[str],
) -> str:
    """Writes a student checkpoint that starts from a teacher's weights.

    Args:
        teacher: the teacher's checkpoint.
        arch: the student's architecture.
        out: the file to write; it appears whole or not at all.
        layers: the teacher layers for each side, or None to spread them.
        model_flags: flags of fairseq-train for the student's model.

    Returns:
        What was copied from where, and the flags that train the student.

    Raises:
        FileNotFoundError: the teacher or its dictionaries are missing.
        ValueError: this student cannot start from this teacher.
    """
    model, task = load_teacher(teacher, "--teacher")
    source = Structure(model, f"--teacher {teacher}")
    args, flags = _student_args(arch, model, model_flags)
    student = build_model(args, task)
    lines = inherit(Structure(student, f"--arch {arch}"), source, layers)
    _save(out, student, args, teacher)
    sizes = [sum(each.numel() for each in whole.parameters()) for whole in (student, model)]
    return "\n".join(
        [
            *lines,
            f"{sizes[0]:,} parameters of {sizes[1]:,}, in {out}. Train it with",
            f"  --arch {' '.join([arch, *flags])} --finetune-from-model {out}",
        ]
    )


def _student_args(arch: str, teacher: Any, flags: List[str]) -> Tuple[Namespace, List[str]]:
    """The student's configuration, and the flags that give it to fairseq-train beside --arch."""
    family = ARCH_MODEL_REGISTRY.get(arch)
    if family is None or not issubclass(family, TransformerModel):
        raise ValueError(
            f"--arch must be a transformer of fairseq or one of {', '.join(ARCHITECTURES)}, but is "
            f"{arch}."
        )
    parser = _ModelFlags(argument_default=argparse.SUPPRESS, allow_abbrev=False, add_help=False)
    family.add_args(parser)
    asked = vars(parser.parse_args(flags))
    usual = Namespace(arch=arch, max_source_positions=1024, max_target_positions=1024)
    ARCH_CONFIG_REGISTRY[arch](usual)
    form = {key: getattr(teacher.args, key, None) for key in FORM if key not in asked}
    form = {key: value for key, value in form.items() if value and value != vars(usual).get(key)}
    if form.get("share_all_embeddings"):
        form.pop("share_decoder_input_output_embed", None)  # implied
    args = Namespace(arch=arch, _name=arch, **form, **asked)
    ARCH_CONFIG_REGISTRY[arch](args)
    return args, [*_as_flags(form), *flags]


class _ModelFlags(argparse.ArgumentParser):
    """Reads what follows --, and says what is wrong with it in one sentence."""

    def error(self, message: str) -> None:
        raise ValueError(f"The flags after -- are not those of a fairseq transformer: {message}.")


def _as_flags(form: Dict[str, Any]) -> Iterator[str]:
    for key, value in form.items():
        yield f"--{key.replace('_', '-')}" + ("" if value is True else f" {value}")


def _save(out: Path, student: Any, args: Namespace, teacher: str) -> None:
    """Writes what fairseq-train would have written before its first update."""
    state = load_checkpoint_to_cpu(teacher)
    cfg = state["cfg"] if state.get("cfg") else convert_namespace_to_omegaconf(state["args"])
    cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}
    start = {
        "args": None,
        "cfg": {**cfg, "model": args},
        "model": student.state_dict(),
        "criterion": None,
        "optimizer_history": [{**history, "num_updates": 0}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
        "task_state": {},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    torch.save(start, partial)
    partial.replace(out)
