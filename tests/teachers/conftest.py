"""Stores of the small teacher, built in this process; and multilingual teachers."""

from pathlib import Path

import pytest
from multilingual import train

from fairseq_kd.shard import Shard
from fairseq_kd.teachers.store_building import StoreBuilder
from fairseq_kd.teachers.store_merging import merge_subset

ALL = Shard(1, 1)
SMALL_PARTS = {"topk": 8, "dtype": "float32", "max_tokens": 400, "part_sentences": 5}


@pytest.fixture(scope="session")
def build(teacher, data):
    """Builds a store, of the validation and the test set."""

    def build_store(out, shards=(ALL,), subsets=("valid", "test"), merge=True, **changed):
        options = {"teacher": teacher, "data": data, **SMALL_PARTS, **changed}
        builder = StoreBuilder(out=Path(out), **options)
        for subset in subsets:
            for shard in shards:
                builder.build(subset, shard)
            if merge:
                merge_subset(Path(out), subset)
        return Path(out)

    return build_store


@pytest.fixture(scope="session")
def store(build, tmp_path_factory):
    """A store with validation and test set."""
    return build(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture(scope="session")
def multilingual(data, made_once):
    """The checkpoint of a kind of multilingual model."""

    def of(kind):
        folder = made_once(f"multilingual-{kind}", lambda folder: train(kind, data, folder))
        return str(folder / "checkpoint_last.pt")

    return of
