"""The top-k store: for each target token, a teacher's K likeliest tokens and the tail's mass.

    STORE/store.json            teacher, languages, V, K, sentences per part, hashes of the
                                dictionaries
    STORE/dict.LANG.txt         the teacher's dictionaries
    STORE/SUBSET/subset.json    the fingerprint of the data, the number of sentences, and the hash
                                of sentences.npy
    STORE/SUBSET/00000.npy      a part: the records of the tokens of 4,096 sentences; and
                                00000.sentences.npy, the length and two checksums of each: of its
                                tokens, and of its teacher and its records
    STORE/SUBSET/sentences.npy  the same of all sentences; written last

Both JSON files hold a checksum of their values, which is compared when they are read.

The module ``store_records`` has the bytes of a record. In a store of format 1 sentences have no
checksum of their records until store-merge adds it. Parts are memory-mapped: only the records of a
batch are read, and checked when they are first read.
"""

import json
import os
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Union

import numpy as np
from torch import Tensor

from fairseq_kd.files import json_files
from fairseq_kd.files.atomic_files import atomic_write
from fairseq_kd.files.hashes import first_damaged
from fairseq_kd.files.names import plain_languages
from fairseq_kd.losses import FORMER_TAIL_POWERS, TAIL_POWERS, TopK
from fairseq_kd.teachers.store_records import (
    MAX_VOCAB_SIZE,
    largest_id,
    record_dtype,
    unpack,
)

FORMAT = 2
POWERS = {1: FORMER_TAIL_POWERS, FORMAT: TAIL_POWERS}  # of the tail, by format
UNCHECKED = [("length", "<u4"), ("checksum", "<u4")]  # of a sentence in format 1
SENTENCE = np.dtype([*UNCHECKED, ("records", "<u4")])
AGAIN = "Run the fairseq-kd store command that built it again: it rebuilds damaged parts."
STORE_FILE = "store.json"
INDEX, TABLE = "subset.json", "sentences.npy"
SCHEMAS = {
    STORE_FILE: {
        **{"format": int, "teacher": str, "fingerprint": str, "languages": [str]},
        **{"words": int, "topk": int, "part_sentences": int, "dictionaries?": {str: str}},
        **{"dtype?": str, "teacher_languages?": [str]},
    },
    INDEX: {"data": str, "sentences": int, "table?": str},
}
INDEX_AGAIN = (
    "Remove that file and run the fairseq-kd store command that built it again: it keeps complete "
    "parts."
)
REPAIRS = {
    STORE_FILE: "Copy it from another --out of the same fairseq-kd store command, which writes it "
    "first.",
    INDEX: INDEX_AGAIN,
}


class TeacherStore:
    """A store on disk, opened for reading.

    Args:
        path: its folder.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: it was written by another version.
    """

    def __init__(self, path: Union[str, Path]):
        self.path = Path(path)
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise FileNotFoundError(
                f"{path} must be the folder of a store, but is a file. Give a folder that "
                "fairseq-kd store wrote."
            )
        if not (self.path / STORE_FILE).is_file():
            raise FileNotFoundError(
                f"{path} holds no store of a teacher. Build one by fairseq-kd store --out {path}."
            )
        self.identity = read_json(self.path / STORE_FILE)
        if self.identity["format"] not in POWERS:
            raise ValueError(
                f"{path} has the format {self.identity['format']} of another version of "
                f"fairseq_kd, but must have {' or '.join(map(str, POWERS))}. Build it again."
            )
        self.vocab_size, self.k = self.identity["words"], self.identity["topk"]
        self.part_sentences = self.identity["part_sentences"]
        valid = 0 < self.k < self.vocab_size <= MAX_VOCAB_SIZE and self.part_sentences > 0
        if not valid or len(self.identity["languages"]) != 2:
            raise ValueError(
                f"{self.path / STORE_FILE} is damaged: its languages, words, topk or "
                f"part_sentences are not those of a store. {REPAIRS[STORE_FILE]}"
            )
        self.powers = POWERS[self.identity["format"]]
        self.dtype = record_dtype(self.k, self.vocab_size, self.powers)
        self.seed = zlib.crc32(self.identity["fingerprint"].encode())

    @property
    def lowest_temperature(self) -> float:
        """The temperature down to which the tail's mass is accurate."""
        return 1 / self.powers[-1]

    def dictionaries(self) -> List[Path]:
        """The files of the dictionaries, source and target.

        Raises:
            ValueError: one is missing or damaged.
        """
        languages = plain_languages(self.identity["languages"], str(self.path))
        names = [dictionary_name(language) for language in languages]
        kept = self.identity.get("dictionaries", {})  # stores of format 1 have no hashes
        damaged = first_damaged(self.path, {name: kept[name] for name in names if name in kept})
        missing = [self.path / name for name in names if not (self.path / name).is_file()]
        for path in [damaged] if damaged else missing:
            raise ValueError(f"{path} is missing or damaged. {AGAIN}")
        return [self.path / name for name in names]

    def subsets(self) -> List[str]:
        """The names of the subsets that are complete."""
        return sorted(path.parent.name for path in self.path.glob(f"*/{TABLE}"))

    def subset(self, name: str) -> "StoredSubset":
        """A complete subset."""
        return StoredSubset(
            self.path / name, self.vocab_size, self.dtype, self.part_sentences, self.seed
        )

    def unpack(self, content: Tensor) -> TopK:
        """The top-k distributions of the bytes of records, on their device."""
        return unpack(content, self.dtype, self.vocab_size, self.powers)


class StoredSubset:
    """The records of one subset, by the numbers of its sentences.

    Args:
        folder: of its parts.
        vocab_size: V.
        dtype: of a record.
        part_sentences: sentences per part; the last may have fewer.
        seed: of the checksums of records, which differs between teachers.

    Raises:
        ValueError: a part is cut off, or the table of the sentences damaged.
    """

    def __init__(
        self, folder: Path, vocab_size: int, dtype: np.dtype, part_sentences: int, seed: int
    ):
        self.folder, self.vocab_size, self.dtype = folder, vocab_size, dtype
        self.part_sentences, self.seed = part_sentences, seed
        index = read_json(folder / INDEX)
        self.fingerprint = index["data"]
        if first_damaged(folder, {TABLE: index["table"]} if "table" in index else {}):
            raise ValueError(f"{folder / TABLE} is damaged. {AGAIN}")
        self.sentences = read_table(folder / TABLE)
        self.checked = np.zeros(len(self.sentences), bool)
        ends = np.cumsum(self.sentences["length"], dtype=np.int64)
        self.starts = ends - self.sentences["length"]
        parts = part_ranges(len(self.sentences), part_sentences)
        self.parts = [
            open_part(folder / part_name(i), dtype, int(ends[part[-1]] - self.starts[part[0]]))
            for i, part in enumerate(parts)
        ]

    def __len__(self) -> int:
        return len(self.sentences)

    @property
    def has_checksums(self) -> bool:
        """Whether damage to its records can be noticed."""
        return "records" in self.sentences.dtype.names

    def records(self, sentence: int) -> np.ndarray:
        """The records of a sentence's target tokens, in order.

        Raises:
            ValueError: they are damaged; each is checked when it is first read.
        """
        part = sentence // self.part_sentences
        start = int(self.starts[sentence] - self.starts[part * self.part_sentences])
        row = self.sentences[sentence]
        records = self.parts[part][start : start + int(row["length"])]
        if not self.checked[sentence]:
            fault = records_fault(records, row, self.vocab_size, self.seed)
            if fault:
                path = self.folder / part_name(part)
                raise ValueError(f"{path} is damaged: in sentence {sentence}, {fault}. {AGAIN}")
            self.checked[sentence] = True
        return records


def records_fault(records: np.ndarray, row: np.void, vocab_size: int, seed: int) -> str:
    """The damage of a sentence's records, a clause for a message; "" if there is none.

    Args:
        records: of the sentence.
        row: of the table of sentences; in format 1 it may have no checksum of the records, and
            then only entries beyond the vocabulary can be noticed.
        vocab_size: V.
        seed: of the checksums.
    """
    if "records" in row.dtype.names:
        same = records_checksum(records, seed) == row["records"]
        return "" if same else "the records were changed, or belong to another teacher"
    largest = largest_id(records)
    return f"a record has token {largest} of {vocab_size}" if largest >= vocab_size else ""


def records_checksum(records: np.ndarray, seed: int) -> int:
    """The CRC-32 of records, seeded by that of their teacher's fingerprint; 0 if there are none."""
    return zlib.crc32(records.view(np.uint8), seed) if len(records) else 0


def dictionary_name(language: str) -> str:
    """The file name of the dictionary of a language."""
    return f"dict.{language}.txt"


def part_ranges(sentences: int, part_sentences: int) -> List[range]:
    """The numbers of the sentences of each part of a subset."""
    starts = range(0, sentences, part_sentences)
    return [range(start, min(start + part_sentences, sentences)) for start in starts]


def part_name(part: int) -> str:
    """The file name of a part."""
    return f"{part:05d}.npy"


def open_part(path: Path, dtype: np.dtype, tokens: int) -> np.ndarray:
    """A part's records, memory-mapped.

    Raises:
        ValueError: it is missing, cut off, or another file.
    """
    records = _mapped(path)
    if records.dtype != dtype or records.shape != (tokens,):
        raise ValueError(
            f"{path} holds {records.size} tokens of {records.dtype.itemsize} bytes where {tokens} "
            f"of {dtype.itemsize} belong. {AGAIN}"
        )
    return records


def read_table(path: Path) -> np.ndarray:
    """A table of sentences, memory-mapped.

    Raises:
        ValueError: it is missing, cut off, or another file.
    """
    table = _mapped(path)
    if table.dtype not in (SENTENCE, np.dtype(UNCHECKED)) or table.ndim != 1:
        raise ValueError(f"{path} is not a table of sentences. {AGAIN}")
    return table


def _mapped(path: Path) -> np.ndarray:
    """An array in a .npy file, memory-mapped, so that a forged header takes no memory.

    Raises:
        ValueError: it is missing, cut off, or another file.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(path)
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy reads a forged header with any of Python's errors
        raise ValueError(f"{path} is missing or cut off. {AGAIN}") from error


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file, whole or not at all."""
    with atomic_write(path, "wb") as file:
        # with a real file numpy does not notice that a full disk cuts off a small array
        np.save(SimpleNamespace(write=file.write), array)


def write_json(path: Path, content: Dict[str, Any], new: bool = False) -> None:
    """Writes a JSON object, whole or not at all; with ``new`` only if there is no file."""
    with atomic_write(path, new=new) as file:
        file.write(f"{json.dumps(json_files.sealed(content), indent=2)}\n")


def read_json(path: Path) -> Dict[str, Any]:
    """The JSON object in a file of a store.

    Raises:
        ValueError: it is damaged.
    """
    return json_files.read_json(path, SCHEMAS[path.name], REPAIRS[path.name])
