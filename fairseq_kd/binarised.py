"""Checks the files of fairseq-preprocess before fairseq opens them, and names a damaged one."""

import contextlib
import glob
import re
import struct
from pathlib import Path
from typing import Any, Mapping, Optional, Tuple

import numpy as np
from fairseq.data import indexed_dataset
from fairseq.utils import split_paths

MMAP = indexed_dataset.MMapIndexedDataset.Index._HDR_MAGIC
LAZY = b"TNTIDX\x00\x00"  # --dataset-impl lazy and cached
HUFFMAN = b"HUFFIDX\x00\x00"
TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
HEADER = struct.Struct(f"<{len(MMAP)}sQBQ")  # magic, version, type, sentences
LAZY_HEADER = struct.Struct("<8sQQQQQ")  # magic, version, type, bytes of a token, sentences, sizes
HUFFMAN_HEADER = struct.Struct("<9sQQQ")  # magic, version, bytes of the content, sentences
CHUNK = 1 << 24  # tokens that are checked at once
AGAIN = "Binarise the data again."
BOTH = (
    "Binarise both languages again; monolingual text of fairseq-kd binarise-text is for fairseq-kd "
    "translate, and then distill-data makes a training set of it."
)


def check_subset(folder: Path, subset: str, vocab_sizes: Mapping[str, int]) -> None:
    """Makes sure that fairseq can read a subset, with its parts (train1, train2, ...).

    Args:
        folder: what fairseq-preprocess wrote.
        subset: its name.
        vocab_sizes: the size of the dictionary, by language, of both sides.

    Raises:
        FileNotFoundError: there is no such subset.
        ValueError: one side of it is missing, or as ``check_side``.
    """
    pair = "|".join(map(re.escape, vocab_sizes))
    name = re.compile(rf"({re.escape(subset)}\d*\.(?:{pair})-(?:{pair})\.)(?:{pair})(\.bin|\.idx)?")
    matches = [name.fullmatch(path.name) for path in folder.iterdir()]
    prefixes = sorted({match[1] for match in matches if match})
    for prefix in prefixes:
        for language, size in vocab_sizes.items():
            if not check_side(folder / f"{prefix}{language}", size):
                raise ValueError(f"{folder / prefix}{language}.bin is missing. {BOTH}")
    if not prefixes:
        raise FileNotFoundError(f"{folder} holds no {subset} set of {' and '.join(vocab_sizes)}.")


def check_not_raw(folder: Path, subset: str) -> None:
    """Refuses a subset in fairseq's raw format, text that is not binarised.

    Raises:
        ValueError: it is one.
    """
    pair = rf"{re.escape(subset)}\d*\.([^.]+)-([^.]+)\."
    for path in sorted(folder.glob(f"{glob.escape(subset)}*.*-*.*")):
        match = re.match(pair, path.name)
        if match and path.name[match.end() :] in match.groups():
            raise ValueError(
                f"{path} is raw text, made by fairseq-preprocess --dataset-impl raw. Binarise the "
                "data without that flag."
            )


def check_training(dataset: Any, task: Any) -> None:
    """Refuses damaged data of a training; fairseq itself reports missing files.

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
            check_side(Path(folder) / f"{subset}.align.{'-'.join(sizes)}")


def check_side(path: Path, vocab_size: Optional[int] = None) -> bool:
    """Makes sure that fairseq can read one side of a subset, or its alignments.

    Args:
        path: its files without ``.bin`` and ``.idx``.
        vocab_size: of its dictionary; None for alignments, which hold positions.

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
            raise ValueError(f"{each} is missing, but {other} exists. {AGAIN}")
    with index.open("rb") as file:
        begin = file.read(len(MMAP))
    if begin.startswith(HUFFMAN):
        _check_huffman(index, content)
        return True
    if not begin.startswith((MMAP, LAZY)):
        raise ValueError(f"{index} is not a fairseq index. {AGAIN}")
    starts, sizes, dtype = (_read_mmap if begin.startswith(MMAP) else _read_lazy)(index)
    ends = np.cumsum(sizes)
    if (sizes < 0).any() or not np.array_equal(starts, ends - sizes):
        raise ValueError(f"{index} is damaged: its sentences do not follow each other. {AGAIN}")
    if vocab_size is not None and not sizes.all():
        raise ValueError(
            f"{index}: sentence {int(np.argmin(sizes))} has no tokens, not even end-of-sentence. "
            f"{AGAIN}"
        )
    _check_size(content, index, int(ends[-1]) * dtype.itemsize)
    if vocab_size is not None:
        _check_tokens(content, dtype, vocab_size, first=1 if begin.startswith(LAZY) else 0)
    return True


def _read_mmap(index: Path) -> Tuple[np.ndarray, np.ndarray, np.dtype]:
    """The starts and the sizes of the sentences, in tokens, and the type of a token."""
    _, _, code, sentences = _header(index, HEADER)
    dtype = _type(index, code)
    _check_index(index, sentences, HEADER.size + 12 * sentences)
    sizes = np.fromfile(index, "<i4", sentences, offset=HEADER.size).astype(np.int64)
    starts = np.fromfile(index, "<i8", sentences, offset=HEADER.size + 4 * sentences)
    if (starts % dtype.itemsize).any():
        raise ValueError(f"{index} is damaged: a sentence begins within a token. {AGAIN}")
    return starts // dtype.itemsize, sizes, dtype


def _read_lazy(index: Path) -> Tuple[np.ndarray, np.ndarray, np.dtype]:
    """As ``_read_mmap``, of ``--dataset-impl lazy`` and ``cached``."""
    _, _, code, item_bytes, sentences, sizes = _header(index, LAZY_HEADER)
    dtype = _type(index, code)
    whole = item_bytes == dtype.itemsize and sizes == sentences  # one dimension each
    _check_index(index, sentences, LAZY_HEADER.size + 8 * (3 * sentences + 2) if whole else -1)
    dimensions, starts, sizes = np.split(
        np.fromfile(index, "<i8", offset=LAZY_HEADER.size), [sentences + 1, 2 * sentences + 2]
    )
    if not np.array_equal(dimensions, np.arange(sentences + 1)) or starts[-1] != sizes.sum():
        raise ValueError(f"{index} is damaged: its sentences do not follow each other. {AGAIN}")
    return starts[:-1], sizes, dtype


def _check_huffman(index: Path, content: Path) -> None:
    """Refuses an index of ``--dataset-impl huffman``, or its content, that is cut off."""
    _, _, size_bytes, sentences = _header(index, HUFFMAN_HEADER)
    _check_index(index, sentences, HUFFMAN_HEADER.size + 12 * sentences)
    _check_size(content, index, size_bytes)


def _header(index: Path, header: struct.Struct) -> Tuple[Any, ...]:
    with index.open("rb") as file:
        begin = file.read(header.size)
    if len(begin) < header.size:
        raise ValueError(f"{index} is cut off or damaged. {AGAIN}")
    return header.unpack(begin)


def _type(index: Path, code: int) -> np.dtype:
    if code not in TYPES:
        raise ValueError(f"{index} is damaged: it names tokens of an unknown type. {AGAIN}")
    return np.dtype(TYPES[code])


def _check_index(index: Path, sentences: int, size_bytes: int) -> None:
    if index.stat().st_size != size_bytes:
        raise ValueError(f"{index} is cut off or damaged. {AGAIN}")
    if not sentences:
        raise ValueError(f"{index} holds no sentences. Give a data set with sentences.")


def _check_size(content: Path, index: Path, size_bytes: int) -> None:
    if content.stat().st_size != size_bytes:
        raise ValueError(
            f"{content} is cut off or damaged: it has {content.stat().st_size:,} bytes, and "
            f"{index.name} gives {size_bytes:,}. {AGAIN}"
        )


def _check_tokens(content: Path, dtype: np.dtype, vocab_size: int, first: int) -> None:
    """Refuses tokens that the dictionary lacks; ``first`` is the id of its first token."""
    tokens = np.memmap(content, dtype, "r")
    for start in range(0, len(tokens), CHUNK):
        part = tokens[start : start + CHUNK]
        for token in (int(part.min()) - first, int(part.max()) - first):
            if not 0 <= token < vocab_size:
                raise ValueError(
                    f"{content} holds token {token}, but its dictionary has the tokens 0 to "
                    f"{vocab_size - 1}. Binarise the data again, with this dictionary."
                )
