"""Models that translate: loaded, and checked against the dictionaries of the data."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import List, Tuple

from fairseq.models import FairseqEncoderDecoderModel
from fairseq.tasks import FairseqTask

from fairseq_kd.decoding.subset import Subset, read_subset
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.teachers.compatibility import check_dictionaries, language_pair
from fairseq_kd.teachers.languages import Languages
from fairseq_kd.teachers.loading import ANY, load_teacher
from fairseq_kd.teachers.sentence_format import Affixes, SentenceFormat, sentence_format


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    path: Path
    model: FairseqEncoderDecoderModel  # in eval mode
    task: FairseqTask  # of its training, with its dictionaries
    flag: str = "--teacher"  # the user's flag, for errors
    languages: Languages = ANY  # for which it was loaded

    @cached_property
    def sha256(self) -> str:
        """The hash of the file."""
        return sha256_of([self.path])

    @property
    def format(self) -> SentenceFormat:
        """What the model reads beside a sentence."""
        return sentence_format(self.task)

    @property
    def symbols(self) -> Tuple[List[str], List[str]]:
        """The tokens of its source and its target dictionary by id, those of languages included."""
        dictionaries = (self.task.source_dictionary, self.task.target_dictionary)
        source, target = (
            [*dictionary.symbols, *more]
            for dictionary, more in zip(dictionaries, self.format.symbols, strict=True)
        )
        return source, target

    @property
    def affixes(self) -> Affixes:
        """The symbols beside a sentence; none for a model that reads plain sentences."""
        around, (source, target) = self.format, self.symbols
        if around.is_plain:
            return Affixes()
        return Affixes(
            tuple(source[token] for token in around.source_prefix),
            tuple(source[token] for token in around.source_suffix),
            tuple(target[token] for token in around.target_prefix),
        )

    @property
    def max_source(self) -> int:
        """The longest source sentence that the model reads, in tokens with its end."""
        return int(self.model.max_positions()[0]) - self.format.more_source

    @property
    def max_target(self) -> int:
        """The longest target sentence that the model reads, in tokens with its end."""
        return int(self.model.max_decoder_positions()) - self.format.more_target


def load_checkpoints(paths: str, languages: Languages = ANY) -> List[Checkpoint]:
    """The models of ``--teacher``, separated as in ``fairseq-generate --path``.

    Args:
        paths: of the checkpoints.
        languages: the pair that they translate.

    Raises:
        FileNotFoundError: a checkpoint or its dictionaries are missing.
        ValueError: one is not a translation model, or they translate different pairs or read
            different tokens of languages.
    """
    models = [load_checkpoint(path, "--teacher", languages) for path in paths.split(os.pathsep)]
    pairs = {language_pair(model.task) for model in models}
    if len(pairs) > 1:
        directions = " and ".join("-".join(pair) for pair in sorted(pairs))
        raise ValueError(
            f"--teacher names models that translate {directions}. Give models of one pair."
        )
    if len({model.format for model in models}) > 1:
        raise ValueError(
            "--teacher names models that read different tokens of languages, which cannot decode "
            "together. Translate by one of them at a time."
        )
    return models


def load_checkpoint(path: str, flag: str, languages: Languages = ANY) -> Checkpoint:
    """Loads one checkpoint for translation.

    Args:
        path: as the user typed it.
        flag: the user's flag, for errors.
        languages: the pair to translate; see ``load_teacher``.

    Raises:
        FileNotFoundError, ValueError: as ``load_teacher``.
    """
    model, task = load_teacher(path, flag, languages)
    return Checkpoint(Path(path), model.eval().requires_grad_(False), task, flag, languages)


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
