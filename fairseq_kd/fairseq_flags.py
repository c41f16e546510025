"""Flags of fairseq-train: as arguments, and ranges of the numeric ones, which it does not check."""

from argparse import Namespace
from dataclasses import MISSING
from functools import cache
from typing import Any, Dict, List

from fairseq_kd.flag_types import COUNT, SEED, Range

Flags = Dict[str, Any]  # names without dashes, and values
MOST = 2**31 - 1
TRAIN_ALONE = (  # why several processes on CPUs are refused, and what to do
    "each would train a model of its own: on CPUs fairseq-train takes no ranks from torchrun. "
    "Train in one process, or give --distributed-world-size and --distributed-rank; "
    "docs/fairseq_notes.md has the line."
)
RANGES = {
    **dict.fromkeys(
        (
            *("max_update", "max_tokens", "max_tokens_valid", "batch_size", "batch_size_valid"),
            *("max_source_positions", "max_target_positions", "log_interval", "save_interval"),
            *("validate_interval", "required_batch_size_multiple", "upsample_primary"),
            *("update_freq", "total_num_update", "required_seq_len_multiple"),
        ),
        COUNT,
    ),
    "lr": Range(float, 1e-12, 1000),
    "adam_eps": Range(float, 1e-30, 1),
    "patience": Range(int, 1, 1_000_000, also=(-1, 0)),
    "seed": SEED,
}


def as_arguments(flags: Flags) -> List[str]:
    """Flags as command-line arguments: ``True`` is a flag alone, ``False`` leaves it out."""
    arguments: List[str] = []
    for flag, value in flags.items():
        if value is not False:
            arguments += [f"--{flag}"] if value is True else [f"--{flag}", str(value)]
    return arguments


def range_of(name: str, kind: type, default: Any = None) -> Range:
    """The range of a flag.

    Args:
        name: of the flag, with underscores.
        kind: int or float.
        default: of the flag; a negative default means "none" and is allowed.
    """
    if name in RANGES:
        return RANGES[name]
    if "drop" in name or "smoothing" in name:
        return Range(float, 0, 1, below=True)
    if name.endswith("_layers"):
        return Range(int, 1, 1000)
    if name.endswith(("_dim", "_heads")):
        return Range(int, 1, 1_000_000)
    also = (default,) if isinstance(default, (int, float)) and default < 0 else ()
    if kind is int:
        return Range(int, 0, MOST, also)
    return Range(float, 1e-30, 1e9, (0, *also))


def default_of(args: Namespace, name: str) -> Any:
    """The default of a fairseq-train flag; None if it is not known."""
    return _defaults(args.optimizer, args.lr_scheduler, args.task).get(name)


@cache
def _defaults(optimizer: str, scheduler: str, task: str) -> Dict[str, Any]:
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY
    from fairseq.optim.lr_scheduler import LR_SCHEDULER_DATACLASS_REGISTRY
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    whole = FairseqConfig()
    groups = [getattr(whole, each) for each in whole.__dataclass_fields__]
    for registry, chosen in (
        (OPTIMIZER_DATACLASS_REGISTRY, optimizer),
        (LR_SCHEDULER_DATACLASS_REGISTRY, scheduler),
        (TASK_DATACLASS_REGISTRY, task),
    ):
        groups += [registry[chosen]()] if chosen in registry else []
    return {
        name: field.default
        for group in groups
        for name, field in getattr(group, "__dataclass_fields__", {}).items()
        if field.default is not MISSING and not str(field.default).startswith("${")
    }
