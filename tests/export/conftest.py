"""Exports are measured on a few sentences only; sets and a model for shortlists."""

from pathlib import Path

import pytest

from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.decoding.translation_model import load_checkpoint
from fairseq_kd.export import student


@pytest.fixture(scope="session", autouse=True)
def _few_sentences():
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("ROUNDS", 1), ("ALONE", 4), ("TOGETHER", 16)):
            patch.setattr(student, name, count)
        yield


@pytest.fixture(scope="module")
def checkpoint(ending_teacher):
    return load_checkpoint(ending_teacher, "--student")


@pytest.fixture(scope="module")
def training(data):
    return read_subset(Path(data), "train", ("es", "en"))


@pytest.fixture(scope="module")
def test_set(training):
    return read_subset(training.folder, "test", ("es", "en"))
