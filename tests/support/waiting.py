"""Finds calls that would wait for a GPU, while our code runs on a CPU."""

import sys
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

import fairseq_kd

OURS = str(Path(fairseq_kd.__file__).parent)
READ = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "equal"}
SIZED_BY_VALUES = {
    "nonzero",
    "masked_select",
    "unique",
    "bincount",
    "argwhere",
    "repeat_interleave",
}
COPIES = {"tensor", "new_tensor"}  # of numbers, to the device; tensor_on copies asynchronously


class Waiting(TorchFunctionMode):
    """Collects our calls that read values of tensors, or whose results are sized by values."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        caller, name, kwargs = sys._getframe(1), getattr(func, "__name__", ""), kwargs or {}
        on_device = name == "new_tensor" or kwargs.get("device") is not None
        waits = name in READ | SIZED_BY_VALUES or (name in COPIES and on_device)
        if "getitem" in name or "setitem" in name or "index_put" in name:
            index = args[1] if isinstance(args[1], (tuple, list)) else [args[1]]
            waits |= any(torch.is_tensor(each) and each.dtype is torch.bool for each in index)
        if waits and caller.f_code.co_filename.startswith(OURS):
            self.calls.append(f"{name} in {caller.f_code.co_filename}:{caller.f_lineno}")
        return func(*args, **kwargs)
