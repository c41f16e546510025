"""State of a criterion that is restored from a checkpoint, and state that cannot be."""

import logging
import re

import pytest
import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer

MUTUAL = ["--criterion", "mutual_learning", "--kd-detach-ratio", "2"]
RUN = {"epoch": 2, "version": 2, "shuffle": True}  # of the iterator of a training


@pytest.fixture(autouse=True)
def _own_meters():
    metrics.reset()
    yield
    metrics.reset()


@pytest.fixture
def trainer(setup):
    def build(*flags):
        metrics.reset()
        made = setup(*MUTUAL, *flags)
        return Trainer(made.cfg, made.task, made.model, made.criterion)

    return build


def saved(trainer, path, iterations, means):
    for mean, value in zip(trainer.criterion.progress, means, strict=True):
        mean.observe([{mean.name.replace("running_nll", "nll_loss"): value, "kd_ntokens": 1}])
    iterator = {**RUN, "iterations_in_epoch": iterations}
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": iterator})
    return [mean.value for mean in trainer.criterion.progress]


@pytest.mark.parametrize("iterations", [0, 3])  # fairseq reads no meters at the end of an epoch
def test_running_means_go_on_from_every_checkpoint(trainer, tmp_path, iterations):
    path = tmp_path / "last.pt"
    want = saved(trainer(), path, iterations, [2.5, 4.0])
    resumed = trainer()
    assert [mean.value for mean in resumed.criterion.progress] == [None, None]
    resumed.load_checkpoint(str(path))
    assert [mean.value for mean in resumed.criterion.progress] == want
    assert want[0] < want[1]
    again = trainer()
    again.load_checkpoint(str(path), reset_meters=True)
    assert [mean.value for mean in again.criterion.progress] == [None, None]


def test_other_peers_are_named_or_initialised_anew(trainer, tmp_path, caplog):
    path = tmp_path / "last.pt"
    saved(trainer(), path, 0, [2.5, 4.0])
    other = trainer("--kd-peer-overrides", "encoder_ffn_embed_dim=24")
    message = (
        f"{path} must hold the weights of --criterion mutual_learning as they are trained here, "
        "but 'peers.0.encoder.layers.0.fc1.weight' is of shape (32, 16) there and of shape "
        "(24, 16) here. Resume with the same --kd-peers, --kd-peer-overrides and --arch, or "
        "start a new training from its model, with --finetune-from-model and another --save-dir."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        other.load_checkpoint(str(path))
    before = [each.clone() for each in other.criterion.parameters()]
    with caplog.at_level(logging.WARNING):
        other.load_checkpoint(str(path), reset_optimizer=True, reset_meters=True)
    assert "the criterion's weights are initialised anew: the checkpoint must hold" in caplog.text
    assert all(map(torch.equal, other.criterion.parameters(), before))


@pytest.mark.parametrize("kept", ["there", "here"])
def test_weights_that_only_one_of_both_has_are_named(setup, teacher, tmp_path, kept):
    path = tmp_path / "last.pt"
    flags = ["--criterion", "attention_kd", "--kd-teacher", teacher]
    learned = ["--kd-attention-heads", "learned"]
    before, after = (learned, []) if kept == "there" else ([], learned)
    first, second = (
        Trainer(made.cfg, made.task, made.model, made.criterion)
        for made in (setup(*flags, *before), setup(*flags, *after))
    )
    first.consolidate_optimizer()
    first.save_checkpoint(str(path), {})
    absent = "here" if kept == "there" else "there"
    message = rf"^{re.escape(str(path))} must hold the weights of --criterion attention_kd as they "
    message += rf"are trained here, but 'terms\S+' is .*absent {absent}"
    with pytest.raises(ValueError, match=message):
        second.load_checkpoint(str(path))
