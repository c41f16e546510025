"""What binds a store to its data: a hash of the files, and a checksum of each sentence."""

import re
import zlib
from pathlib import Path
from typing import Any, Dict, Iterable

import numpy as np

from fairseq_kd.hashes import sha256_of


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
    """CRC-32 of the source and target words of each sentence of a batch, (B,) uint32."""
    sides = (sample["net_input"]["src_tokens"], sample["target"])
    sides = [side.cpu().numpy().astype("<i4") for side in sides]
    checksums = []
    for rows in zip(*sides, strict=True):
        source, target = (row[row != pad].tobytes() for row in rows)
        checksums.append(zlib.crc32(target, zlib.crc32(source)))
    return np.array(checksums, dtype=np.uint32)
