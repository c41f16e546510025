"""word_kd in real fairseq processes: every command, every way to start it, one and two workers."""

import functools
import json
import re
import shutil

import pytest
import torch
from forks import run_forked, run_new
from harness import PAIR, ROOT, TRAINING, USER_DIR, run
from trained import train_on_two_workers

from fairseq_kd import cli
from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.training_log import figures

SMOOTHED = ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"]
DISTIL = ["--criterion", "word_kd", "--label-smoothing", "0.1", "--kd-teacher"]
KD_FIGURES = ("loss", "nll_loss", "ppl", "kd_loss", "temperature", "agreement", "teacher_entropy")
GENERATION = [*PAIR, "--gen-subset", "valid", "--beam", "2", "--batch-size", "40", "--cpu"]
GENERATION += ["--remove-bpe", "--tokenizer", "moses"]
# fairseq drops the last batch of a set if it does not hold a multiple of eight sentences
GENERATION += ["--required-batch-size-multiple", "1"]


def train(data, save_dir, *flags, user_dir="user_dir", start=run_forked):
    """The lines that fairseq-train prints."""
    command = ["fairseq-train", data, *TRAINING, "--user-dir", user_dir, "--save-dir", save_dir]
    return start(*command, *flags).stdout.splitlines()


def of_kind(lines, kind):
    return [found for line in lines if (found := figures(line, of=kind)) is not None]


def losses(lines):
    """The losses that a training printed, for exact comparison."""
    kept = [*of_kind(lines, "train_inner"), *of_kind(lines, "valid")]
    return [{k: v for k, v in each.items() if "loss" in k or "ppl" in k} for each in kept]


def weights(path):
    return torch.cat([p.flatten() for p in read_checkpoint(path)["model"].values()])


@pytest.fixture(scope="module")
def student(data, teacher, tmp_path_factory):
    """A distilled checkpoint of twelve updates, and the output of its training."""
    folder = tmp_path_factory.mktemp("student")
    lines = train(data, folder, *DISTIL, teacher, "--max-update", "12", start=run_new)
    return folder / "checkpoint_last.pt", lines


def test_the_log_shows_every_figure_in_training_and_validation(student):
    _, lines = student
    training, validation = of_kind(lines, "train_inner"), of_kind(lines, "valid")
    assert len(training) == 12
    for name in KD_FIGURES:
        assert all(name in each for each in training), name
        assert all(name in each for each in validation), name
    assert {each["temperature"] for each in training} == {4}
    assert training[-1]["kd_loss"] < training[0]["kd_loss"]


def test_no_teacher_in_the_checkpoint(student, teacher):
    state = read_checkpoint(student[0])
    assert sum("teacher" in key for key in state["model"]) == 0
    assert state["criterion"] is None
    assert state["model"].keys() == read_checkpoint(teacher)["model"].keys()


def test_alpha_0_logs_fairseqs_losses_digit_for_digit(data, tmp_path):
    plain = train(data, tmp_path / "plain", *SMOOTHED, "--max-update", "6")
    ours = [*DISTIL[:-1], "--kd-alpha", "0", "--kd-beta", "1"]
    distilled = train(data, tmp_path / "ours", *ours, "--max-update", "6")
    assert losses(distilled) == losses(plain)
    assert len(losses(plain)) >= 7


def test_absolute_user_dir_from_another_folder_without_the_package(data, teacher, tmp_path):
    shutil.copytree(USER_DIR, tmp_path / "clone" / "user_dir")
    shutil.copytree(ROOT / "fairseq_kd", tmp_path / "clone" / "fairseq_kd")
    flags = [*DISTIL, teacher, "--max-update", "2"]
    user_dir = tmp_path / "clone" / "user_dir"
    elsewhere = functools.partial(run, cwd=tmp_path)
    lines = train(data, tmp_path / "student", *flags, user_dir=user_dir, start=elsewhere)
    assert len(of_kind(lines, "train_inner")) == 2


@pytest.mark.parametrize("shape", ["cosine", "loss"])
def test_a_resumed_training_ends_with_the_same_parameters(data, teacher, tmp_path, shape):
    schedule = ["--kd-temperature-schedule", shape, "--max-update", "12"]
    schedule += ["--kd-weight-schedule", shape, "--kd-alpha-final", "0.3"]
    whole = tmp_path / "whole"
    train(data, whole, *DISTIL, teacher, *schedule, "--save-interval-updates", "5")
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(whole / "checkpoint_1_5.pt", resumed / "checkpoint_last.pt")
    lines = train(data, resumed, *DISTIL, teacher, *schedule)
    assert of_kind(lines, "train_inner")[0]["update"] == 6
    logged = of_kind(lines, "train_inner")
    assert len({each["temperature"] for each in logged}) == len({each["alpha"] for each in logged})
    assert len({each["temperature"] for each in logged}) > 1
    got, want = (weights(folder / "checkpoint_last.pt") for folder in (resumed, whole))
    assert torch.equal(got, want)


def test_a_resumed_training_ends_alike_in_a_later_epoch_too(data, teacher, tmp_path):
    """Left alone, fairseq cuts other batches after a restart in any epoch but the first."""
    flags = [*DISTIL, teacher, "--max-update", "24", "--update-epoch-batch-itr", "True"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(data, whole, *flags, "--save-interval-updates", "20")
    resumed.mkdir()
    shutil.copy(whole / "checkpoint_2_20.pt", resumed / "checkpoint_last.pt")
    train(data, resumed, *flags)
    got, want = (weights(folder / "checkpoint_last.pt") for folder in (resumed, whole))
    assert torch.equal(got, want)


def test_two_workers_equal_one_with_two_batches_an_update(data, teacher, tmp_path):
    flags = [*DISTIL, teacher, "--max-update", "20", "--dropout", "0"]
    flags += ["--kd-temperature-schedule", "loss"]  # what it follows is summed over the workers
    train(data, tmp_path / "one", *flags, "--update-freq", "2")
    train_on_two_workers(data, tmp_path / "two", *flags, port=29613)
    one, two = (weights(tmp_path / name / "checkpoint_last.pt") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)  # float32, sums in another order


def test_generate_interactive_and_validate_read_the_student(student, data, prepared, teacher):
    checkpoint, _ = student
    plugin = ["--user-dir", "user_dir", "--path", checkpoint]
    generated = run_new("fairseq-generate", data, *plugin, *GENERATION).stdout
    assert len(re.findall("^D-", generated, re.M)) == 40 - dropped(prepared)
    source = prepared / "bpe" / "valid.es"
    typed = ["--input", source, "--buffer-size", "50", "--batch-size", "40", *PAIR, "--beam", "2"]
    interactive = run_forked("fairseq-interactive", data, *plugin, *typed, "--cpu").stdout
    assert hypotheses(interactive) == hypotheses(generated)
    validation = ["--task", "translation", "--valid-subset", "valid", "--batch-size", "40", "--cpu"]
    validated = run_forked("fairseq-validate", data, *plugin, *validation).stdout
    assert "kd_loss" in validated


def dropped(prepared):
    """How many of the forty validation pairs were too long."""
    return 40 - len((prepared / "text" / "valid.en").read_text(encoding="utf-8").splitlines())


def hypotheses(output):
    found = re.findall(r"^H-(\d+)\t\S+\t(.*)$", output, re.M)
    in_order = sorted(found, key=lambda each: int(each[0]))
    return [f"{text} ".replace("@@ ", "").rstrip() for _, text in in_order]


def test_generate_reads_the_student_without_the_plugin(student, data):
    """Where torch is told to unpickle what fairseq wrote, as it did by itself before 2.6."""
    allowed = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    command = ["fairseq-generate", data, "--path", student[0], *GENERATION]
    without = run_new(*command, env=allowed).stdout
    with_plugin = run_forked(*command, "--user-dir", "user_dir").stdout
    pattern = re.compile(r"^D-(\d+)\t\S+\t(.*)$", re.M)
    found = [sorted(pattern.findall(output)) for output in (without, with_plugin)]
    assert found[0] == found[1] != []


def test_validation_bleu_is_the_students(data, teacher, tmp_path):
    """A teacher that shared the student's task would be the one that is measured."""
    bleu = ["--eval-bleu", "--eval-bleu-args", '{"beam": 2}', "--eval-bleu-remove-bpe"]
    bleu += ["--eval-bleu-print-samples", "--max-update", "2", "--dropout", "0"]
    lines = train(data, tmp_path / "student", *DISTIL, teacher, *bleu)
    message = of_kind(lines, "valid")[-1]["bleu"]
    plugin = ["--user-dir", "user_dir", "--path", tmp_path / "student" / "checkpoint_last.pt"]
    generation = [*PAIR, "--gen-subset", "valid", "--beam", "2", "--batch-size", "8", "--cpu"]
    scoring = ["--remove-bpe", "--scoring", "sacrebleu", "--sacrebleu-tokenizer", "none"]
    measured = [
        run_forked("fairseq-generate", data, *path, *generation, *scoring).stdout
        for path in (plugin, [*plugin[:3], teacher])
    ]
    students, teachers = (float(re.search(r"BLEU = ([\d.]+)", text)[1]) for text in measured)
    assert message == pytest.approx(students, abs=0.01)
    assert message != pytest.approx(teachers, abs=0.01)


def test_hydra_train_distils_and_its_student_converts(data, teacher, tmp_path):
    config = {
        "common": {"user_dir": USER_DIR, "cpu": True, "log_format": "json", "log_interval": 1},
        "task": {"_name": "translation", "data": data, "source_lang": "es", "target_lang": "en"},
        "model": {"_name": "transformer_kd_small_student", "share_all_embeddings": True},
        "criterion": {"_name": "word_kd", "label_smoothing": 0.1, "kd_teacher": teacher},
        "optimizer": {"_name": "adam", "lr": [0.003]},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"max_update": 2, "lr": [0.003]},
        "dataset": {"max_tokens": 1000},
        "checkpoint": {"save_dir": str(tmp_path / "student"), "no_epoch_checkpoints": True},
    }
    (tmp_path / "distil.yaml").write_text(json.dumps(config))  # JSON is YAML
    named = ["--config-dir", tmp_path, "--config-name", "distil"]
    output = run("fairseq-hydra-train", *named, f"hydra.run.dir={tmp_path}").stdout
    assert "kd_loss" in output
    student = tmp_path / "student" / "checkpoint_last.pt"
    assert read_checkpoint(student)["optimizer_history"][-1]["num_updates"] == 2
    words = ["translate", "--teacher", student, "--data", data, "--subset", "valid", "--beam", "1"]
    words += ["--engine", "ctranslate2", "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    assert cli.main([str(word) for word in words]) == 0
