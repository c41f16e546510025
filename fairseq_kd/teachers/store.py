"""The top-k store: for each target token, a teacher's likeliest words and the mass of the others.

    STORE/store.json            what it was built from: teacher, languages, V, K, size of the parts
    STORE/dict.LANG.txt         the teacher's dictionaries
    STORE/SUBSET/subset.json    the fingerprint of the data, and the number of sentences
    STORE/SUBSET/00000.npy      a part: the records of the tokens of 4,096 sentences; and
                                00000.sentences.npy, the length and checksum of each
    STORE/SUBSET/sentences.npy  the same of all sentences; written last

A record is 272 bytes at K = 64: log-probabilities at T = 1 (float16), word numbers (two bytes), and
the tail's mass at four powers (float32). Where V is above 65,536 it is 296 bytes: the numbers take
four bits more each, and the tail is float16. Parts are memory-mapped: only what a batch asks for is
read.
"""

import json
from pathlib import Path
from typing import Any, Dict, List, Union

import numpy as np
import torch
from torch import Tensor

from fairseq_kd.losses import TAIL_POWERS, TopK
from fairseq_kd.whole_files import written_whole

FORMAT = 1
MAX_WORDS = 1 << 20  # what sixteen and four bits can number
SENTENCE = np.dtype([("length", "<u4"), ("checksum", "<u4")])


def record_dtype(k: int, words: int) -> np.dtype:
    """The record of one token, for K likeliest of V words."""
    wide = words > 1 << 16
    fields = [("log_p", "<f2", (k,)), ("ids", "<u2", (k,))]
    fields += [("log_tail", "<f2" if wide else "<f4", (len(TAIL_POWERS),))]
    if wide:
        fields += [("high_ids", "u1", ((k + 1) // 2,))]
    return np.dtype(fields)


def pack(taught: TopK) -> np.ndarray:
    """Records, (n,), of what a teacher says of n tokens."""
    records = np.empty(len(taught.ids), record_dtype(taught.k, taught.words))
    ids = taught.ids.cpu().numpy()
    records["log_p"] = taught.log_p.float().cpu().numpy()
    records["log_tail"] = taught.log_tail.float().cpu().numpy()
    records["ids"] = ids & 0xFFFF
    if "high_ids" in records.dtype.names:
        high = np.zeros((len(ids), 2 * records["high_ids"].shape[1]), np.uint8)
        high[:, : taught.k] = ids >> 16
        records["high_ids"] = high[:, ::2] | high[:, 1::2] << 4
    return records


def unpack(records: np.ndarray, words: int, device: torch.device) -> TopK:
    """The inverse of ``pack``, as float32 on a device, which takes the bytes apart itself."""
    kept = np.require(records, requirements=["C", "W"])
    content = torch.from_numpy(kept.view(np.uint8).reshape(len(kept), kept.itemsize)).to(device)

    def field(name: str, dtype: torch.dtype) -> Tensor:
        kind, start = records.dtype.fields[name]
        part = content[:, start : start + kind.itemsize]
        return part.clone(memory_format=torch.contiguous_format).view(dtype)

    ids = field("ids", torch.int16).long() & 0xFFFF
    tail = torch.float32
    if "high_ids" in records.dtype.names:
        tail, pairs = torch.float16, field("high_ids", torch.uint8)
        high = torch.stack([pairs & 0xF, pairs >> 4], dim=-1).flatten(1)
        ids |= high[:, : ids.size(1)].long() << 16
    log_p, log_tail = field("log_p", torch.float16), field("log_tail", tail)
    return TopK(ids, log_p.float(), log_tail.float(), words)


FILE = "store.json"  # says what a store was built from


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
        if not (self.path / FILE).is_file():
            raise FileNotFoundError(
                f"{path} holds no store of a teacher. Build one by fairseq-kd store --out {path}."
            )
        self.identity = read_json(self.path / FILE)
        if self.identity["format"] != FORMAT:
            raise ValueError(
                f"{path} has the format {self.identity['format']} of another version of "
                f"fairseq_kd, but must have {FORMAT}. Build it again."
            )
        self.words, self.k = self.identity["words"], self.identity["topk"]
        self.dtype = record_dtype(self.k, self.words)
        self.part_sentences = self.identity["part_sentences"]

    def subsets(self) -> List[str]:
        """The names of the subsets that are complete."""
        return sorted(path.parent.name for path in self.path.glob("*/sentences.npy"))

    def subset(self, name: str) -> "StoredSubset":
        """A complete subset."""
        return StoredSubset(self.path / name, self.dtype, self.part_sentences)


class StoredSubset:
    """The records of one subset, by the numbers of its sentences.

    Args:
        folder: where its parts lie.
        dtype: of a record.
        part_sentences: sentences in a part; the last one may have fewer.

    Raises:
        ValueError: a part is cut off.
    """

    def __init__(self, folder: Path, dtype: np.dtype, part_sentences: int):
        self.folder, self.dtype, self.part_sentences = folder, dtype, part_sentences
        self.fingerprint = read_json(folder / "subset.json")["data"]
        self.sentences = np.load(folder / "sentences.npy", mmap_mode="r")
        ends = np.cumsum(self.sentences["length"], dtype=np.int64)
        self.starts = ends - self.sentences["length"]
        parts = part_ranges(len(self.sentences), part_sentences)
        self.parts = [
            open_part(folder / part_name(i), dtype, int(ends[part[-1]] - self.starts[part[0]]))
            for i, part in enumerate(parts)
        ]

    def __len__(self) -> int:
        return len(self.sentences)

    def records(self, sentence: int) -> np.ndarray:
        """The records of a sentence's target tokens, in their order."""
        part = sentence // self.part_sentences
        start = int(self.starts[sentence] - self.starts[part * self.part_sentences])
        return self.parts[part][start : start + int(self.sentences["length"][sentence])]


def part_ranges(sentences: int, part_sentences: int) -> List[range]:
    """The numbers of the sentences of each part of a subset."""
    starts = range(0, sentences, part_sentences)
    return [range(start, min(start + part_sentences, sentences)) for start in starts]


def part_name(part: int) -> str:
    """The file of a part, by its number."""
    return f"{part:05d}.npy"


def open_part(path: Path, dtype: np.dtype, tokens: int) -> np.ndarray:
    """A part's records, memory-mapped.

    Raises:
        ValueError: it is missing, cut off, or holds something else.
    """
    try:
        records = np.load(path, mmap_mode="r") if tokens else np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is missing or cut off. Run the fairseq-kd store command that built it once "
            "more: it makes what is not whole."
        ) from error
    if records.dtype != dtype or len(records) != tokens:
        raise ValueError(
            f"{path} holds {len(records)} tokens of {records.dtype.itemsize} bytes where {tokens} "
            f"of {dtype.itemsize} belong. Remove it, and run the fairseq-kd store command that "
            "built it once more."
        )
    return records


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file, whole or not at all."""
    with written_whole(path, "wb") as file:
        np.save(file, array)


def write_json(path: Path, content: Dict[str, Any]) -> None:
    """Writes a JSON object, whole or not at all."""
    with written_whole(path) as file:
        file.write(f"{json.dumps(content, indent=2)}\n")


def read_json(path: Path) -> Dict[str, Any]:
    """The JSON object in a file."""
    return json.loads(path.read_text(encoding="utf-8"))
