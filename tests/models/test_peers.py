"""Checkpoints of mutual learning from which no peer can be extracted."""

import re
from argparse import Namespace

import pytest
import torch
from harness import Setup

from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.models.peers import write_peer

CRITERION = {
    **{"_name": "mutual_learning", "kd_peers": 2, "kd_peer_overrides": None},
    **{"label_smoothing": 0.1, "report_accuracy": False, "ignore_prefix_size": 0},
    "sentence_avg": False,
}
GIVE = "Give a file that fairseq-train wrote."
WRONG = {
    "too many peers": (
        {"kd_peers": 2_000_000},
        "has the option kd_peers, which must be a whole number from 2 to 100, but is 2000000. "
        + GIVE,
    ),
    "peers in words": (
        {"kd_peers": "two"},
        "has the option kd_peers, which must be a whole number from 2 to 100, but is 'two'. "
        + GIVE,
    ),
    "a number for a text": (
        {"kd_peer_overrides": 5},
        f"has the option kd_peer_overrides, which must be a text or None, but is 5. {GIVE}",
    ),
    "no such architecture": (
        {},
        "was trained with the architecture 'nonsense', which fairseq does not know. Give the "
        "plugin that registers it by --user-dir.",
    ),
}


def test_overrides_that_are_not_those_of_the_weights_are_named(data, tmp_path):
    flags = ["--criterion", "mutual_learning", "--kd-peer-overrides", "encoder_layers=2"]
    flags += ["--no-save-optimizer-state"]
    state = read_checkpoint(Setup(data, *flags).save(tmp_path / "trained.pt"))
    state["cfg"]["criterion"]["kd_peer_overrides"] = "encoder_layers=1"
    path = tmp_path / "changed.pt"
    torch.save(state, path)
    message = (
        f"{path}, peer 1, has the option encoder_layers, which must be 2 by its weights, but is 1. "
        "Give a file that fairseq-train wrote."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_peer(str(path), 1, tmp_path / "peer.pt")
    assert not (tmp_path / "peer.pt").exists()


@pytest.mark.parametrize("kind", WRONG)
def test_options_that_no_training_has_are_named(teacher, tmp_path, kind):
    options, message = WRONG[kind]
    state = read_checkpoint(teacher)
    state["cfg"]["criterion"] = {**CRITERION, **options}
    state["criterion"] = {"peers.0.weight": torch.zeros(3)}
    if not options:
        state["cfg"]["model"] = Namespace(_name="nonsense", arch="nonsense")
    path = tmp_path / "trained.pt"
    torch.save(state, path)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {message}')}$"):
        write_peer(str(path), 1, tmp_path / "peer.pt")
