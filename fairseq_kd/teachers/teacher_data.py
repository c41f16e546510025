"""The data that a teacher reads outside of a training: task, batches, fingerprint, checksums."""

import copy
import re
import zlib
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence

import numpy as np
from fairseq.data import FairseqDataset
from fairseq.tasks import FairseqTask

from fairseq_kd.dictionaries import read_dictionary
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.teachers.compatibility import language_pair


def task_on(task: FairseqTask, data: str) -> FairseqTask:
    """A teacher's task with another data folder."""
    if not Path(data).is_dir():
        raise FileNotFoundError(f"--data {data} is not a folder that fairseq-preprocess wrote.")
    for language in language_pair(task):
        read_dictionary(Path(data) / f"dict.{language}.txt", distinct=False)
    cfg = copy.deepcopy(task.cfg)
    cfg.data = data
    cfg.upsample_primary = 1  # a store has each sentence once
    return type(task).setup_task(cfg)


def batches_of(dataset: FairseqDataset, numbers: Sequence[int], max_tokens: int) -> List[List[int]]:
    """Batches of sentences of similar length.

    Args:
        dataset: pairs of sentences.
        numbers: of the sentences.
        max_tokens: of a batch, padding included; at least those of the longest sentence.
    """
    if not numbers:
        return []
    sizes = {n: (dataset.tgt_sizes[n], dataset.src_sizes[n]) for n in numbers}
    longest = max(max(size) for size in sizes.values())
    ordered = np.array(sorted(numbers, key=sizes.__getitem__))
    return dataset.batch_by_size(ordered, max_tokens=int(max(max_tokens, longest)))


def data_fingerprint(folder: str, subset: str, languages: Iterable[str]) -> str:
    """SHA-256 of a subset's binarised sentences, both sides, with its parts (train1, train2, ...).

    Raises:
        FileNotFoundError: there is no such subset.
    """
    pair = "|".join(re.escape(language) for language in languages)
    name = re.compile(rf"{re.escape(subset)}\d*\.({pair})-({pair})\.({pair})(\.(bin|idx))?")
    files = sorted(path for path in Path(folder).iterdir() if name.fullmatch(path.name))
    if not files:
        raise FileNotFoundError(f"{folder} holds no {subset} of {' and '.join(languages)}.")
    return sha256_of(files)


def sentence_checksums(sample: Dict[str, Any], pad: int) -> np.ndarray:
    """CRC-32 of the source and target tokens of each sentence of a batch, (B,) uint32."""
    sides = (sample["net_input"]["src_tokens"], sample["target"])
    sides = [side.cpu().numpy().astype("<i4") for side in sides]
    checksums = []
    for rows in zip(*sides, strict=True):
        source, target = (row[row != pad].tobytes() for row in rows)
        checksums.append(zlib.crc32(target, zlib.crc32(source)))
    return np.array(checksums, dtype=np.uint32)
