"""Replaces fairseq's loading of checkpoints, and its `eval` of options, by safe ones.

- ``checkpoint_utils.load_checkpoint_to_cpu`` first reads the file as weights and plain options, on
  fairseq's main branch too, which unpickles any object, and refuses options that hold code. It
  forgets files of pretrained embeddings: the weights that they began with are in the checkpoint;
  and the file of predictions, which a criterion of fairseq's overwrites.
- ``eval`` in fairseq's modules accepts plain values only, from any source: options that our tables
  do not list, or from files that other code opened, do not run code either.
- ``FastaDataset`` is refused: it gives a shell the name of its file, in which is a language's.
"""

import functools
import sys
from pathlib import Path
from typing import Any, Dict, Optional

import fairseq.models
import fairseq.tasks  # noqa: F401  (with fairseq.models: everything that fairseq registers)
from fairseq import checkpoint_utils
from fairseq.data.fasta_dataset import FastaDataset, fasta_file_path
from fairseq.file_io import PathManager

from fairseq_kd.checkpoints.option_check import plain_value, unopened_files
from fairseq_kd.checkpoints.reading import unpickled

_load_checkpoint_to_cpu = checkpoint_utils.load_checkpoint_to_cpu


@functools.wraps(_load_checkpoint_to_cpu)
def load_checkpoint_to_cpu(
    path: str, arg_overrides: Optional[Dict[str, Any]] = None, load_on_all_ranks: bool = False
) -> Dict[str, Any]:
    """As fairseq's, of a file that holds data alone; reads no file that the checkpoint names."""
    state = unpickled(Path(PathManager.get_local_path(path)), str(path))
    options = (state.get("cfg"), state.get("args")) if isinstance(state, dict) else ()
    overrides = {**unopened_files(*options), **(arg_overrides or {})} or arg_overrides
    return _load_checkpoint_to_cpu(path, overrides, load_on_all_ranks)


def evaluate(text: Any) -> Any:
    """Python's ``eval``, of plain values.

    Raises:
        TypeError: it is not a string, as with ``eval``.
        ValueError: it is not a plain value.
    """
    if not isinstance(text, str):
        raise TypeError("eval() arg 1 must be a string, bytes or code object")
    return plain_value(text)


def refuse_fasta(dataset: FastaDataset, path: str) -> None:
    """Replaces fairseq's index of a file, which it makes by a shell command with the file's name.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"{fasta_file_path(path)} is FASTA text, which fairseq would read by a shell command. "
        "Remove it, and give data that fairseq-preprocess wrote."
    )


FastaDataset._build_index = refuse_fasta
checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
for _name, _module in list(sys.modules.items()):
    if _name.partition(".")[0] == "fairseq":
        _module.eval = evaluate
