"""Stores of small teachers."""

import json

import numpy as np
import torch

from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.losses import TAIL_POWERS, TopK
from fairseq_kd.shard import Shard
from fairseq_kd.teachers import store as files
from fairseq_kd.teachers.store_building import StoreBuilder
from fairseq_kd.teachers.store_merging import merge_subset
from fairseq_kd.teachers.store_records import as_bytes, pack, unpack


def rewrite(path, **changed):
    """Changes values of a JSON file of ours as their writer would, or did before it sealed them."""
    content = {**json.loads(path.read_text()), **changed}
    content.pop("checksum", None)
    path.write_text(json.dumps({key: each for key, each in content.items() if each is not None}))


def unpacked(records, vocab_size, powers=TAIL_POWERS):
    """The top-k distributions of records."""
    return unpack(as_bytes(records), records.dtype, vocab_size, powers)


def build(out, teacher, data, left_out, subset="valid"):
    """A store of all words of a teacher's vocabulary but so many, in float32; its path."""
    words = read_checkpoint(teacher)["model"]["encoder.embed_tokens.weight"].shape[0]
    options = {"dtype": "float32", "max_tokens": 400, "part_sentences": 5}
    StoreBuilder(teacher, data, out, words - left_out, **options).build(subset, Shard(1, 1))
    merge_subset(out, subset)
    return str(out)


def write_random_store(out, subset):
    """A store of four sentences of five tokens, two in a part, with random content."""
    generator = torch.Generator().manual_seed(1)
    folder = out / subset
    folder.mkdir(parents=True)
    identity = {"format": files.FORMAT, "words": 50, "topk": 4, "part_sentences": 2}
    identity |= {"teacher": "t", "fingerprint": ""}
    files.write_json(out / files.STORE_FILE, {**identity, "languages": ["es", "en"]})
    table = np.zeros(4, files.SENTENCE)
    table["length"] = 5
    for part in range(2):
        records = pack(TopK.of_logits(torch.randn(10, 50, generator=generator), 4))
        files.write_array(folder / files.part_name(part), records)
        sums = [files.records_checksum(each, 0) for each in np.split(records, 2)]
        table["records"][2 * part : 2 * part + 2] = sums
    files.write_json(folder / files.INDEX, {"data": "", "sentences": 4})
    files.write_array(folder / files.TABLE, table)
