"""cross_lingual_kd in real fairseq processes: learns from a known teacher, is resumed, is used."""

import re
import shutil

import pytest
import torch
from ctranslate2.converters import FairseqConverter
from forks import run_forked, run_new
from harness import TRAINING, USER_DIR, Setup
from three_languages import PIVOT
from trained import train_on_two_workers

from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.training_log import figures

CROSS = ["--criterion", "cross_lingual_kd", "--label-smoothing", "0.1", *PIVOT]
WIDER = ["--encoder-embed-dim", "12", "--decoder-embed-dim", "12", "--max-update", "8"]


def train(data, save_dir, *flags, start=run_forked):
    command = ["fairseq-train", data, *TRAINING, "--user-dir", "user_dir", "--save-dir", save_dir]
    return start(*command, *flags).stdout.splitlines()


def parameters(path):
    """The student's, and those of the criterion."""
    state = read_checkpoint(path)
    both = (*state["model"].values(), *state["criterion"].values())
    return torch.cat([each.flatten() for each in both])


@pytest.fixture(scope="module")
def student(three_way, teacher, tmp_path_factory):
    """A training of eight updates with a checkpoint in the middle, and its log."""
    folder = tmp_path_factory.mktemp("student")
    flags = [*CROSS, *WIDER, "--kd-teacher", teacher, "--save-interval-updates", "4"]
    return folder, train(three_way, folder, *flags, start=run_new)


def test_every_figure_is_in_the_log(student):
    for kind in ("train_inner", "valid"):
        found = [each for line in student[1] if (each := figures(line, of=kind)) is not None]
        assert found
        names = ("loss", "nll_loss", "kd_loss", "align_loss")
        assert all(name in each for each in found for name in names)


def test_killed_and_resumed_it_ends_with_the_same_parameters(student, three_way, teacher, tmp_path):
    shutil.copy(student[0] / "checkpoint_1_4.pt", tmp_path / "checkpoint_last.pt")
    train(three_way, tmp_path, *CROSS, *WIDER, "--kd-teacher", teacher)
    got, want = (parameters(each / "checkpoint_last.pt") for each in (tmp_path, student[0]))
    assert torch.equal(got, want)


@pytest.mark.slow
def test_two_workers_equal_one_with_two_batches_an_update(three_way, teacher, tmp_path):
    flags = [*CROSS, *WIDER, "--kd-teacher", teacher, "--dropout", "0"]
    train(three_way, tmp_path / "one", *flags, "--update-freq", "2")
    train_on_two_workers(three_way, tmp_path / "two", *flags, port=29637)
    one, two = (parameters(tmp_path / name / "checkpoint_last.pt") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)  # float32, sums in another order


def test_the_student_is_used_without_pivot_and_without_plugin(student, three_way, tmp_path):
    """By the ordinary task, on data that hold nothing of the pivot."""
    data = tmp_path / "bin"
    data.mkdir()
    for file in ("valid.xx-en.*", "dict.xx.txt", "dict.en.txt"):
        for path in shutil.os.scandir(three_way):
            if re.fullmatch(file.replace(".*", r"\..*"), path.name):
                shutil.copy(path, data)
    command = ["fairseq-generate", data, "--path", student[0] / "checkpoint_last.pt", "--cpu"]
    command += ["--source-lang", "xx", "--target-lang", "en", "--gen-subset", "valid"]
    out = run_new(*command, "--beam", "1", env={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}).stdout
    assert re.search("^H-", out, re.M)
    path = student[0] / "checkpoint_last.pt"
    FairseqConverter(str(path), str(data), user_dir=USER_DIR).convert(str(tmp_path / "converted"))
    assert {key.split(".")[0] for key in read_checkpoint(path)["model"]} == {"encoder", "decoder"}


def test_the_student_learns_what_its_teacher_knows(three_way, teacher, data, tmp_path):
    """From distributions alone: from the trained teacher more than from one that knows nothing."""
    untrained = Setup(
        data, "--criterion", "label_smoothed_cross_entropy", "--no-save-optimizer-state"
    )
    ignorant = str(untrained.save(tmp_path / "ignorant.pt"))
    alone = [*CROSS, "--kd-alpha", "1", "--kd-beta", "0", "--kd-temperature", "1"]
    alone += ["--max-update", "24", "--dropout", "0"]
    nll = {}
    for name, path in (("trained", teacher), ("ignorant", ignorant)):
        lines = train(three_way, tmp_path / name, *alone, "--kd-teacher", path)
        found = [each for line in lines if (each := figures(line, of="valid")) is not None]
        nll[name] = found[-1]["nll_loss"]
    assert nll["trained"] < nll["ignorant"] - 0.2
