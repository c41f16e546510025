"""A small real corpus, prepared as users prepare theirs, and a small teacher trained on it."""

import copy
import fcntl
import os
from pathlib import Path

import pytest
import torch
from forks import run_forked
from harness import TRAINING, Setup, copy_dictionaries, write_text
from layered import SHAPE
from three_languages import binarise_three_ways
from trained import train_to_an_end

from fairseq_kd import cli
from fairseq_kd.decoding.engine_choice import let_ctranslate2_use_avx512
from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.distilled_data.binarised_writer import PairWriter
from fairseq_kd.teachers import live_teacher

OF_THE_SESSION = set()  # teachers that no test changes
let_ctranslate2_use_avx512()  # here as in what translates alone, whatever test decodes first
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run in Triton's interpreter; read at its import


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
    """The output of fairseq-kd prepare for a few hundred verses."""

    def make(folder):
        text = write_text(folder / "text", {"train": 400, "valid": 40, "test": 40})
        command = ["--text", text, "--source", "es", "--target", "en", "--out", folder / "data"]
        sizes = ["--merges", "300", "--max-words", "25", "--workers", "1"]
        run_forked("fairseq-kd", "prepare", *command, *sizes)

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
    load, loaded = live_teacher.load_teacher, {}

    def load_once(path, *others):
        if path not in OF_THE_SESSION:
            return load(path, *others)
        key = (path, *others)
        if key not in loaded:
            with torch.random.fork_rng():  # what is drawn after it is the same the first time, too
                loaded[key] = load(path, *others)
        model, task = loaded[key]
        return copy.deepcopy(model), task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_teacher, "load_teacher", load_once)
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
    """Runs translate in this process."""
    return lambda out, *flags, **other: cli.main(translate_words(out, *flags, **other))


@pytest.fixture(scope="session")
def decoded(translate, tmp_path_factory):
    """The training set decoded in one undisturbed run, four hypotheses of each sentence."""
    out = tmp_path_factory.mktemp("decoded") / "out"
    assert translate(out, "--nbest", "4") == 0
    return out


@pytest.fixture
def odd_data(data, tmp_path):
    """A set with an unknown word, a source without words, and one that is too long."""
    folder = copy_dictionaries(data, tmp_path / "odd")
    like = read_subset(Path(data), "valid", ("es", "en"))
    writer = PairWriter(folder, "train", like)
    for source in ([7, 3, 9, 2], [2], [5] * 1024 + [2], [8, 2]):
        writer.add(source, [6, 2])
    writer.close()
    return folder
