"""Batches are prepared in the data loader, so that a step on a GPU waits for nothing."""

import pytest
import torch
from every_criterion import CRITERIONS, filled
from fairseq.utils import apply_to_sample
from harness import TRAINING, Setup, run
from stores import build
from waiting import Waiting

from fairseq_kd.models.real_tokens import PREPARED, RealTokens, prepared
from fairseq_kd.teachers.store import StoredSubset
from fairseq_kd.training_log import figures

STORED = ["--criterion", "word_kd", "--label-smoothing", "0.1", "--train-subset", "valid"]


@pytest.fixture(scope="module")
def store(teacher, data, tmp_path_factory):
    """A store of the whole vocabulary but one word."""
    return build(tmp_path_factory.mktemp("stores") / "whole", teacher, data, left_out=1)


@pytest.fixture
def criterion(teacher, large, store, data, three_way):
    """The setup of a criterion that distils, by its name."""

    def made(name, *flags):
        folder = three_way if name == "cross_lingual_kd" else data
        paths = {"TEACHER": teacher, "LARGE": large, "STORE": store}
        return Setup(folder, *filled(name, **paths), "--train-subset", "valid", *flags)

    return made


@pytest.mark.parametrize("prefix", ["0", "2"])
@pytest.mark.parametrize("name", CRITERIONS)
def test_forward_and_backward_wait_for_nothing(criterion, name, prefix):
    made = criterion(name, "--ignore-prefix-size", prefix)
    made.gradients(made.batch(0, 1, 2), train=True)  # the first batch is checked, and may wait
    sample = made.batch(3, 4, 5)
    with Waiting() as waiting:
        made.gradients(sample, train=True)
    assert waiting.calls == []


def test_operations_that_wait_for_the_gpu_are_detected(criterion):
    """Without the preparation, positions have to be found and records to be read."""
    made = criterion("word_kd from a store")
    sample = made.batch(0, 1)
    del sample[PREPARED]
    with Waiting() as waiting:
        made.gradients(sample, train=True)
    assert {call.split()[0] for call in waiting.calls} >= {"nonzero", "tolist"}


@pytest.mark.parametrize("name", CRITERIONS)
def test_the_preparation_changes_nothing(criterion, name):
    made = criterion(name, "--dropout", "0", "--ignore-prefix-size", "1")
    sample = made.batch(0, 1, 2, 3)
    bare = {key: value for key, value in sample.items() if key != PREPARED}
    torch.manual_seed(5)
    with_it = made.gradients(sample)
    torch.manual_seed(5)
    assert torch.equal(made.gradients(bare), with_it)


def test_a_store_is_read_in_the_data_loader_alone(criterion, monkeypatch):
    made = criterion("word_kd from a store")
    sample = made.batch(0, 1, 2)
    monkeypatch.setattr(StoredSubset, "records", None)
    made.gradients(sample)


def test_parts_move_to_a_device_with_the_batch(criterion):
    sample = criterion("word_kd from a store").batch(0, 1)
    seen = []
    apply_to_sample(lambda tensor: seen.append(tensor) or tensor, sample)
    parts = sample[PREPARED]
    assert {id(parts["positions"]), *map(id, parts["records"].values())} <= set(map(id, seen))


def test_a_batch_that_was_padded_since_is_prepared_again(criterion):
    sample = criterion("word_kd").batch(0, 1)
    assert prepared(sample)
    sample["target"] = torch.nn.functional.pad(sample["target"], (0, 3), value=1)
    assert prepared(sample) == {}


def test_a_batch_of_another_number_of_tokens_since_is_prepared_again(criterion):
    made = criterion("word_kd")
    sample = made.batch(0, 1)
    sample["target"].fill_(made.task.target_dictionary.pad())
    sample["ntokens"] = 0
    assert prepared(sample) == {}


def test_a_store_of_other_tokens_is_refused_in_the_data_loader(criterion, data):
    made = criterion("word_kd from a store")
    sentences = [made.dataset[0], made.dataset[1]]
    sentences[1]["target"] = sentences[1]["target"].flip(0)
    with pytest.raises(ValueError, match="has no entry for sentence"):
        made.dataset.collater(sentences)


@pytest.mark.parametrize("more", [0, 1, 3])
def test_shifted_tokens_are_those_of_a_shifted_mask(more):
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    got = RealTokens.of_mask(mask).shifted(more)
    wide = torch.cat([torch.zeros(2, more, dtype=torch.bool), mask], -1)
    assert torch.equal(got.mask, wide)
    assert torch.equal(got.positions, RealTokens.of_mask(wide).positions)


def test_a_training_with_two_loader_processes_is_the_same(data, store, tmp_path):
    found = []
    for workers in ("0", "2"):
        flags = [*TRAINING, *STORED, "--kd-store", store, "--user-dir", "user_dir"]
        flags += ["--max-update", "3", "--num-workers", workers, "--save-dir", tmp_path / workers]
        lines = run("fairseq-train", data, *flags).stdout.splitlines()
        updates = [each for line in lines if (each := figures(line, of="train_inner"))]
        names = ("update", "loss", "nll_loss", "kd_loss", "gnorm")
        found.append([[update[name] for name in names] for update in updates])
    assert len(found[0]) == 3
    assert found[0] == found[1]
