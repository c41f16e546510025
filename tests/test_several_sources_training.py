"""multi_teacher_kd and mutual_learning in real fairseq processes: resumed, on two workers, used."""

import json
import re
import shutil

import pytest
import torch
from forks import run_forked, run_new
from harness import PAIR, TRAINING, Setup
from trained import train_on_two_workers

from fairseq_kd import cli
from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.checkpoints.updates import updates_behind
from fairseq_kd.training_log import figures

SMOOTHED = ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"]
MUTUAL = ["--criterion", "mutual_learning", "--label-smoothing", "0.1", "--kd-detach-ratio", "1.05"]
MUTUAL += ["--kd-peers", "3", "--kd-peer-overrides", "encoder_layers=2:decoder_layers=2"]
# fairseq drops the last batch of a set if it does not hold a multiple of eight sentences
WHOLE_BATCHES = ["--required-batch-size-multiple", "1"]
MULTI = ["--criterion", "multi_teacher_kd", "--label-smoothing", "0.1"]
MULTI += ["--kd-teacher-weights", "learned", "--kd-teacher"]


def train(data, save_dir, *flags, start=run_forked):
    command = ["fairseq-train", data, *TRAINING, "--user-dir", "user_dir", "--save-dir", save_dir]
    return start(*command, *flags).stdout.splitlines()


def of_kind(lines, kind):
    return [found for line in lines if (found := figures(line, of=kind)) is not None]


def parameters(path):
    """The model's, and those of the criterion."""
    state = read_checkpoint(path)
    both = (*state["model"].values(), *state["criterion"].values())
    return torch.cat([each.flatten() for each in both])


@pytest.fixture(scope="module")
def large_teacher(data, tmp_path_factory):
    """A larger teacher, not trained."""
    setup = Setup(
        data,
        "--criterion",
        "label_smoothed_cross_entropy",
        "--encoder-layers",
        "2",
        "--no-save-optimizer-state",
    )
    return str(setup.save(tmp_path_factory.mktemp("large") / "teacher.pt"))


@pytest.fixture(scope="module", params=["mutual_learning", "multi_teacher_kd"])
def flags(request, teacher):
    several = {"mutual_learning": MUTUAL, "multi_teacher_kd": [*MULTI, f"{teacher}:{teacher}"]}
    return several[request.param]


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_parameters(data, flags, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(data, whole, *flags, "--max-update", "8", "--save-interval-updates", "4")
    resumed.mkdir()
    shutil.copy(whole / "checkpoint_1_4.pt", resumed / "checkpoint_last.pt")
    train(data, resumed, *flags, "--max-update", "8")
    got, want, half = (
        parameters(path)
        for path in (
            resumed / "checkpoint_last.pt",
            whole / "checkpoint_last.pt",
            whole / "checkpoint_1_4.pt",
        )
    )
    assert torch.equal(got, want)
    own = sum(p.numel() for p in read_checkpoint(whole / "checkpoint_last.pt")["model"].values())
    if flags is MUTUAL:
        assert (half[own:] != want[own:]).any()  # what the criterion holds is trained


@pytest.mark.slow
def test_two_workers_equal_one_with_two_batches_an_update(data, flags, tmp_path):
    port = 29631 if flags is MUTUAL else 29633
    flags = [*flags, "--max-update", "6", "--dropout", "0"]
    train(data, tmp_path / "one", *flags, "--update-freq", "2")
    train_on_two_workers(data, tmp_path / "two", *flags, port=port)
    one, two = (parameters(tmp_path / name / "checkpoint_last.pt") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)  # float32, sums in another order


def test_with_lambda_0_the_model_is_trained_as_by_label_smoothed_cross_entropy(data, tmp_path):
    """With dropout and two batches an update, to the last bit, whatever the peers are."""
    common = ["--max-update", "6", "--update-freq", "2", "--dropout", "0.2"]
    train(data, tmp_path / "plain", *SMOOTHED, *common)
    alone = ["--criterion", "mutual_learning", "--label-smoothing", "0.1"]
    alone += ["--kd-mutual-weight", "0", "--kd-peer-overrides", "encoder_layers=3"]
    train(data, tmp_path / "ours", *alone, *common)
    want, got = (
        read_checkpoint(tmp_path / name / "checkpoint_last.pt")["model"]
        for name in ("plain", "ours")
    )
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert got.keys() == want.keys()


@pytest.fixture(scope="module")
def peers(data, tmp_path_factory):
    """A checkpoint with two peers, and the figures of its last validation."""
    folder = tmp_path_factory.mktemp("peers")
    lines = train(data, folder, *MUTUAL, "--max-update", "12", *WHOLE_BATCHES, start=run_new)
    return folder / "checkpoint_last.pt", of_kind(lines, "valid")[-1]


def test_an_extracted_peer_scores_what_the_log_said(peers, data, tmp_path, capsys):
    checkpoint, validated = peers
    number = 2
    out = tmp_path / "peer.pt"
    words = ["extract-peer", str(checkpoint), "--peer", str(number), "--out", str(out)]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert f"peer {number}: " in shown.out
    assert "averaged" not in shown.err
    message = validated[f"nll_loss_{number}"]
    assert message != validated["nll_loss"]
    batches = ["--batch-size", "8", *WHOLE_BATCHES, "--cpu"]
    allowed = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # as torch was before 2.6: no plugin
    command = ["fairseq-generate", data, "--path", out, *PAIR, "--gen-subset", "valid", *batches]
    scored = run_new(*command, "--score-reference", env=allowed).stdout
    scores = [
        float(each) for line in re.findall(r"^P-\d+\t(.*)$", scored, re.M) for each in line.split()
    ]
    assert -sum(scores) / len(scores) == pytest.approx(message, abs=2e-3)
    validation = ["fairseq-validate", data, "--user-dir", "user_dir", "--path", out, *batches]
    text = run_forked(*validation, "--task", "translation", "--valid-subset", "valid").stdout
    assert float(re.search(r"nll_loss (\S+)", text)[1]) == pytest.approx(message, abs=2e-3)


def test_an_extracted_peer_is_an_ordinary_model_of_its_own_size(peers, tmp_path):
    cli.main(["extract-peer", str(peers[0]), "--peer", "2", "--out", str(tmp_path / "peer.pt")])
    state = read_checkpoint(tmp_path / "peer.pt")
    assert {key.split(".")[0] for key in state["model"]} == {"encoder", "decoder"}
    assert "decoder.layers.1.fc1.weight" in state["model"]
    assert state["criterion"] is None
    assert not list(tmp_path.glob("*.partial"))


def test_updates_behind_a_peer_count_those_of_the_peers_that_it_began_from(peers, data, tmp_path):
    on, new, short = tmp_path / "on", tmp_path / "new", [*MUTUAL, "--max-update", "3"]
    train(data, on, *short, "--finetune-from-model", str(peers[0]))
    train(data, new, *short, "--finetune-from-model", str(tmp_path / "on" / "checkpoint_last.pt"))
    for folder, behind in ((peers[0].parent, 12), (on, 15), (new, 18)):
        out = tmp_path / f"{behind}.pt"
        words = [str(folder / "checkpoint_last.pt"), "--peer", "2", "--out", str(out)]
        assert cli.main(["extract-peer", *words]) == 0
        assert updates_behind(out) == behind
    (on / "checkpoint_last.pt").unlink()
    words = [str(new / "checkpoint_last.pt"), "--peer", "2", "--out", str(tmp_path / "gone.pt")]
    assert cli.main(["extract-peer", *words]) == 0
    assert updates_behind(tmp_path / "gone.pt") is None


@pytest.mark.parametrize("half", [True, False])
def test_a_checkpoint_of_which_the_model_alone_was_averaged_is_reported(
    peers, tmp_path, capsys, half
):
    state = read_checkpoint(peers[0])  # as fairseq's scripts/average_checkpoints.py leaves it
    state["model"] = {name: tensor.clone() for name, tensor in state["model"].items()}
    if half:
        state["criterion"] = {name: each.half() for name, each in state["criterion"].items()}
    averaged, out = tmp_path / "averaged.pt", tmp_path / "peer.pt"
    torch.save(state, averaged)
    assert cli.main(["extract-peer", str(averaged), "--peer", "2", "--out", str(out)]) == 0
    assert capsys.readouterr().err == (
        f"{averaged} was averaged, but only its model: peer 2 comes from only one of the "
        "checkpoints. Extract it from each of them, and average the results.\n"
    )


def test_a_peer_that_is_not_there_is_refused(peers, tmp_path, capsys):
    words = ["extract-peer", str(peers[0]), "--peer", "3", "--out", str(tmp_path / "peer.pt")]
    assert cli.main(words) == 2
    message = f"--peer must be from 1 to 2 for {peers[0]}, but is 3. The model of the"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "peer.pt").exists()


def test_a_checkpoint_without_peers_is_refused(teacher, tmp_path, capsys):
    assert cli.main(["extract-peer", teacher, "--out", str(tmp_path / "peer.pt")]) == 2
    message = "was trained with --criterion label_smoothed_cross_entropy, which has no peers."
    assert message in capsys.readouterr().err
    missing = tmp_path / "nowhere.pt"
    assert cli.main(["extract-peer", str(missing), "--out", str(tmp_path / "peer.pt")]) == 2
    assert f"{missing} does not exist." in capsys.readouterr().err


def test_every_figure_is_in_the_log(data, teacher, large_teacher, tmp_path):
    pair = f"{teacher}:{large_teacher}"
    lines = train(data, tmp_path / "multi", *MULTI, pair, "--max-update", "3")
    names = ["kd_loss", "agreement", "teacher_weight_1", "teacher_weight_2", "teacher_nll"]
    for kind in ("train_inner", "valid"):
        for each in of_kind(lines, kind):
            assert all(name in each for name in names), json.dumps(each)
    weights = [each["teacher_weight_1"] for each in of_kind(lines, "train_inner")]
    assert weights[0] == 0.5 < weights[-1]  # the trained teacher gains on the untrained one
