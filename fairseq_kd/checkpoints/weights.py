"""Checks the weights in a checkpoint: dense tensors of known types, with finite numbers only."""

from collections.abc import Mapping
from typing import Any, Dict

import torch

NO_WEIGHTS = (".version", "._float_tensor")  # marks of fairseq's, the second of them uninitialised
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LONGEST_OF_NOTHING = 1 << 20  # a side of a tensor without numbers, such as 512 of (0, 512)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


def are_weights(weights: Any) -> bool:
    """Whether these are tensors by their names."""
    return (
        isinstance(weights, Mapping)
        and len(weights) > 0
        and all(isinstance(name, str) for name in weights)
        and all(isinstance(tensor, torch.Tensor) for tensor in weights.values())
    )


def check_weights(weights: Mapping, called: str) -> None:
    """Refuses tensors that are not just their numbers, which would fail later or fill the memory.

    Args:
        weights: by their names.
        called: how errors name the file that they are from.

    Raises:
        ValueError: naming the first such tensor.
    """
    for name, tensor in weights.items():
        fault = _fault(tensor)
        if fault:
            raise ValueError(
                f"{called} is not a fairseq checkpoint: its weight '{name}' {fault}. Give a file "
                "that fairseq-train wrote."
            )


def _fault(tensor: torch.Tensor) -> str:
    """The fault of a tensor as a weight, as the end of a sentence; "" if there is none."""
    if tensor.layout is not torch.strided:
        return f"must be a dense tensor, but has the layout {tensor.layout}"
    if tensor.device.type != "cpu":
        return f"has no numbers in the file, only a shape (device {tensor.device})"
    if tensor.dtype not in (*REAL, *WHOLE):
        return f"must be of real or whole numbers, but is of {tensor.dtype}"
    held = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > held or max(tensor.shape, default=0) > max(held, LONGEST_OF_NOTHING):
        return f"has the shape {tuple(tensor.shape)}, but the file holds {held:,} numbers of it"
    return ""


def check_finite(weights: Dict[str, torch.Tensor], called: str) -> None:
    """Refuses weights with which every result is NaN.

    Args:
        weights: by their names.
        called: how errors name the file that they are from.

    Raises:
        ValueError: naming the first tensor with a number that is NaN or infinite.
    """
    for name, tensor in weights.items():
        if name.endswith(NO_WEIGHTS) or not tensor.is_floating_point():
            continue
        if not torch.isfinite(tensor).all():
            wrong = int((~torch.isfinite(tensor)).sum())
            raise ValueError(
                f"{called} holds NaN or infinity in {wrong:,} of the {tensor.numel():,} numbers of "
                f"'{name}'. Its training diverged, or the file is damaged: give another "
                "checkpoint, such as an earlier one of that training."
            )


def count_parameters(weights: Dict[str, torch.Tensor]) -> int:
    """Numbers in a model's state: shared tensors once, fairseq's version marks not at all."""
    distinct = {
        (tensor.untyped_storage().data_ptr(), tensor.storage_offset()): tensor.numel()
        for name, tensor in weights.items()
        if not name.endswith(NO_WEIGHTS)
    }
    return sum(distinct.values())
