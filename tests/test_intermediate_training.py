"""hybrid_kd in real fairseq processes: resumed, on two workers, inherited, and used."""

import re
import shutil

import pytest
import torch
from ctranslate2.converters import FairseqConverter
from forks import run_forked, run_new
from harness import PAIR, TRAINING, USER_DIR, Setup
from trained import train_on_two_workers

from fairseq_kd import cli
from fairseq_kd.checkpoints.reading import read_checkpoint

LARGE = ["--encoder-layers", "3", "--decoder-layers", "2", "--encoder-embed-dim", "24"]
LARGE += ["--decoder-embed-dim", "24", "--encoder-attention-heads", "3"]
LARGE += ["--decoder-attention-heads", "3", "--no-save-optimizer-state"]
HYBRID = ["--criterion", "hybrid_kd", "--label-smoothing", "0.1", "--kd-log-gradients"]
HYBRID += ["--kd-attention-heads", "learned", "--kd-attention-loss", "kl", "--kd-teacher"]


@pytest.fixture(scope="module")
def large(data, tmp_path_factory):
    """A wider and deeper teacher with more heads than the student, not trained."""
    setup = Setup(data, "--criterion", "label_smoothed_cross_entropy", *LARGE)
    return str(setup.save(tmp_path_factory.mktemp("large") / "teacher.pt"))


def train(data, save_dir, *flags, start=run_forked):
    command = ["fairseq-train", data, *TRAINING, "--user-dir", "user_dir", "--save-dir", save_dir]
    return start(*command, *flags).stdout


def parameters(path):
    """The student's, and those of the criterion."""
    state = read_checkpoint(path)
    both = (*state["model"].values(), *state["criterion"].values())
    return torch.cat([each.flatten() for each in both])


@pytest.fixture(scope="module")
def whole(data, large, tmp_path_factory):
    """A training of eight updates with a checkpoint in the middle, and its log."""
    folder = tmp_path_factory.mktemp("whole")
    flags = [*HYBRID, large, "--max-update", "8", "--save-interval-updates", "4"]
    log = train(data, folder, *flags, start=run_new)
    return folder, log


def test_every_term_is_in_the_log(whole):
    _, log = whole
    for kind in ("", "valid_"):
        for name in ("loss", "nll_loss", "kd_loss", "feature_loss", "attention_loss"):
            assert f'"{kind}{name}": ' in log
    shares = [
        [float(share) for share in re.findall(rf'"gradient_{name}": "([\d.]+)"', log)]
        for name in ("word", "feature", "attention")
    ]
    assert len(shares[0]) >= 8
    assert all(sum(each) == pytest.approx(100, abs=0.3) for each in zip(*shares, strict=True))


def test_a_resumed_training_ends_with_the_same_parameters(whole, data, large, tmp_path):
    folder, _ = whole
    shutil.copy(folder / "checkpoint_1_4.pt", tmp_path / "checkpoint_last.pt")
    train(data, tmp_path, *HYBRID, large, "--max-update", "8")
    got, want = (parameters(each / "checkpoint_last.pt") for each in (tmp_path, folder))
    assert torch.equal(got, want)
    half = parameters(folder / "checkpoint_1_4.pt")
    n_student = sum(
        p.numel() for p in read_checkpoint(folder / "checkpoint_last.pt")["model"].values()
    )
    assert (half[n_student:] != want[n_student:]).any()  # what the criterion holds is trained


def test_the_student_is_an_ordinary_checkpoint(whole, data, tmp_path):
    path = whole[0] / "checkpoint_last.pt"
    assert {key.split(".")[0] for key in read_checkpoint(path)["model"]} == {"encoder", "decoder"}
    generation = ["--gen-subset", "valid", "--beam", "1", "--batch-size", "8", "--cpu"]
    allowed = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # as torch was before 2.6
    out = run_new("fairseq-generate", data, "--path", path, *PAIR, *generation, env=allowed).stdout
    assert re.search("^H-", out, re.M)
    FairseqConverter(str(path), data, user_dir=USER_DIR).convert(str(tmp_path / "converted"))


@pytest.mark.slow
def test_two_workers_equal_one_with_two_batches_an_update(data, large, tmp_path):
    """Both from an inherited start, without the criterion's parameters in it."""
    start = str(tmp_path / "start.pt")
    words = ["inherit", "--teacher", large, "--arch", "transformer", "--out", start]
    size = TRAINING[TRAINING.index("--encoder-layers") : TRAINING.index("--optimizer")]
    norms = ["--encoder-normalize-before", "--decoder-normalize-before"]
    assert cli.main([*words, "--", *norms, *size]) == 0
    flags = [*HYBRID, large, "--max-update", "6", "--dropout", "0", "--finetune-from-model", start]
    log = train(data, tmp_path / "one", *flags, "--update-freq", "2")
    assert "loading pretrained model" in log
    train_on_two_workers(data, tmp_path / "two", *flags, port=29617)
    one, two = (parameters(tmp_path / name / "checkpoint_last.pt") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)  # float32, sums in another order
