"""A small real corpus, prepared as users prepare theirs, and a small teacher trained on it."""

import copy
import fcntl
import os

import pytest
from forks import run_forked
from harness import ROOT, TRAINING, Setup, write_text
from layered import SHAPE
from three_languages import binarise_three_ways
from trained import train_to_an_end

from fairseq_kd.sequence.engines import let_ctranslate2_use_avx512
from fairseq_kd.teachers import live

OF_THE_SESSION = set()  # teachers that no test changes
let_ctranslate2_use_avx512()  # here as in what translates alone, whatever test decodes first


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Has a folder made, by one alone of the processes that share the tests; nobody may change it.

    A test that needs it first makes it, and another process waits until it is made.
    """
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name, make):
        path, done = common / name, common / f"{name}.done"
        with (common / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                path.mkdir()
                make(path)
                done.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def prepared(made_once):
    """What scripts/prepare.sh makes of a few hundred verses."""

    def make(folder):
        text = write_text(folder / "text", {"train": 400, "valid": 40, "test": 40})
        sizes = {"MERGES": "300", "MAX_WORDS": "25", "WORKERS": "1"}
        run_forked(ROOT / "scripts/prepare.sh", "es", "en", text, folder / "data", env=sizes)

    return made_once("corpus", make) / "data"


@pytest.fixture(scope="session")
def data(prepared):
    """The folder to give to fairseq-train."""
    return str(prepared / "bin")


@pytest.fixture(scope="session")
def teacher(data, made_once):
    """A checkpoint that fairseq-train wrote after twenty updates."""

    def make(folder):
        flags = ["--criterion", "label_smoothed_cross_entropy", "--max-update", "20"]
        run_forked("fairseq-train", data, *TRAINING, *flags, "--save-dir", folder)

    path = str(made_once("teacher", make) / "checkpoint_best.pt")
    OF_THE_SESSION.add(path)
    return path


@pytest.fixture(scope="session", autouse=True)
def _teachers_are_read_once():
    """Where criterions learn from those in ``OF_THE_SESSION``."""
    load, loaded = live.load_teacher, {}

    def load_once(path):
        if path not in OF_THE_SESSION:
            return load(path)
        if path not in loaded:
            loaded[path] = load(path)
        model, task = loaded[path]
        return copy.deepcopy(model), task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "load_teacher", load_once)
        yield


@pytest.fixture(scope="session")
def ending_teacher(data, made_once):
    """A teacher of a few hundred updates: its translations are poor, but end."""
    folder = made_once("ending", lambda folder: train_to_an_end(data, folder))
    return str(folder / "checkpoint_last.pt")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where converted teachers are kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def large(data, tmp_path_factory):
    """A teacher of 3+4 layers, seven heads and a width of 28, not trained."""
    setup = Setup(data, "--criterion", "label_smoothed_cross_entropy", *SHAPE)
    for parameter in setup.model.parameters():  # sharper than at first, so that terms are not tiny
        parameter.data.mul_(1.7)
    path = str(setup.save(tmp_path_factory.mktemp("large") / "teacher.pt"))
    OF_THE_SESSION.add(path)
    return path


@pytest.fixture
def setup(data):
    """Builds a Setup from the flags of a criterion."""
    return lambda *flags: Setup(data, *flags)


@pytest.fixture(scope="session")
def three_way(prepared, made_once):
    """The data also in a third language, xx: Spanish backwards, with its alignment to Spanish."""
    folder = made_once("three", lambda folder: binarise_three_ways(prepared, folder / "bin"))
    return str(folder / "bin")
