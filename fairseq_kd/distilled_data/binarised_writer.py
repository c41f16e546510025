"""Writes binarised sets of a data folder, and copies its other sets and dictionaries."""

import shutil
from pathlib import Path
from typing import Iterable, Iterator, Tuple

import torch
from fairseq.data import Dictionary, data_utils, indexed_dataset

from fairseq_kd.decoding.subset import SUFFIXES, Subset, read_side
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.files.json_files import digest_of


class SideWriter:
    """Writes one side of a subset, in the format of ``fairseq-preprocess``.

    Args:
        prefix: path of its files, up to the language.
        dictionary: of the side.
    """

    def __init__(self, prefix: Path, dictionary: Dictionary):
        self.prefix, self.sentences = prefix, 0
        self.builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", len(dictionary))

    def add(self, ids: Iterable[int]) -> None:
        """Adds the token ids of a sentence, its end included."""
        self.builder.add_item(torch.as_tensor(ids, dtype=torch.int))
        self.sentences += 1

    def close(self) -> None:
        """Writes the index, and checks that every sentence is there.

        Raises:
            ValueError: the files do not have all sentences.
        """
        self.builder.finalize(f"{self.prefix}.idx")
        written = len(indexed_dataset.make_dataset(str(self.prefix), "mmap"))
        if written != self.sentences:
            raise ValueError(
                f"{self.prefix}.bin has {written} sentences instead of {self.sentences}. The disk "
                "may be faulty. Run the command again."
            )


class PairWriter:
    """Writes one subset of a binarised data folder, in the format of ``fairseq-preprocess``.

    Args:
        folder: of the data.
        subset: its name, such as train or train1.
        like: a subset with the same languages and dictionaries.
    """

    def __init__(self, folder: Path, subset: str, like: Subset):
        stem = f"{subset}.{like.pair[0]}-{like.pair[1]}"
        dictionaries = (like.source_dictionary, like.target_dictionary)
        self.sides = [
            SideWriter(folder / f"{stem}.{language}", dictionary)
            for language, dictionary in zip(like.pair, dictionaries, strict=True)
        ]

    @property
    def pairs(self) -> int:
        """The number of pairs so far."""
        return self.sides[0].sentences

    def add(self, source: Iterable[int], target: Iterable[int]) -> None:
        """Adds a pair of token ids, the ends of sentence included."""
        for side, ids in zip(self.sides, (source, target), strict=True):
            side.add(ids)

    def close(self) -> None:
        """Writes the indices, and checks that both sides have every pair.

        Raises:
            ValueError: the files do not have all pairs.
        """
        for side in self.sides:
            side.close()


def hash_of_other_subsets(data: Subset, subset: str) -> str:
    """A hash of the names and contents of the files that ``other_subsets`` yields."""
    return digest_of({name: sha256_of([path]) for path, name, _ in other_subsets(data, subset)})


def other_subsets(data: Subset, subset: str) -> Iterator[Tuple[Path, str, Dictionary]]:
    """The files of all subsets but one of a data folder.

    Args:
        data: a subset of the folder.
        subset: the subset to leave out, with its continuations (train, train1, ...).

    Yields:
        Each file, its name in another folder, for the direction of the training, and the dictionary
        of its side. Files of the reverse direction come first, since fairseq reads the others.
    """
    ours, reverse = (f".{'-'.join(languages)}." for languages in (data.pair, data.pair[::-1]))
    of_source, of_target = ({each + suffix for suffix in SUFFIXES} for each in data.pair)
    for direction in (reverse, ours):
        for path in sorted(data.folder.glob(f"*{direction}*")):
            name, _, end = path.name.partition(direction)
            if name.rstrip("0123456789") != subset and end in of_source | of_target:
                dictionary = data.source_dictionary if end in of_source else data.target_dictionary
                yield path, f"{name}{ours}{end}", dictionary


def copy_the_rest(data: Subset, subset: str, folder: Path) -> None:
    """Copies the dictionaries and all subsets but one into a new data folder.

    All are named for the direction of the training: fairseq-train infers the languages from any of
    them. Raw subsets are binarised.

    Args:
        data: a subset of the folder to copy from.
        subset: the subset to leave out, with its continuations (train, train1, ...).
        folder: to copy to.

    Raises:
        ValueError: a file is a link to a file that is not binarised text.
    """
    for language in data.pair:
        shutil.copyfile(data.dictionary_file(language), folder / f"dict.{language}.txt")
    for path, name, dictionary in other_subsets(data, subset):
        if path.is_symlink():
            _check_linked(path, dictionary)
        if path.name.rpartition(".")[2] in data.pair:
            _binarise_raw(path, dictionary, folder / name)
        elif not path.with_suffix("").is_file():  # of both, fairseq reads the raw one
            shutil.copyfile(path, folder / name)


def _check_linked(path: Path, dictionary: Dictionary) -> None:
    """Refuses a link to a file that is not binarised text, since data folders are passed on.

    A folder from somebody else may have a link to a private file. Every sentence must end as
    fairseq-preprocess ends it: an index can be made for any other file.

    Args:
        path: a file of one side of a subset.
        dictionary: of that side.

    Raises:
        ValueError: it is such a link.
    """
    try:
        side = (
            read_side(path.with_suffix(""), dictionary) if path.suffix in (".bin", ".idx") else None
        )
        binarised = side is not None and all(int(ids[-1]) == dictionary.eos() for ids in side)
    except (IndexError, OSError, ValueError):
        binarised = False
    if not binarised:
        raise ValueError(
            f"{path} is a link, but not to binarised text that ends as fairseq-preprocess ends "
            "each sentence. It would be copied. Remove it, or replace it by a copy."
        )


def _binarise_raw(path: Path, dictionary: Dictionary, prefix: Path) -> None:
    """Binarises one side: fairseq-train cannot read raw and binarised subsets together."""
    builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", len(dictionary))
    for ids in data_utils.load_indexed_dataset(str(path), dictionary, "raw"):
        builder.add_item(ids)
    builder.finalize(f"{prefix}.idx")


def tag_id(dictionary: Dictionary, path: Path, tag: str, flag: str) -> int:
    """The id of a token that marks the origin of a source sentence.

    Args:
        dictionary: of the source.
        path: the file of it.
        tag: the token.
        flag: the user's flag, for errors.

    Raises:
        ValueError: the dictionary lacks it, or it is a special symbol.
    """
    if dictionary.indices.get(tag, dictionary.nspecial) < dictionary.nspecial:
        raise ValueError(
            f"{flag} {tag} is a special symbol of fairseq, which models do not read as a word. "
            "Give another token, such as madeupword0000."
        )
    if tag not in dictionary.indices:
        raise ValueError(
            f"{flag} {tag} is not in {path}, and the dictionaries cannot be extended. Give a token "
            "of the dictionary that does not occur in any sentence, such as madeupword0000, with "
            "which fairseq-preprocess pads dictionaries."
        )
    return dictionary.indices[tag]
