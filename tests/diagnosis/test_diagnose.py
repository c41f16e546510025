"""Real trainings that failed in known ways are named, and healthy ones are not.

The logs were made by runs.sh and recorded by record.py, both beside this file.
"""

import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest
from harness import ROOT, run

from fairseq_kd import cli
from fairseq_kd.diagnosis.findings import findings
from fairseq_kd.diagnosis.training_run import find_training_runs
from fairseq_kd.term_weights import TERM_WEIGHTS
from fairseq_kd.training_log import arguments_of, flags_of

HERE = Path(__file__).parent
LOGS = HERE / "logs"
FAILED = {  # how each run failed, all of it
    "rate_too_high": {"blow-up", "learning rate", "collapse to one token"},
    "temperature_50": {"temperature"},
    "random_teacher": {"untrained teacher", "collapse to one token"},
    "tiny_student": {"capacity gap"},
    "rate_too_low": {"slow progress", "collapse to one token"},
    "over_fitted": {"over-fitting"},
    "dominated": {"dominant term"},
    "host_memory": {"out of memory"},
    "killed": {"killed process"},
    "worker_killed": {"killed process"},
    "raised": {"exception"},
    "unknown_flag": {"failure"},
    "plain_format": {"no figures"},
}
HEALTHY = ("teacher", "intermediate", "student", "control", "healthy_t4")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder without runs, lest the logs' teachers be looked up in those that are here."""
    monkeypatch.chdir(tmp_path)


def named(folder):
    (training,) = find_training_runs(folder)
    return {finding.name: finding for finding in findings(training)}


def test_every_recorded_run_is_diagnosed():
    assert {path.name for path in LOGS.iterdir()} == {*FAILED, *HEALTHY}
    for path in LOGS.glob("*/train.log"):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        script = re.search(r"made by ([^\s;]+)", first)[1]
        assert (ROOT / script).is_file()


@pytest.mark.parametrize("name", FAILED)
def test_a_failed_run_is_named(name):
    found = named(LOGS / name)
    assert set(found) == FAILED[name]
    for finding in found.values():
        assert re.search(r"\d", finding.evidence)
        assert finding.advice_text.endswith(".")


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_passed_over_at_every_moment(name, tmp_path):
    lines = (LOGS / name / "train.log").read_text(encoding="utf-8").splitlines()
    places = [i for i, line in enumerate(lines) if "| train_inner | {" in line]
    shutil.copytree(LOGS / "teacher", tmp_path / "teacher")
    (tmp_path / name).mkdir(exist_ok=True)
    for end in places:
        (tmp_path / name / "train.log").write_text("\n".join(lines[: end + 1]), encoding="utf-8")
        assert named(tmp_path / name) == {}, lines[end]


@pytest.mark.parametrize("name", ["rate_too_high", "rate_too_low", "over_fitted"])
def test_the_loss_is_used_where_cross_entropy_logs_no_nll_loss(name, tmp_path):
    text = (LOGS / name / "train.log").read_text(encoding="utf-8")
    text = re.sub(r'"\w*(?<!nll_)loss": "[^"]*", ', "", text)
    text = re.sub(r'"(\w*_)?nll_loss": ', lambda key: key[0].replace("nll_", ""), text)
    assert 'nll_loss":' not in text
    (tmp_path / "train.log").write_text(text, encoding="utf-8")
    assert set(named(tmp_path)) == FAILED[name] - {"collapse to one token"}


def test_a_log_without_readable_figures_of_the_student_gives_none_of_its_own(tmp_path):
    text = (LOGS / "tiny_student" / "train.log").read_text(encoding="utf-8")
    text = re.sub(r'"nll_loss": "[^"]*"', '"nll_loss": "?"', text)
    (tmp_path / "train.log").write_text(text, encoding="utf-8")
    evidence = " ".join(each.evidence for each in named(tmp_path).values())
    assert "nll_loss is" not in evidence
    assert "learning rate was 0" not in evidence


@pytest.mark.parametrize("name", ["rate_too_low", "tiny_student", *HEALTHY])
def test_without_a_number_of_updates_slow_progress_is_found_at_the_end(name, tmp_path):
    shutil.copytree(LOGS / "teacher", tmp_path / "teacher")
    (tmp_path / name).mkdir(exist_ok=True)
    text = (LOGS / name / "train.log").read_text(encoding="utf-8")
    text = re.sub(r"--max-update \d+", "--max-epoch 9", text)
    lines = text.splitlines()
    places = [i for i, line in enumerate(lines) if "| train_inner | {" in line]
    for end in places:
        (tmp_path / name / "train.log").write_text("\n".join(lines[: end + 1]), encoding="utf-8")
        assert named(tmp_path / name) == {}, lines[end]
    done = "2026-11-24 12:12:04 | INFO | fairseq_cli.train | done training in 120.1 seconds"
    (tmp_path / name / "train.log").write_text(f"{text}{done}\n", encoding="utf-8")
    found = FAILED.get(name, set()) - {"collapse to one token"}
    assert set(named(tmp_path / name)) == found


def test_the_evidence_has_the_figures_of_the_log():
    log = (LOGS / "tiny_student" / "train.log").read_text(encoding="utf-8")
    last = json.loads(re.findall(r"\| train_inner \| (\{.*\})", log)[-1])
    gap = named(LOGS / "tiny_student")["capacity gap"]
    assert re.search(r"is 3[0-2] % in the last third of the updates, and was 2\d %", gap.evidence)
    assert 29 < float(last["agreement"]) < 34
    assert "The teacher's nll_loss is 2.5 bits lower." in gap.evidence
    fitted = named(LOGS / "over_fitted")["over-fitting"]
    validated = re.findall(
        r'"test_nll_loss": "([\d.]+)"', (LOGS / "over_fitted/train.log").read_text()
    )
    assert f"to {float(validated[-1]):.2f} at" in fitted.evidence
    assert f"from {min(map(float, validated)):.2f} at" in fitted.evidence
    hot = named(LOGS / "temperature_50")["temperature"]
    assert hot.evidence.startswith(
        "at temperature 50 the teacher's entropy is 11.99 of at most 11.99"
    )


@pytest.mark.parametrize("name", FAILED)
def test_no_advice_contradicts_another(name):
    advice = [each for finding in named(LOGS / name).values() for each in finding.advice]
    directions = {(each.flag, each.more) for each in advice if each.flag}
    assert len(directions) == len({flag for flag, _ in directions})


def test_a_rate_that_is_too_low_is_not_to_be_lowered_for_what_follows_from_it():
    found = named(LOGS / "rate_too_low")
    assert found["slow progress"].advice_text.startswith("a higher --lr ")
    assert found["collapse to one token"].advice_text == (
        "more --kd-beta and less --kd-alpha; a lower --kd-temperature; check the translations of "
        "the teacher itself."
    )


def test_the_weight_that_is_advised_balances_the_terms():
    advice = named(LOGS / "dominated")["dominant term"].advice_text
    weight = float(re.match(r"--kd-feature-weight (\S+) or less,", advice)[1])
    assert 0.1 <= weight <= 2  # the run's term of 7.5 against a rest of about 5 bits


def test_a_weight_that_is_scheduled_counts_as_it_is_at_the_end(tmp_path):
    record = {"num_updates": "90", "loss": "3.65", "nll_loss": "3.0", "kd_loss": "5"}
    record |= {"alpha": "0.1", "beta": "0.9", "agreement": "60"}
    command = "$ fairseq-train data --kd-alpha 0.9 --kd-alpha-final 0.1 --max-update 100"
    line = f"2026-11-23 | INFO | train_inner | {json.dumps(record)}"
    (tmp_path / "train.log").write_text(f"{command}\n{line}\n", encoding="utf-8")
    assert named(tmp_path) == {}


@pytest.mark.parametrize("term", ["feature", "attention", "align"])
def test_a_term_that_dominates_is_found_with_its_default_weight(term, tmp_path):
    weight = {"feature": 0.1, "attention": 0.05, "align": 0.1}[term]
    bits = 99.0
    record = {"num_updates": "90", "loss": "100", "nll_loss": "0.5", "kd_loss": "0.5"}
    record |= {f"{term}_loss": str(bits / weight * math.log(2)), "agreement": "60"}
    line = f"2026-11-23 | INFO | train_inner | {json.dumps(record)}"
    (tmp_path / "train.log").write_text(f"$ fairseq-train data --max-update 100\n{line}\n")
    found = named(tmp_path)["dominant term"]
    assert f"with its weight {weight:g} is 99.0% of the loss" in found.evidence
    assert found.advice_text.startswith(f"--kd-{term}-weight {weight / 99:.1g} or less")


def test_the_terms_of_every_criterion_are_known_by_their_default_weights():
    from fairseq_kd import criterions

    every = [getattr(criterions, name) for name in criterions.__all__]
    terms = {term for each in every for term in getattr(each, "term_types", ())}
    assert {term.name: term.weight_of(term.config) for term in terms} == TERM_WEIGHTS


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_is_a_blow_up(value, tmp_path):
    record = {"num_updates": "40", "loss": value, "nll_loss": "3"}
    (tmp_path / "train.log").write_text(f"now | INFO | train_inner | {json.dumps(record)}\n")
    assert "at update 40, the loss" in named(tmp_path)["blow-up"].evidence


def test_the_command_prints_evidence_and_advice_and_sets_its_status(capsys):
    assert cli.main(["diagnose", str(LOGS)]) == 1
    shown = capsys.readouterr().out
    assert re.findall(r"^(\w+): ", shown, re.M) == sorted(
        name for name, found in FAILED.items() for _ in found
    )
    assert (
        shown.count("  evidence: ") == shown.count("  advice:   ") == sum(map(len, FAILED.values()))
    )
    assert cli.main(["diagnose", str(LOGS / "student" / "train.log")]) == 0
    assert capsys.readouterr().out == ""


def test_what_evaluate_translated_is_looked_at(tmp_path, capsys):
    shutil.copytree(LOGS / "student", tmp_path / "student")
    (tmp_path / "translations").mkdir()
    (tmp_path / "translations" / "student.txt").write_text("the the the the\n" * 30)
    (tmp_path / "translations" / "control.txt").write_text("and and\n" * 30)
    assert cli.main(["diagnose", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert 'in student.txt, 30 of 30 translations are "the the the the"' in shown
    assert "control.txt" not in shown


def test_the_folder_one_stands_in_and_translations_that_are_not_complete(tmp_path, monkeypatch):
    student = shutil.copytree(LOGS / "student", tmp_path / "runs" / "student")
    lines = "".join(f"D-{2 * number}\t-0.1\tthe same\n" for number in range(30))
    (student / "generate-test.txt").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(student)
    (training,) = find_training_runs(Path())
    assert training.name == "student"
    assert [finding.name for finding in findings(training)] == ["collapse to one token"]


def test_what_is_no_text_among_the_translations_is_passed_over(tmp_path, capsys):
    student = shutil.copytree(LOGS / "student", tmp_path / "student")
    os.mkfifo(student / "generate-pipe.txt")
    (student / "generate-folder.txt").mkdir()
    (student / "generate-test.txt").write_bytes(b"D-0\t-1\t\xff\n")
    (tmp_path / "other").mkdir()
    os.mkfifo(tmp_path / "other" / "train.log")
    (training,) = find_training_runs(tmp_path)
    assert training.outputs == {}
    message = capsys.readouterr().err
    assert message.startswith(f"not diagnosed: {student}/generate-test.txt, line 1, is not UTF-8: ")


def test_another_teacher_where_one_stands_is_not_looked_at(tmp_path):
    other = tmp_path / "runs" / "demo" / "teacher"
    shutil.copytree(LOGS / "rate_too_low", other)
    gap = named(LOGS / "tiny_student")["capacity gap"]
    assert "The teacher's nll_loss is 2.5 bits lower." in gap.evidence


FIGURES = '2026-11-23 | INFO | {} | {{"{}num_updates": {}, {}}}'
FORGED = {  # logs that fairseq does not write
    "agreement alone": [FIGURES.format("train_inner", "", 9, '"agreement": 95')],
    "a term alone": [FIGURES.format("train_inner", "", 9, '"kd_loss": 5, "agreement": 1')],
    "no training loss": [
        FIGURES.format("train_inner", "", 9, '"agreement": 1'),
        *(FIGURES.format("valid", "valid_", n, f'"valid_nll_loss": {n}') for n in (1, 5, 9)),
    ],
    "a status alone": ["# the command ended with status 1"],
}


@pytest.mark.parametrize("what", FORGED)
def test_a_log_without_the_usual_figures_is_no_failure(what, tmp_path, capsys):
    (tmp_path / "student").mkdir()
    lines = ["$ fairseq-train data --criterion word_kd", *FORGED[what]]
    if what == "a status alone":
        lines = lines[1:]
    (tmp_path / "student" / "train.log").write_text("\n".join(lines) + "\n")
    assert cli.main(["diagnose", str(tmp_path)]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


def test_figures_that_are_not_finite_are_no_shares_of_a_loss(tmp_path):
    bad = '"loss": "inf", "nll_loss": "inf", "kd_loss": "inf", "agreement": "nan"'
    lines = ["$ fairseq-train data --criterion word_kd --max-update 100"]
    lines += [FIGURES.format("train_inner", "", update, bad) for update in range(1, 6)]
    (tmp_path / "train.log").write_text("\n".join(lines) + "\n")
    assert not {"untrained teacher", "dominant term"} & named(tmp_path).keys()


def test_a_folder_without_logs_is_refused(tmp_path, capsys):
    assert cli.main(["diagnose", str(tmp_path / "none")]) == 2
    assert "none does not exist. Give the folder of a training." in capsys.readouterr().err
    assert cli.main(["diagnose", str(tmp_path)]) == 2
    assert "holds no train.log, nor does a folder in it." in capsys.readouterr().err


def test_flags_are_read_as_argparse_does():
    command = "fairseq-train data --lr 1 --cpu --betas '(0.9, 0.98)' --lr=2 --kd-alpha 1"
    assert flags_of(arguments_of(command)) == {
        "--lr": "2",
        "--cpu": "",
        "--betas": "(0.9, 0.98)",
        "--kd-alpha": "1",
    }
    assert flags_of(arguments_of("fairseq-train 'data --lr 1")) == {"--lr": "1"}


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """What runs.sh starts from: a teacher of 2,000 updates."""
    folder = tmp_path_factory.mktemp("ladder") / "ladder"
    sizes = {"TEACHER_UPDATES": "2000", "INTERMEDIATE_UPDATES": "10", "STUDENT_UPDATES": "10"}
    run(ROOT / "scripts/progressive.sh", env={**sizes, "RUN": str(folder)})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAILED, "healthy_t4"])
def test_a_run_that_is_made_now_is_diagnosed_as_the_recorded_one(ladder, name, tmp_path):
    run(HERE / "runs.sh", ladder, tmp_path, name)
    expected = FAILED.get(name, set())
    assert set(named(tmp_path / name)) | {"collapse to one token"} == {
        *expected,
        "collapse to one token",  # found by translations, which only the recorded runs have
    }
