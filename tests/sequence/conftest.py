"""The verbs of sequence-level distillation as functions."""

import shutil
from pathlib import Path

import pytest
from harness import copy_dictionaries

from fairseq_kd import cli
from fairseq_kd.sequence.subset import read_subset
from fairseq_kd.sequence.training_set import PairWriter


@pytest.fixture(scope="session")
def translate_words(ending_teacher, data, cache):
    """The words of a translate command; flags after these win over them."""

    def words(out, *flags, teacher=ending_teacher, folder=data):
        command = ["translate", "--teacher", teacher, "--data", folder, "--out", out]
        command += ["--cache", cache, "--max-tokens", "200"]
        return [str(word) for word in (*command, *flags)]

    return words


@pytest.fixture(scope="session")
def translate(translate_words):
    """Runs the verb translate in this process."""
    return lambda out, *flags, **other: cli.main(translate_words(out, *flags, **other))


@pytest.fixture(scope="session")
def decoded(translate, tmp_path_factory):
    """The training set decoded in one undisturbed run, four hypotheses of each sentence."""
    out = tmp_path_factory.mktemp("decoded") / "out"
    assert translate(out, "--nbest", "4") == 0
    return out


@pytest.fixture
def decoded_copy(decoded, tmp_path):
    """The same, to be spoilt."""
    return shutil.copytree(decoded, tmp_path / "decoded")


@pytest.fixture
def distill(decoded, data):
    """Runs the verb distill-data in this process, on one worker."""

    def run_verb(out, *flags, translations=decoded, folder=data):
        words = ["distill-data", "--translations", translations, "--data", folder, "--out", out]
        return cli.main([str(word) for word in (*words, "--workers", "1", *flags)])

    return run_verb


@pytest.fixture
def odd_data(data, tmp_path):
    """A set with an unknown word, a source without words, and one that no teacher reads."""
    folder = copy_dictionaries(data, tmp_path / "odd")
    like = read_subset(Path(data), "valid", ("es", "en"))
    writer = PairWriter(folder, "train", like)
    for source in ([7, 3, 9, 2], [2], [5] * 1024 + [2], [8, 2]):
        writer.add(source, [6, 2])
    writer.close()
    return folder
