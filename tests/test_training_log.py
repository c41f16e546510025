"""Reading a log that a restart has continued."""

import json

import pytest

from fairseq_kd.training_log import figures, read_training_log


def line(kind, **message):
    return f"2026-11-23 | INFO | {kind} | {json.dumps(message)}"


def test_what_a_restart_repeated_counts_once_as_it_was_the_last_time(tmp_path):
    path = tmp_path / "train.log"
    lines = ["$ fairseq-train data --lr 1", line("train_inner", num_updates="10", loss="5.5")]
    lines += [line("valid", valid_num_updates="10", valid_nll_loss="7.5", valid_best_loss="1")]
    lines += ["$ fairseq-train data --lr 2", "no figures", line("train_inner", num_updates="8")]
    lines += [line("train_inner", num_updates="10", loss="5.25", wall="inf", clip="n/a")]
    lines += [line("valid", valid_num_updates="10", valid_nll_loss="7.25")]
    path.write_text("\n".join(lines) + "\n")
    log = read_training_log(path)
    assert log.command == "fairseq-train data --lr 2"
    assert log.training == [
        {"update": 8},
        {"update": 10, "loss": 5.25, "wall": float("inf")},
    ]
    assert log.validation == [{"update": 10, "nll_loss": 7.25}]


def test_a_training_is_finished_until_it_is_started_again(tmp_path):
    path = tmp_path / "train.log"
    lines = ["$ fairseq-train data", line("train_inner", num_updates="10", loss="5.5")]
    lines += ["2026-11-23 | INFO | fairseq_cli.train | done training in 3.2 seconds"]
    for text, finished in ((lines[:2], False), (lines, True), ([*lines, lines[0]], False)):
        path.write_text("\n".join(text) + "\n")
        assert read_training_log(path).finished == finished


def test_a_line_of_another_kind_has_no_figures():
    assert figures(line("valid", valid_loss="1"), of="train_inner") is None
    assert figures("2026-11-23 | INFO | valid | begin", of="valid") is None
    quoted = line("valid", valid_num_updates="3").replace("2026-11-23 | INFO", "reference: see")
    text = f"2026-11-23 | INFO | fairseq.tasks.translation | example {quoted}"
    assert figures(text, of="valid") is None
    assert figures(line("train_inner", loss="1"), of="train_inner") is None  # without updates


def test_a_line_that_was_cut_off_is_passed_over(tmp_path):
    path = tmp_path / "train.log"
    cut = line("train_inner", num_updates="20", loss="5.0")[:-9]
    whole = [line("train_inner", num_updates=number, loss="6.0") for number in ("10", "30")]
    path.write_text(f"{whole[0]}\n{cut}$ fairseq-train data --lr 2\n{whole[1]}\n")
    assert [each["update"] for each in read_training_log(path).training] == [10, 30]


@pytest.mark.parametrize(
    "record",
    [
        '{"num_updates": ' + "[" * 100_000,
        '{"num_updates": ' + "9" * 5000 + "}",
        '{"num_updates": ' + "9" * 400 + "}",
        '{"num_updates": "1e300", "loss": "nan"}',
        '{"num_updates": "-5"}',
        '{"num_updates": "nan"}',
        '{"num_updates": [], "loss": {}}',
    ],
)
def test_a_line_that_no_training_prints_is_passed_over(tmp_path, record):
    path = tmp_path / "train.log"
    whole = line("train_inner", num_updates="10", loss="6.0")
    path.write_text(f"{whole}\n2026-11-23 | INFO | train_inner | {record}\n")
    assert read_training_log(path).training == [{"update": 10, "loss": 6.0}]


def test_figures_without_the_number_of_updates_are_passed_over(tmp_path):
    path = tmp_path / "train.log"
    lines = [line("train_inner", loss="5.5"), line("valid", valid_num_updates="NaN")]
    path.write_text("\n".join([*lines, line("train_inner", num_updates="10", loss="5.5")]) + "\n")
    log = read_training_log(path)
    assert [each["update"] for each in log.training] == [10]
    assert log.validation == []
