"""Checks the files of fairseq-preprocess before fairseq opens them, and names a damaged one."""

import contextlib
import re
import struct
from pathlib import Path
from typing import Any, Mapping

import numpy as np
from fairseq.data import indexed_dataset
from fairseq.utils import split_paths

MMAP = indexed_dataset.MMapIndexedDataset.Index._HDR_MAGIC
OTHERS = {  # magics, versions and counts of --dataset-impl lazy and cached, and of huffman
    b"TNTIDX\x00\x00": struct.Struct("<8sQQQQQ"),  # type, bytes of a token, sentences, sizes
    b"HUFFIDX\x00\x00": struct.Struct("<9sQQQ"),  # bytes of the content, sentences
}
TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
HEADER = struct.Struct(f"<{len(MMAP)}sQBQ")  # magic, version, type, sentences
CHUNK = 1 << 24  # tokens that are looked at at once
AGAIN = "Binarise the data again."


def check_subset(folder: Path, subset: str, words: Mapping[str, int]) -> None:
    """Makes sure that fairseq can read a subset, with its parts (train1, train2, ...).

    Args:
        folder: what fairseq-preprocess wrote.
        subset: its name.
        words: the size of the dictionary, by language, of both sides.

    Raises:
        FileNotFoundError: there is no such subset, or one side of it is missing.
        ValueError: as ``check_side``.
    """
    pair = "|".join(map(re.escape, words))
    name = re.compile(rf"({re.escape(subset)}\d*\.(?:{pair})-(?:{pair})\.)(?:{pair})(\.bin|\.idx)?")
    found = [name.fullmatch(path.name) for path in folder.iterdir()]
    prefixes = sorted({match[1] for match in found if match})
    for prefix in prefixes:
        for language, size in words.items():
            if not check_side(folder / f"{prefix}{language}", size):
                raise FileNotFoundError(f"{folder / prefix}{language}.bin is missing. {AGAIN}")
    if not prefixes:
        raise FileNotFoundError(f"{folder} holds no {subset} of {' and '.join(words)}.")


def check_training(dataset: Any, task: Any) -> None:
    """Refuses damage in what a training reads; what is missing, fairseq names itself.

    Args:
        dataset: the flags of the data.
        task: with languages, dictionaries and folders.

    Raises:
        ValueError: as ``check_side``.
    """
    sizes = {
        task.cfg.source_lang: len(task.source_dictionary),
        task.cfg.target_lang: len(task.target_dictionary),
    }
    validated = [] if dataset.disable_validation else dataset.valid_subset.split(",")
    for folder in split_paths(task.cfg.data):
        for subset in [dataset.train_subset, *validated]:
            with contextlib.suppress(FileNotFoundError):
                check_subset(Path(folder), subset, sizes)


def check_side(path: Path, words: int) -> bool:
    """Makes sure that fairseq can read one side of a split.

    Args:
        path: its files without ``.bin`` and ``.idx``.
        words: the size of its dictionary.

    Returns:
        Whether there are files of it.

    Raises:
        ValueError: a file is missing, cut off or damaged, or holds a token of another dictionary,
            no sentence, or one without a token.
    """
    index, content = (path.with_name(path.name + suffix) for suffix in (".idx", ".bin"))
    there = [index.is_file(), content.is_file()]
    if not any(there):
        return path.is_file()  # --dataset-impl raw
    for each, other, missing in ((index, content, not there[0]), (content, index, not there[1])):
        if missing:
            raise ValueError(f"{each} is missing, but {other} is there. {AGAIN}")
    with index.open("rb") as file:
        begin = file.read(HEADER.size)
    if begin.startswith(tuple(OTHERS)):
        _check_other(index, content)
        return True
    if len(begin) < HEADER.size or not begin.startswith(MMAP):
        raise ValueError(f"{index} is no index of fairseq. {AGAIN}")
    _, _, code, sentences = HEADER.unpack(begin)
    if code not in TYPES:
        raise ValueError(f"{index} is damaged: it names tokens of an unknown type. {AGAIN}")
    if index.stat().st_size != HEADER.size + 12 * sentences:
        raise ValueError(f"{index} is cut off or damaged. {AGAIN}")
    if not sentences:
        raise ValueError(f"{index} holds no sentence. Give a set that has some.")
    dtype = np.dtype(TYPES[code])
    sizes = np.fromfile(index, "<i4", sentences, offset=HEADER.size).astype(np.int64)
    starts = np.fromfile(index, "<i8", sentences, offset=HEADER.size + 4 * sentences)
    ends = np.cumsum(sizes) * dtype.itemsize
    if (sizes < 0).any() or not np.array_equal(starts, ends - sizes * dtype.itemsize):
        raise ValueError(f"{index} is damaged: its sentences do not follow each other. {AGAIN}")
    if not sizes.all():
        raise ValueError(
            f"{index} holds a sentence without any token, not even its end: number "
            f"{int(np.argmin(sizes))}. {AGAIN}"
        )
    _check_size(content, index, int(ends[-1]))
    _check_tokens(content, dtype, words)
    return True


def _check_other(index: Path, content: Path) -> None:
    """Refuses an index of another format, or its content, that is cut off."""
    with index.open("rb") as file:
        begin = file.read(64)
        magic, header = next((each, OTHERS[each]) for each in OTHERS if begin.startswith(each))
        if len(begin) < header.size:
            raise ValueError(f"{index} is cut off or damaged. {AGAIN}")
        fields = header.unpack_from(begin)
        sentences, size = fields[-1], index.stat().st_size
        if magic.startswith(b"TNT"):
            _, _, _, token_bytes, sentences, sizes = fields
            whole = size == header.size + 8 * (2 * (sentences + 1) + sizes)
            file.seek(header.size + 8 * (2 * sentences + 1))
            last = file.read(8) if whole else b""
            size_bytes = token_bytes * int.from_bytes(last, "little")
        else:
            size_bytes, whole = fields[2], size == header.size + 12 * sentences
    if not whole:
        raise ValueError(f"{index} is cut off or damaged. {AGAIN}")
    if not sentences:
        raise ValueError(f"{index} holds no sentence. Give a set that has some.")
    _check_size(content, index, size_bytes)


def _check_size(content: Path, index: Path, size_bytes: int) -> None:
    if content.stat().st_size != size_bytes:
        raise ValueError(
            f"{content} is cut off or damaged: it has {content.stat().st_size:,} bytes, and "
            f"{index.name} says {size_bytes:,}. {AGAIN}"
        )


def _check_tokens(content: Path, dtype: np.dtype, words: int) -> None:
    tokens = np.memmap(content, dtype, "r")
    for start in range(0, len(tokens), CHUNK):
        part = tokens[start : start + CHUNK]
        for token in (int(part.min()), int(part.max())):
            if not 0 <= token < words:
                raise ValueError(
                    f"{content} holds token {token}, but its dictionary has the tokens 0 to "
                    f"{words - 1}. Binarise the data again, with this dictionary."
                )
