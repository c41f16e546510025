"""A flag out of range or without effect is refused before the first update, by one sentence."""

import pytest
from forks import run_new
from harness import SIZE
from refusals import WORD_KD, refuses


@pytest.mark.parametrize(
    "criterion",
    [["word_kd", "--kd-teacher", "nowhere.pt"], ["mutual_learning"]],
    ids=lambda w: w[0],
)
def test_bfloat16_that_fairseq_takes_for_a_tpu_is_refused(setup, criterion):
    with pytest.raises(ValueError, match=r"^fairseq-train takes --bf16 and --tpu for a training"):
        setup("--criterion", *criterion, "--bf16")


@pytest.mark.parametrize("flag", ["--kd-alpha", "--kd-beta"])
@pytest.mark.parametrize("weight", ["-0.1", "nan", "inf", "1e-40", "1e38"])
def test_loss_weights_out_of_range_are_refused(setup, teacher, flag, weight):
    message = f"{flag} must be 0 or a number from 1e-12 to 1,000,000, but is {float(weight)}."
    refuses(setup, message, "--kd-teacher", teacher, f"{flag}={weight}")


def test_alpha_and_beta_of_0_are_refused(setup):
    refuses(
        setup,
        "--kd-alpha and --kd-beta are both 0, so there is no loss. Set one above 0.",
        *["--kd-alpha", "0", "--kd-beta", "0"],
    )


@pytest.mark.parametrize("flag", ["--kd-temperature", "--kd-temperature-final"])
@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "1e-40", "1e300"])
def test_a_temperature_out_of_range_is_refused(setup, teacher, flag, value):
    message = f"{flag} must be a number from 0.01 to 100, but is {float(value)}."
    schedule = ["--kd-temperature-schedule", "linear", "--kd-teacher", teacher]
    refuses(setup, message, *schedule, f"{flag}={value}")


def test_an_empty_path_beside_a_teacher_is_refused(setup, teacher):
    refuses(
        setup,
        f"{teacher}: has nothing before or after a :, which separates teachers. Leave the : out, "
        "or give a path there.",
        *["--kd-teacher", f"{teacher}:"],
    )


def test_a_store_that_is_a_file_is_refused(setup, teacher):
    message = f"{teacher} must be the folder of a store, but is a file. Give a folder that fairseq-"
    with pytest.raises(FileNotFoundError, match=message):
        setup("--criterion", "word_kd", "--kd-store", teacher)


def test_distillation_without_a_teacher_is_refused(setup):
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
def test_flags_without_effect_while_alpha_is_0_are_refused(setup, flag, value):
    refuses(
        setup,
        f"{flag} is {value}, but has no effect while --kd-alpha is 0. Leave it out, or set "
        "--kd-alpha above 0.",
        *["--kd-alpha", "0", "--kd-beta", "1", flag, value],
    )


@pytest.mark.parametrize(
    ("flag", "value"), [("--kd-temperature-final", "2.0"), ("--kd-temperature-updates", "100")]
)
def test_flags_without_effect_on_a_constant_temperature_are_refused(setup, teacher, flag, value):
    refuses(
        setup,
        f"{flag} is {value}, but has no effect with --kd-temperature-schedule constant. Leave it "
        "out, or choose another schedule.",
        *["--kd-teacher", teacher, flag, value],
    )


def test_an_unknown_schedule_is_refused(setup, teacher):
    refuses(
        setup,
        "--kd-temperature-schedule must be one of constant, exponential, linear, cosine, loss, but "
        "is quadratic.",
        *["--kd-teacher", teacher, "--kd-temperature-schedule", "quadratic"],
    )


def test_a_schedule_without_an_end_is_refused(setup, teacher):
    refuses(
        setup,
        "--kd-temperature-schedule cosine needs the number of its updates, but that is 0. Set "
        "--kd-temperature-updates or --max-update to a number above 0.",
        *["--kd-teacher", teacher, "--kd-temperature-schedule", "cosine"],
    )


@pytest.mark.parametrize(
    ("flag", "choices"),
    [
        (
            "--kd-divergence",
            "forward_kl, reverse_kl, jeffreys, js, tvd, skew_kl, skew_reverse_kl, todi",
        ),
        ("--kd-weight-schedule", "constant, exponential, linear, cosine, loss"),
        ("--kd-token-temperature", "uniform, confidence"),
        ("--kd-teacher-dtype", "student, float32, bfloat16, float16"),
    ],
)
def test_an_unknown_choice_is_refused(setup, teacher, flag, choices):
    message = f"{flag} must be one of {choices}, but is other."
    refuses(setup, message, "--kd-teacher", teacher, flag, "other")


def test_temperatures_of_tokens_between_1_and_1_are_refused(setup, teacher):
    flags = ["--kd-teacher", teacher, "--kd-token-temperature", "confidence"]
    refuses(
        setup,
        "--kd-token-temperature confidence has no effect at --kd-temperature 1, because each "
        "token's temperature lies between 1 and T. Leave it out, or raise T.",
        *[*flags, "--kd-temperature", "1"],
    )
    falling = ["--kd-temperature-schedule", "linear", "--kd-temperature-final", "1"]
    assert setup(*WORD_KD, *flags, *falling, "--kd-temperature-updates", "9").criterion.distils


def test_a_negative_chunk_is_refused(setup, teacher):
    message = "--kd-chunk-tokens must be a whole number from 0 to 1,000,000,000, but is -1."
    refuses(setup, message, "--kd-teacher", teacher, "--kd-chunk-tokens=-1")


@pytest.mark.parametrize("flag", ["--kd-alpha-final", "--kd-beta-final"])
def test_final_weights_without_a_schedule_are_refused(setup, teacher, flag):
    refuses(
        setup,
        f"{flag} is 0.5, but has no effect with --kd-weight-schedule constant. Leave it out, or "
        "choose another schedule.",
        *["--kd-teacher", teacher, flag, "0.5"],
    )


def test_a_weight_schedule_without_final_weights_is_refused(setup, teacher):
    refuses(
        setup,
        "--kd-weight-schedule is linear, but neither --kd-alpha-final nor --kd-beta-final is "
        "set. Set one or both.",
        *["--kd-teacher", teacher, "--kd-weight-schedule", "linear", "--max-update", "9"],
    )


def test_an_exponential_weight_that_starts_or_ends_at_0_is_refused(setup, teacher):
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
    result = run_new(
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
