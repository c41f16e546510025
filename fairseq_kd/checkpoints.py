"""Reads fairseq checkpoints as data: weights and plain options, never code."""

import argparse
import zipfile
from pathlib import Path
from typing import Any, Dict, Union

import numpy as np
import torch

# torch >= 2.6 unpickles weights only. fairseq keeps a model's options as a Namespace, and the
# counts of --eval-bleu as a numpy array. Both are data: naming them safe lets every fairseq command
# in this process read its own checkpoints again, while one that carries code is still refused.
_reconstruct = np.array([0]).__reduce__()[0]
torch.serialization.add_safe_globals(
    [
        argparse.Namespace,
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
        type(np.dtype(np.float64)),
        (_reconstruct, "numpy._core.multiarray._reconstruct"),  # as numpy 2 calls it
        (_reconstruct, "numpy.core.multiarray._reconstruct"),  # as numpy 1 calls it
    ]
)


def read_checkpoint(path: Union[str, Path]) -> Dict[str, Any]:
    """The whole content of a checkpoint, its tensors on the CPU and read from the file when used.

    Raises:
        pickle.UnpicklingError: it holds anything but tensors, plain containers and Namespaces.
    """
    mapped = zipfile.is_zipfile(path)  # torch before 1.6 wrote another format
    return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)


def updates_done(path: Union[str, Path]) -> int:
    """The number of updates after which a checkpoint was written; 0 if there is no such file."""
    if not Path(path).exists():
        return 0
    return read_checkpoint(path)["optimizer_history"][-1]["num_updates"]


def count_parameters(weights: Dict[str, torch.Tensor]) -> int:
    """Numbers in a model's state: shared tensors once, fairseq's version marks not at all."""
    distinct = {
        (tensor.untyped_storage().data_ptr(), tensor.storage_offset()): tensor.numel()
        for name, tensor in weights.items()
        if not name.endswith((".version", "._float_tensor"))
    }
    return sum(distinct.values())
