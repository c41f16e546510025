"""A subset of a binarised data folder: token ids, dictionaries, files, and how words are split."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from fairseq.data import Dictionary, data_utils, indexed_dataset
from torch import Tensor

from fairseq_kd.binarised import check_side
from fairseq_kd.decoding.tokenising import SENTENCEPIECE, SUBWORD_NMT
from fairseq_kd.dictionaries import check_encoding, read_dictionary
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.files.names import plain_languages
from fairseq_kd.files.recorded_folders import check_recorded

SOURCE_TEXT = "text.json"  # the record of a folder of fairseq-kd binarise-text
SUFFIXES = ("", ".bin", ".idx")  # of the raw format, of all others
MARKS = {  # SentencePiece marks the first piece of a word, subword-nmt all but the last
    SENTENCEPIECE: lambda piece: piece.startswith("\u2581"),
    SUBWORD_NMT: lambda piece: piece.endswith("@@"),
}
MARKED = 0.1  # share of marked entries from which a dictionary counts as split that way


@dataclass(frozen=True)
class Subset:
    """One subset of a binarised data folder."""

    folder: Path  # written by fairseq-preprocess
    name: str  # of the subset, such as train
    pair: Tuple[str, str]  # source and target language
    prefix: str  # of the file names, up to the language
    source_dictionary: Dictionary
    target_dictionary: Dictionary
    source: Sequence[Tensor]  # token ids of every sentence, the end of sentence included
    target: Optional[Sequence[Tensor]]  # those of the references; None if there is only a source

    def __len__(self) -> int:
        return len(self.source)

    @property
    def pair_lengths(self) -> np.ndarray:
        """(sentences,) tokens of the longer side of each pair."""
        return np.maximum(np.asarray(self.source.sizes), np.asarray(self.target.sizes))

    @property
    def source_lengths(self) -> np.ndarray:
        """(sentences,) tokens of each source sentence, its end included."""
        return np.asarray(self.source.sizes)

    @cached_property
    def hashes(self) -> Dict[str, str]:
        """SHA-256 of the inputs of a decoding: the source and both dictionaries."""
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
        """The subset that fairseq-train reads together with this one, if it exists: train1."""
        name = f"{self.name}1"
        return name if self.has_split(name) else None

    def has_split(self, name: str) -> bool:
        """Whether the folder holds a subset in these languages."""
        try:
            _prefix(self.folder, name, self.pair)
        except FileNotFoundError:
            return False
        return True

    def dictionary_file(self, language: str) -> Path:
        """The file of a side's dictionary."""
        return self.folder / f"dict.{language}.txt"


def read_subset(folder: Path, name: str, pair: Tuple[str, str], flag: str = "--subset") -> Subset:
    """Opens one subset of a binarised data folder.

    Args:
        folder: of the data.
        name: of the subset.
        pair: its languages, source and target.
        flag: the flag that names the subset, for errors.

    Raises:
        FileNotFoundError: the folder lacks the subset or a dictionary.
        ValueError: these are several folders, source and target have different numbers of
            sentences, a file is cut off, a dictionary has a token twice, or a language is not a
            plain name; or a file of fairseq-kd binarise-text was changed.
    """
    if os.pathsep in str(folder) and not folder.exists():
        raise ValueError(
            f"--data must be one folder, but is {folder}, which fairseq-train reads as "
            f"{str(folder).count(os.pathsep) + 1} folders, one per epoch. Give one folder at a "
            "time."
        )
    source, target = plain_languages(pair, str(folder))
    pair = (source, target)
    check_recorded(folder, SOURCE_TEXT)
    prefix = _prefix(folder, name, pair, flag)
    dictionaries = [read_dictionary(folder / f"dict.{language}.txt") for language in pair]
    sides = [read_side(folder / f"{prefix}{pair[i]}", dictionaries[i]) for i in (0, 1)]
    source, target = sides
    if target is not None and len(source) != len(target):
        raise ValueError(
            f"{folder / prefix}{pair[0]} has {len(source)} sentences, but {pair[1]} has "
            f"{len(target)}: the sides have different numbers of sentences. Binarise both again, "
            "from aligned files."
        )
    return Subset(folder, name, pair, prefix, *dictionaries, source, target)


def language_pair_of(folder: Path) -> Tuple[str, str]:
    """The languages of a data folder, as fairseq infers them, source first.

    Raises:
        FileNotFoundError: it is not a folder, or holds no set of a pair.
    """
    pair = data_utils.infer_language_pair(str(folder)) if folder.is_dir() else (None, None)
    if None in pair:
        raise FileNotFoundError(
            f"--data {folder} holds no set of a language pair. Give the folder that "
            "fairseq-preprocess wrote."
        )
    return pair


def _prefix(folder: Path, name: str, pair: Tuple[str, str], flag: str = "--subset") -> str:
    """The prefix of the subset's files: either direction, or a source alone."""
    source, target = pair
    for languages in (f"{source}-{target}", f"{target}-{source}", f"{source}-None"):
        prefix = f"{name}.{languages}."
        if any((folder / f"{prefix}{source}{suffix}").is_file() for suffix in SUFFIXES):
            return prefix
    raise FileNotFoundError(
        f"{folder} holds no {name}.{source}-{target}.{source}. Give to --data the folder that "
        f"fairseq-preprocess wrote, and to {flag} one of its subsets."
    )


def read_side(path: Path, dictionary: Dictionary) -> Optional[Sequence[Tensor]]:
    """The sentences of one side of a subset, or None if it has no files.

    Args:
        path: of its files, without ``.bin`` and ``.idx``.
        dictionary: of the side.

    Raises:
        ValueError: as ``read_subset``.
    """
    check_side(path, len(dictionary))
    impl = indexed_dataset.infer_dataset_impl(str(path))
    impl = "lazy" if impl == "cached" else impl  # the same format
    try:
        dataset = data_utils.load_indexed_dataset(str(path), dictionary, impl)
        if dataset is not None and len(dataset):
            dataset[len(dataset) - 1]  # missing if the file is cut off
            return dataset
    except (ValueError, OSError, RuntimeError) as error:
        if impl == "raw":
            check_encoding(path)
        raise ValueError(f"{path}.bin is cut off. Binarise the data again.") from error
    if dataset is not None:
        raise ValueError(f"{path} holds no sentences. Give a data set with sentences.")
    return None


def words_of(tokens: str, remove_bpe: str) -> str:
    """A sentence with the splitting of words undone.

    Args:
        tokens: the sentence, with spaces between its tokens.
        remove_bpe: how words are split, as in ``fairseq-generate --remove-bpe``.
    """
    return data_utils.post_process(tokens, remove_bpe)


def splitting_of(dictionary: Dictionary) -> Optional[str]:
    """SENTENCEPIECE or SUBWORD_NMT if that split the words of a dictionary, else None."""
    own = dictionary.symbols[dictionary.nspecial :]
    marked = {name: sum(map(has_mark, own)) for name, has_mark in MARKS.items()}
    likely = max(marked, key=lambda name: marked[name])
    return likely if own and marked[likely] >= MARKED * len(own) else None


def check_splitting(subset: Subset, remove_bpe: str, flag: str = "--remove-bpe") -> None:
    """Checks that words are joined by the method with which they were split.

    Args:
        subset: of the data.
        remove_bpe: how words are split, by the user's flag.
        flag: that flag.

    Raises:
        ValueError: a dictionary has the marks of the other one of SentencePiece and subword-nmt,
            so that pieces would count as words.
    """
    for dictionary in (subset.source_dictionary, subset.target_dictionary):
        actual = splitting_of(dictionary)
        if actual and actual != remove_bpe and remove_bpe in (SENTENCEPIECE, SUBWORD_NMT):
            break
    else:
        return
    example = next(piece for piece in dictionary.symbols if MARKS[actual](piece))
    whole = (
        " (and --tokenizer none, where there is such a flag, unless the text was tokenised first)"
    )
    raise ValueError(
        f"{flag} is {remove_bpe}, but the words of the data were split by {actual}, as "
        f"{example} shows. Give {flag} {actual}{whole if actual == SENTENCEPIECE else ''}."
    )
