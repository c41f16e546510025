"""Stores of small teachers."""

from fairseq_kd.checkpoints import read_checkpoint
from fairseq_kd.shard import Shard
from fairseq_kd.teachers.store_building import StoreBuilder, merge_subset


def build(out, teacher, data, left_out, subset="valid"):
    """A store of all words of a teacher's vocabulary but so many, in float32; its path."""
    words = read_checkpoint(teacher)["model"]["encoder.embed_tokens.weight"].shape[0]
    options = {"dtype": "float32", "max_tokens": 400, "part_sentences": 5}
    StoreBuilder(teacher, data, out, words - left_out, **options).build(subset, Shard(1, 1))
    merge_subset(out, subset)
    return str(out)
