"""A binarised set as fairseq reads it: its sentences as token ids, its dictionaries, its files."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from fairseq.data import Dictionary, data_utils, indexed_dataset
from torch import Tensor

from fairseq_kd.binarised import check_side
from fairseq_kd.dictionaries import check_encoding, read_dictionary
from fairseq_kd.hashes import sha256_of
from fairseq_kd.names import plain_languages

SUFFIXES = ("", ".bin", ".idx")  # of the raw format, of all others


@dataclass(frozen=True)
class Subset:
    """One split of a binarised data folder.

    Args:
        folder: what fairseq-preprocess wrote.
        name: of the split, such as train.
        pair: source and target language.
        prefix: of the files, without the language.
        source_words, target_words: the folder's dictionaries.
        source: token ids of every sentence, the end of sentence included.
        target: those of the references; None where the split has a source only.
    """

    folder: Path
    name: str
    pair: Tuple[str, str]
    prefix: str
    source_words: Dictionary
    target_words: Dictionary
    source: Sequence[Tensor]
    target: Optional[Sequence[Tensor]]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def source_lengths(self) -> np.ndarray:
        """(sentences,) tokens of each source sentence, its end included."""
        return np.asarray(self.source.sizes)

    @cached_property
    def hashes(self) -> Dict[str, str]:
        """SHA-256 of what the translations depend on: the source and both dictionaries."""
        return {
            "source": sha256_of(self.files(self.pair[0])),
            "source_dictionary": sha256_of([self.dictionary_file(self.pair[0])]),
            "target_dictionary": sha256_of([self.dictionary_file(self.pair[1])]),
        }

    def files(self, language: str) -> List[Path]:
        """The files of one side."""
        named = [self.folder / f"{self.prefix}{language}{suffix}" for suffix in SUFFIXES]
        return [path for path in named if path.is_file()]

    @property
    def both_sides(self) -> List[Path]:
        """The files of source and target."""
        return [path for language in self.pair for path in self.files(language)]

    @property
    def continuation(self) -> Optional[str]:
        """The split that fairseq-train reads as a part of this one, if it is there: train1."""
        name = f"{self.name}1"
        return name if self.has_split(name) else None

    def has_split(self, name: str) -> bool:
        """Whether the folder holds a split in these languages."""
        try:
            _prefix(self.folder, name, self.pair)
        except FileNotFoundError:
            return False
        return True

    def dictionary_file(self, language: str) -> Path:
        """The file of a side's dictionary."""
        return self.folder / f"dict.{language}.txt"


def read_subset(folder: Path, name: str, pair: Tuple[str, str]) -> Subset:
    """Opens one split of a binarised data folder.

    Raises:
        FileNotFoundError: the folder lacks the split or a dictionary.
        ValueError: these are several folders, source and target have different numbers of
            sentences, a file is cut off, a dictionary holds a word twice, or a language is no plain
            name.
    """
    if os.pathsep in str(folder) and not folder.exists():
        raise ValueError(
            f"--data must be one folder, but is {folder}, which fairseq-train reads as "
            f"{str(folder).count(os.pathsep) + 1}, one an epoch. Give one of them at a time."
        )
    source, target = plain_languages(pair, str(folder))
    pair = (source, target)
    prefix = _prefix(folder, name, pair)
    words = [read_dictionary(folder / f"dict.{language}.txt") for language in pair]
    sides = [read_side(folder / f"{prefix}{pair[i]}", words[i]) for i in (0, 1)]
    source, target = sides
    if target is not None and len(source) != len(target):
        raise ValueError(
            f"{folder / prefix}{pair[0]} has {len(source)} sentences, but {pair[1]} has "
            f"{len(target)}: a line lacks its pair. Binarise both again, from files in step."
        )
    return Subset(folder, name, pair, prefix, *words, source, target)


def _prefix(folder: Path, name: str, pair: Tuple[str, str]) -> str:
    """How the split's files begin: either direction, or a source alone."""
    source, target = pair
    for languages in (f"{source}-{target}", f"{target}-{source}", f"{source}-None"):
        prefix = f"{name}.{languages}."
        if any((folder / f"{prefix}{source}{suffix}").is_file() for suffix in SUFFIXES):
            return prefix
    raise FileNotFoundError(
        f"{folder} holds no {name}.{source}-{target}.{source}. Give to --data the folder that "
        "fairseq-preprocess wrote, and to --subset one of its splits."
    )


def read_side(path: Path, words: Dictionary) -> Optional[Sequence[Tensor]]:
    """The sentences of one side of a split, or None if there are no files of it.

    Args:
        path: its files without ``.bin`` and ``.idx``.
        words: its dictionary.

    Raises:
        ValueError: as ``read_subset``.
    """
    check_side(path, len(words))
    impl = indexed_dataset.infer_dataset_impl(str(path))
    impl = "lazy" if impl == "cached" else impl  # one format; cached must be told what will be read
    try:
        dataset = data_utils.load_indexed_dataset(str(path), words, impl)
        if dataset is not None and len(dataset):
            dataset[len(dataset) - 1]  # the last sentence is what a cut-off file lacks
            return dataset
    except (ValueError, OSError, RuntimeError) as error:
        if impl == "raw":
            check_encoding(path)
        raise ValueError(f"{path}.bin is cut off. Binarise the data again.") from error
    if dataset is not None:
        raise ValueError(f"{path} holds no sentence. Give a set that has some.")
    return None
