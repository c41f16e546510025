"""Every mistake is refused before the first update, by one sentence that says what to do."""

import argparse
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from harness import SIZE, run

from fairseq_kd.checkpoints import read_checkpoint

WORD_KD = ["--criterion", "word_kd"]


def refuses(setup, message, *flags, error=ValueError):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        setup(*WORD_KD, *flags)


@pytest.fixture
def edited(teacher, tmp_path):
    """Writes a changed copy of the teacher, with its dictionaries beside it."""

    def edit(change, name="edited.pt"):
        state = read_checkpoint(teacher)
        for dictionary in Path(state["cfg"]["task"]["data"]).glob("dict.*.txt"):
            shutil.copy(dictionary, tmp_path)
        change(state)
        torch.save(state, tmp_path / name)
        return str(tmp_path / name)

    return edit


@pytest.mark.parametrize(
    "criterion",
    [["word_kd", "--kd-teacher", "nowhere.pt"], ["mutual_learning"]],
    ids=lambda w: w[0],
)
def test_bfloat16_that_fairseq_takes_for_a_tpu(setup, criterion):
    with pytest.raises(ValueError, match=r"^fairseq-train takes --bf16 and --tpu for a training"):
        setup("--criterion", *criterion, "--bf16")


def test_a_missing_teacher(setup):
    refuses(
        setup,
        "--kd-teacher nowhere.pt does not exist. Give the path of a fairseq checkpoint.",
        *["--kd-teacher", "nowhere.pt"],
        error=FileNotFoundError,
    )


def test_a_text_file_as_teacher(setup, tmp_path):
    path = tmp_path / "teacher.pt"
    path.write_text("no weights here\n")
    refuses(
        setup,
        f"--kd-teacher {path} is not a fairseq checkpoint: torch cannot read it.",
        *["--kd-teacher", path],
    )


def test_a_half_written_teacher(setup, teacher, tmp_path):
    path = tmp_path / "half.pt"
    whole = Path(teacher).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"^--kd-teacher {path} is not a fairseq checkpoint: "):
        setup(*WORD_KD, "--kd-teacher", path)


def test_a_torch_file_that_is_no_checkpoint(setup, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=f"^--kd-teacher {path} is not a fairseq checkpoint: "):
        setup(*WORD_KD, "--kd-teacher", path)


def test_a_checkpoint_without_a_model(setup, edited):
    path = edited(lambda state: state.pop("model"))
    refuses(
        setup,
        f"--kd-teacher {path} is not a fairseq checkpoint: it holds no 'model'.",
        *["--kd-teacher", path],
    )


class Intruder:
    """Would make a folder if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_checkpoint_that_carries_code_is_not_run(setup, tmp_path):
    path, proof = tmp_path / "teacher.pt", tmp_path / "proof"
    torch.save({"model": {}, "cfg": Intruder(proof)}, path)
    with pytest.raises(ValueError, match=r"holds a Python object besides weights, posix\.mkdir"):
        setup(*WORD_KD, "--kd-teacher", path)
    assert not proof.exists()


@pytest.mark.parametrize(
    "architecture", ["transformer_lm", "roberta_base", "levenshtein_transformer"]
)
def test_a_teacher_of_another_family(setup, edited, architecture):
    def rename(state):
        state["cfg"]["model"] = argparse.Namespace(arch=architecture, _name=architecture)

    path = edited(rename)
    refuses(
        setup,
        f"--kd-teacher {path} has the architecture '{architecture}', but must be an "
        "autoregressive encoder-decoder, such as transformer, lstm or fconv, which gives one "
        "distribution for each target token.",
        *["--kd-teacher", path],
    )


@pytest.mark.parametrize("part", ["architecture", "task"])
def test_a_teacher_of_an_unknown_plugin(setup, edited, part):
    def rename(state):
        if part == "task":
            state["cfg"]["task"]["_name"] = "homemade"
        else:
            state["cfg"]["model"] = argparse.Namespace(arch="homemade", _name="homemade")

    path = edited(rename)
    refuses(
        setup,
        f"--kd-teacher {path} was trained with the {part} 'homemade', which fairseq does not know. "
        "Import the plugin that registers it in your --user-dir, beside fairseq_kd.plugin.",
        *["--kd-teacher", path],
    )


def test_a_teacher_with_an_adaptive_softmax(setup, data, tmp_path):
    adaptive = ["--adaptive-softmax-cutoff", "50,100", "--no-save-optimizer-state"]
    adaptive += ["--ddp-backend", "legacy_ddp"]  # fairseq's adaptive_loss asks for it
    path = setup("--criterion", "adaptive_loss", *adaptive).save(tmp_path / "adaptive.pt")
    refuses(
        setup,
        f"--kd-teacher {path} uses an adaptive softmax, which gives no logits to distil from. "
        "Train the teacher without --adaptive-softmax-cutoff.",
        *["--kd-teacher", path],
    )


def test_a_student_with_an_adaptive_softmax(setup, teacher):
    student = setup(*WORD_KD, "--adaptive-softmax-cutoff", "50,100", "--kd-teacher", teacher)
    message = (
        "The student has an adaptive softmax, which gives no logits to compare with another "
        "model's. Train without --adaptive-softmax-cutoff."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        student.criterion(student.model, student.batch(0))


def test_a_swapped_language_pair(setup, teacher):
    refuses(
        setup,
        f"--kd-teacher {teacher} translates es-en, but the student learns en-es (the pair is "
        "swapped). Give a teacher of the same direction, or change --source-lang and "
        "--target-lang.",
        *["--source-lang", "en", "--target-lang", "es", "--kd-teacher", teacher],
    )


def test_dictionaries_that_differ(setup, teacher, tmp_path):
    data = Path(read_checkpoint(teacher)["cfg"]["task"]["data"])
    path = shutil.copy(teacher, tmp_path / "teacher.pt")
    lines = (data / "dict.es.txt").read_text(encoding="utf-8").splitlines()
    ours = lines[8].split(" ")[0]
    lines[8] = "über 7"
    for lang in ("es", "en"):
        (tmp_path / f"dict.{lang}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    refuses(
        setup,  # four special symbols precede the first line
        f"The source dictionaries of --kd-teacher {path} and {data} differ at index 12: "
        f'"über" against "{ours}". Binarise the data with --srcdict and the '
        "teacher's dict.es.txt.",
        *["--kd-teacher", path],
    )


def test_dictionaries_of_another_length(setup, teacher, tmp_path):
    data = Path(read_checkpoint(teacher)["cfg"]["task"]["data"])
    path = shutil.copy(teacher, tmp_path / "teacher.pt")
    for lang in ("es", "en"):
        lines = (data / f"dict.{lang}.txt").read_text(encoding="utf-8").splitlines()
        (tmp_path / f"dict.{lang}.txt").write_text("\n".join(lines[:-9]) + "\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=f"does not fit the dictionaries in {tmp_path}: .*size mismatch"
    ):
        setup(*WORD_KD, "--kd-teacher", path)


def test_dictionaries_that_are_nowhere(setup, edited, tmp_path):
    def move(state):
        state["cfg"]["task"]["data"] = "moved-away"

    path = edited(move)
    (tmp_path / "dict.en.txt").unlink()
    refuses(
        setup,
        f"The dictionaries dict.es.txt and dict.en.txt of --kd-teacher {path} are neither beside "
        "it nor in moved-away, the data folder that it was trained on. Copy them into "
        f"{tmp_path}.",
        *["--kd-teacher", path],
        error=FileNotFoundError,
    )


def test_a_teacher_of_no_language_pair(setup, edited):
    def forget(state):
        state["cfg"]["task"]["source_lang"] = None
        state["cfg"]["task"]["data"] = "moved-away"

    path = edited(forget)
    refuses(
        setup,
        f"--kd-teacher {path} does not tell its language pair, and no data of one are in "
        "moved-away, which it was trained on. Put that folder back, or give a teacher that was "
        "trained with --source-lang and --target-lang.",
        *["--kd-teacher", path],
    )


def test_a_teacher_that_inferred_its_language_pair_teaches(setup, edited):
    def forget(state):
        state["cfg"]["task"]["source_lang"] = state["cfg"]["task"]["target_lang"] = None

    distilling = setup(*WORD_KD, "--kd-teacher", edited(forget))
    assert distilling.criterion(distilling.model, distilling.batch(0))[2]["kd_loss"] > 0


@pytest.mark.parametrize("flag", ["--kd-alpha", "--kd-beta"])
@pytest.mark.parametrize("weight", ["-0.1", "nan", "inf"])
def test_weights_out_of_range(setup, teacher, flag, weight):
    message = f"{flag} must be 0 or greater, but is {float(weight)}."
    refuses(setup, message, "--kd-teacher", teacher, f"{flag}={weight}")


def test_nothing_to_learn(setup):
    refuses(
        setup,
        "--kd-alpha and --kd-beta are both 0, which leaves nothing to learn. Set one above 0.",
        *["--kd-alpha", "0", "--kd-beta", "0"],
    )


@pytest.mark.parametrize("flag", ["--kd-temperature", "--kd-temperature-final"])
@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan"])
def test_temperature_out_of_range(setup, teacher, flag, value):
    message = f"{flag} must be greater than 0, but is {float(value)}."
    schedule = ["--kd-temperature-schedule", "linear", "--kd-teacher", teacher]
    refuses(setup, message, *schedule, f"{flag}={value}")


def test_distillation_without_a_teacher(setup):
    refuses(
        setup,
        "--kd-alpha is 0.8, but there is no teacher. Give its checkpoint by --kd-teacher or its "
        "store by --kd-store, or set --kd-alpha 0 --kd-beta 1 to train without distillation.",
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--kd-teacher", "teacher.pt"),
        ("--kd-temperature", "2.0"),
        ("--kd-temperature-schedule", "cosine"),
        ("--kd-temperature-final", "2.0"),
        ("--kd-temperature-updates", "100"),
    ],
)
def test_flags_without_effect_while_alpha_is_0(setup, flag, value):
    refuses(
        setup,
        f"{flag} is {value}, but has no effect while --kd-alpha is 0. Leave it out, or set "
        "--kd-alpha above 0.",
        *["--kd-alpha", "0", "--kd-beta", "1", flag, value],
    )


@pytest.mark.parametrize(
    ("flag", "value"), [("--kd-temperature-final", "2.0"), ("--kd-temperature-updates", "100")]
)
def test_flags_without_effect_on_a_constant_temperature(setup, teacher, flag, value):
    refuses(
        setup,
        f"{flag} is {value}, but has no effect with --kd-temperature-schedule constant. Leave it "
        "out, or choose another schedule.",
        *["--kd-teacher", teacher, flag, value],
    )


def test_an_unknown_schedule(setup, teacher):
    refuses(
        setup,
        "--kd-temperature-schedule must be one of constant, exponential, linear, cosine, loss, but "
        "is quadratic.",
        *["--kd-teacher", teacher, "--kd-temperature-schedule", "quadratic"],
    )


def test_a_schedule_without_an_end(setup, teacher):
    refuses(
        setup,
        "--kd-temperature-schedule cosine must know how many updates it lasts, but that is 0. Set "
        "--kd-temperature-updates or --max-update to a number above 0.",
        *["--kd-teacher", teacher, "--kd-temperature-schedule", "cosine"],
    )


@pytest.mark.parametrize(
    ("flag", "choices"),
    [
        ("--kd-divergence", "forward_kl, reverse_kl, jeffreys, js, tvd"),
        ("--kd-weight-schedule", "constant, exponential, linear, cosine, loss"),
        ("--kd-token-temperature", "uniform, confidence"),
        ("--kd-teacher-dtype", "student, float32, bfloat16, float16"),
    ],
)
def test_an_unknown_choice(setup, teacher, flag, choices):
    message = f"{flag} must be one of {choices}, but is other."
    refuses(setup, message, "--kd-teacher", teacher, flag, "other")


def test_a_negative_chunk(setup, teacher):
    message = "--kd-chunk-tokens must be 0 or greater, but is -1."
    refuses(setup, message, "--kd-teacher", teacher, "--kd-chunk-tokens=-1")


@pytest.mark.parametrize("flag", ["--kd-alpha-final", "--kd-beta-final"])
def test_final_weights_without_a_schedule(setup, teacher, flag):
    refuses(
        setup,
        f"{flag} is 0.5, but has no effect with --kd-weight-schedule constant. Leave it out, or "
        "choose another schedule.",
        *["--kd-teacher", teacher, flag, "0.5"],
    )


def test_a_weight_schedule_that_leads_nowhere(setup, teacher):
    refuses(
        setup,
        "--kd-weight-schedule is linear, but neither --kd-alpha-final nor --kd-beta-final says "
        "where the weights go. Set one or both.",
        *["--kd-teacher", teacher, "--kd-weight-schedule", "linear", "--max-update", "9"],
    )


def test_an_exponential_weight_that_starts_or_ends_at_0(setup, teacher):
    refuses(
        setup,
        "--kd-weight-schedule exponential cannot go from 0.8 to 0.0 by --kd-alpha: both must be "
        "above 0. Choose linear or cosine.",
        *["--kd-teacher", teacher, "--kd-weight-schedule", "exponential", "--kd-alpha-final", "0"],
        *["--max-update", "9"],
    )


@pytest.mark.parametrize("kind", ["temperature", "weight"])
def test_a_number_of_updates_for_a_schedule_that_follows_the_gap(setup, teacher, kind):
    final = ["--kd-alpha-final", "0.1"] if kind == "weight" else []
    refuses(
        setup,
        f"--kd-{kind}-updates is 9, but has no effect with --kd-{kind}-schedule loss. Leave it "
        "out, or choose another schedule.",
        *["--kd-teacher", teacher, f"--kd-{kind}-schedule", "loss", f"--kd-{kind}-updates", "9"],
        *final,
    )


def test_a_refusal_stops_fairseq_train_before_it_writes_anything(data, tmp_path):
    flags = ["--user-dir", "user_dir", *WORD_KD, "--kd-teacher", "nowhere.pt", *SIZE]
    result = run(
        *["fairseq-train", data, *flags, "--optimizer", "adam", "--max-tokens", "500", "--cpu"],
        *["--save-dir", tmp_path / "student"],
        check=False,
    )
    assert result.returncode != 0
    assert "FileNotFoundError: --kd-teacher nowhere.pt does not exist." in result.stderr
    assert not list((tmp_path / "student").glob("*.pt"))


def test_an_unknown_gate_and_one_without_effect(setup, teacher):
    refuses(
        setup,
        "--kd-gate must be one of off, probability, but is sigmoid.",
        *["--kd-teacher", teacher, "--kd-gate", "sigmoid"],
    )
    refuses(
        setup,
        "--kd-gate is probability, but has no effect while --kd-alpha is 0. Leave it out, or set "
        "--kd-alpha above 0.",
        *["--kd-alpha", "0", "--kd-beta", "1", "--kd-gate", "probability"],
    )
