"""A small real corpus, prepared as users prepare theirs, and a small teacher trained on it."""

import pytest
from forks import run_forked
from harness import ROOT, TRAINING, Setup, write_text
from three_languages import binarise_three_ways
from trained import train_to_an_end

from fairseq_kd.sequence.engines import let_ctranslate2_use_avx512

let_ctranslate2_use_avx512()  # here as in what translates alone, whatever test decodes first


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """What scripts/prepare.sh makes of a few hundred verses."""
    folder = tmp_path_factory.mktemp("corpus")
    text = write_text(folder / "text", {"train": 400, "valid": 40, "test": 40})
    sizes = {"MERGES": "300", "MAX_WORDS": "25", "WORKERS": "1"}
    run_forked(ROOT / "scripts/prepare.sh", "es", "en", text, folder / "data", env=sizes)
    return folder / "data"


@pytest.fixture(scope="session")
def data(prepared):
    """The folder to give to fairseq-train."""
    return str(prepared / "bin")


@pytest.fixture(scope="session")
def teacher(data, tmp_path_factory):
    """A checkpoint that fairseq-train wrote after twenty updates."""
    folder = tmp_path_factory.mktemp("teacher")
    flags = ["--criterion", "label_smoothed_cross_entropy", "--max-update", "20"]
    run_forked("fairseq-train", data, *TRAINING, *flags, "--save-dir", folder)
    return str(folder / "checkpoint_best.pt")


@pytest.fixture(scope="session")
def ending_teacher(data, tmp_path_factory):
    """A teacher of a few hundred updates: its translations are poor, but end."""
    return str(train_to_an_end(data, tmp_path_factory.mktemp("ending")))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where converted teachers are kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def setup(data):
    """Builds a Setup from the flags of a criterion."""
    return lambda *flags: Setup(data, *flags)


@pytest.fixture(scope="session")
def three_way(prepared, tmp_path_factory):
    """The data also in a third language, xx: Spanish backwards, with its alignment to Spanish."""
    folder = tmp_path_factory.mktemp("three") / "bin"
    return str(binarise_three_ways(prepared, folder))
