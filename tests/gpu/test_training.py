"""fairseq-train on a GPU: every criterion and precision, resumed, validated and decoded."""

import json
import math
import re

import pytest
import torch
from every_criterion import filled
from harness import PAIR, run
from on_gpu import NEEDS_GPU, ON_GPU

from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.training_log import figures

pytestmark = NEEDS_GPU
LAST = "checkpoint_last.pt"
PRECISIONS = ["--fp16", "--memory-efficient-fp16", "--amp"]


def train(folder, save_dir, *flags):
    """The figures that fairseq-train prints of its updates and its validations."""
    command = ["fairseq-train", folder, *ON_GPU, "--user-dir", "user_dir", "--save-dir", save_dir]
    lines = run(*command, *flags).stdout.splitlines()
    kinds = ("train_inner", "valid")
    return [[each for line in lines if (each := figures(line, of=kind))] for kind in kinds]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_learns_and_goes_on_from_its_checkpoint(distillation, precision, tmp_path):
    folder, flags = distillation
    flags = [*flags, precision, "--fp16-init-scale", "4"]  # or the first updates are passed over
    inner, valid = train(folder, tmp_path, *flags, "--max-update", "16")
    assert inner[-1]["loss"] < 0.9 * inner[0]["loss"], json.dumps(inner)
    assert all(math.isfinite(value) for value in valid[-1].values()), valid[-1]
    state = read_checkpoint(tmp_path / LAST)
    assert {name.split(".")[0] for name in state["model"]} == {"encoder", "decoder"}
    more, _ = train(folder, tmp_path, *flags, "--max-update", "20")
    assert [each["update"] for each in more] == [17, 18, 19, 20]
    assert more[0]["loss"] < 0.95 * inner[0]["loss"]


def test_a_compiled_loss_learns_as_the_other_does(data, teacher, tmp_path):
    flags = [*filled("word_kd", TEACHER=teacher), "--fp16", "--max-update", "16"]
    flags += ["--kd-divergence", "tvd"]  # which the kernel does not compute
    flags += ["--kd-temperature-schedule", "linear", "--kd-temperature-final", "1"]
    plain, compiled = (
        train(data, tmp_path / name, *flags, *more, "--fp16-init-scale", "4")
        for name, more in (("plain", []), ("compiled", ["--kd-compile"]))
    )
    for ours, theirs in zip(compiled[0] + compiled[1], plain[0] + plain[1], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)


def test_a_frozen_shared_encoder_in_half_precision(data, teacher, tmp_path):
    flags = [*filled("word_kd", TEACHER=teacher), "--kd-share-encoder", "--fp16"]
    flags += ["--finetune-from-model", teacher]
    train(data, tmp_path, *flags, "--fp16-no-flatten-grads", "--max-update", "12")
    ours, theirs = (read_checkpoint(each)["model"] for each in (tmp_path / LAST, teacher))
    same = {name for name in ours if torch.equal(ours[name].half(), theirs[name].half())}
    assert {name for name in ours if name.startswith("encoder.")} <= same
    assert "decoder.layers.0.fc1.weight" not in same


@pytest.mark.parametrize("precision", [[], ["--fp16"]], ids=["float32", "fp16"])
def test_validate_moves_what_the_criterion_holds(data, large, tmp_path, precision):
    flags = filled("feature_kd", LARGE=large)
    _, valid = train(data, tmp_path, *flags, *precision, "--max-update", "4")
    command = ["fairseq-validate", data, "--user-dir", "user_dir", "--task", "translation"]
    command += ["--path", tmp_path / LAST, "--valid-subset", "valid"]
    message = run(*command, "--max-tokens", "1000", *precision).stdout
    assert math.isfinite(float(re.search(r"\bfeature_loss (\S+)", message)[1]))  # of untrained maps
    nll = float(re.search(r"\bnll_loss (\S+)", message)[1])
    assert nll == pytest.approx(valid[-1]["nll_loss"], rel=0.02)


def test_generate_reads_the_student_in_half_precision(data, teacher, tmp_path):
    train(data, tmp_path, *filled("word_kd", TEACHER=teacher), "--fp16", "--max-update", "4")
    command = ["fairseq-generate", data, "--path", tmp_path / LAST, *PAIR]
    out = run(*command, "--user-dir", "user_dir", "--gen-subset", "valid", "--fp16").stdout
    assert re.search("^H-", out, re.M)
