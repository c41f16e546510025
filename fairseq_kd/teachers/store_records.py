"""Packs a teacher's top-k distributions into the records of a store, and unpacks them.

A record is 288 bytes at K = 64: log-probabilities at T = 1 (float16), token ids (two bytes), and
the tail's mass at eight powers (float32). Where V is above 65,536 it is 320 bytes: each id takes
four bits more. In a store of format 1 it is 16 and 24 bytes less: it has the tail's mass at four
powers, in float16 where V is above 65,536.
"""

from typing import Tuple

import numpy as np
import torch
from torch import Tensor

from fairseq_kd.losses import FORMER_TAIL_POWERS, TAIL_POWERS, TopK

MAX_VOCAB_SIZE = 1 << 20  # ids have sixteen and four bits


def record_dtype(k: int, vocab_size: int, powers: Tuple[float, ...] = TAIL_POWERS) -> np.dtype:
    """The record of one token, for the K likeliest of V tokens and the tail's mass."""
    wide = vocab_size > 1 << 16
    fields = [("log_p", "<f2", (k,)), ("ids", "<u2", (k,))]
    half = wide and powers == FORMER_TAIL_POWERS
    fields += [("log_tail", "<f2" if half else "<f4", (len(powers),))]
    if wide:
        fields += [("high_ids", "u1", ((k + 1) // 2,))]
    return np.dtype(fields)


def pack(top: TopK) -> np.ndarray:
    """The records, (n,), of a teacher's top-k distributions for n tokens."""
    records = np.empty(len(top.ids), record_dtype(top.k, top.vocab_size, top.powers))
    ids = top.ids.cpu().numpy()
    records["log_p"] = top.log_p.float().cpu().numpy()
    records["log_tail"] = top.log_tail.float().cpu().numpy()
    records["ids"] = ids & 0xFFFF
    if "high_ids" in records.dtype.names:
        high = np.zeros((len(ids), 2 * records["high_ids"].shape[1]), np.uint8)
        high[:, : top.k] = ids >> 16
        records["high_ids"] = high[:, ::2] | high[:, 1::2] << 4
    return records


def as_bytes(records: np.ndarray) -> Tensor:
    """The bytes of n records, (n, bytes of one) uint8."""
    kept = np.require(records, requirements=["C", "W"])
    return torch.from_numpy(kept.view(np.uint8).reshape(len(kept), kept.itemsize))


def unpack(
    content: Tensor,
    record: np.dtype,
    vocab_size: int,
    powers: Tuple[float, ...] = TAIL_POWERS,
) -> TopK:
    """The inverse of ``pack`` and ``as_bytes``, as float32, on the device of the bytes.

    Args:
        content: the bytes of n records.
        record: of one token, as ``record_dtype`` gives it.
        vocab_size: V.
        powers: of the tail's mass.
    """

    def field(name: str, dtype: torch.dtype) -> Tensor:
        kind, start = record.fields[name]
        part = content[:, start : start + kind.itemsize]
        return part.clone(memory_format=torch.contiguous_format).view(dtype)

    ids = field("ids", torch.int16).long() & 0xFFFF
    if "high_ids" in record.names:
        pairs = field("high_ids", torch.uint8)
        high = torch.stack([pairs & 0xF, pairs >> 4], dim=-1).flatten(1)
        ids |= high[:, : ids.size(1)].long() << 16
    half = record["log_tail"].base == np.float16
    log_tail = field("log_tail", torch.float16 if half else torch.float32)
    return TopK(ids, field("log_p", torch.float16).float(), log_tail.float(), vocab_size, powers)


def largest_id(records: np.ndarray) -> int:
    """The largest token id in records; -1 if there is none."""
    ids = records["ids"]
    if "high_ids" in records.dtype.names:
        pairs = records["high_ids"].astype(np.int64)
        high = np.stack([pairs & 0xF, pairs >> 4], -1).reshape(len(pairs), 2 * pairs.shape[1])
        ids = ids | high[:, : ids.shape[1]] << 16
    return int(ids.max()) if ids.size else -1
