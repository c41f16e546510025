"""Models that translate: loaded, and checked against the dictionaries of the data."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import List

from fairseq.models import FairseqEncoderDecoderModel
from fairseq.tasks import FairseqTask

from fairseq_kd.decoding.subset import Subset, read_subset
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.teachers.compatibility import check_dictionaries, language_pair
from fairseq_kd.teachers.loading import load_teacher


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    path: Path
    model: FairseqEncoderDecoderModel  # in eval mode
    task: FairseqTask  # of its training, with its dictionaries
    flag: str = "--teacher"  # the user's flag, for errors

    @cached_property
    def sha256(self) -> str:
        """The hash of the file."""
        return sha256_of([self.path])


def load_checkpoints(paths: str) -> List[Checkpoint]:
    """The models of ``--teacher``, separated as in ``fairseq-generate --path``.

    Raises:
        FileNotFoundError: a checkpoint or its dictionaries are missing.
        ValueError: one is not a translation model, or they translate different pairs.
    """
    models = [load_checkpoint(path, "--teacher") for path in paths.split(os.pathsep)]
    pairs = {language_pair(model.task) for model in models}
    if len(pairs) > 1:
        directions = " and ".join("-".join(pair) for pair in sorted(pairs))
        raise ValueError(
            f"--teacher names models that translate {directions}. Give models of one pair."
        )
    return models


def load_checkpoint(path: str, flag: str) -> Checkpoint:
    """Loads one checkpoint for translation.

    Args:
        path: as the user typed it.
        flag: the user's flag, for errors.

    Raises:
        FileNotFoundError, ValueError: as ``load_teacher``.
    """
    model, task = load_teacher(path, flag)
    return Checkpoint(Path(path), model.eval().requires_grad_(False), task, flag)


def read_subset_for(models: List[Checkpoint], folder: Path, name: str) -> Subset:
    """The set to translate, in the models' language pair.

    Raises:
        FileNotFoundError, ValueError: as ``read_subset``; or its dictionaries are not the models'.
    """
    subset = read_subset(folder, name, language_pair(models[0].task))
    for model in models:
        name, role = f"{model.flag} {model.path}", model.flag.lstrip("-")
        check_dictionaries(name, role, model.task, folder, subset, subset.pair)
    return subset
