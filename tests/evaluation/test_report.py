"""The report on made-up systems whose scores the sacrebleu command knows."""

import json
import re

import pytest
import torch
from harness import run

from fairseq_kd import cli
from fairseq_kd.evaluation.system import read_system, read_training_log, read_translations

REFERENCES = [
    "The LORD is my shepherd.",
    "I shall lack nothing.",
    "He restores my soul; he guides me.",
]
TEACHER = [
    "The LORD is my shepherd.",
    "I shall lack nothing.",
    "He restores my soul, he guides me.",
]
STUDENT = ["The LORD is a shepherd.", "I shall lack nothing.", "He restores my soul and guides."]


def generated(hypotheses):
    """An output of fairseq-generate, which translates the longest sentences first."""
    lines = []
    for number in reversed(range(len(hypotheses))):
        text = hypotheses[number]
        lines += [f"S-{number}\tquelle", f"T-{number}\t{REFERENCES[number]}"]
        lines += [f"H-{number}\t-0.5\t{text.lower()}", f"D-{number}\t-0.5\t{text}"]
    return "\n".join(lines) + "\n"


def make_system(folder, hypotheses, sentences_per_s, width):
    folder.mkdir()
    (folder / "generate-test.txt").write_text(generated(hypotheses))
    (folder / "generate-test.log").write_text(
        f"INFO:fairseq_cli.generate:Translated {len(hypotheses)} sentences (1,234 tokens) in 1.0s "
        f"({sentences_per_s} sentences/s, 900.00 tokens/s)\n"
    )
    shared = torch.zeros(10, width)
    weights = {"encoder.embed_tokens.weight": shared, "decoder.embed_tokens.weight": shared}
    weights |= {"encoder.version": torch.tensor([3.0]), "decoder.bias": torch.zeros(width)}
    history = [{"num_updates": 20}]
    state = {"model": weights, "optimizer_history": history}
    torch.save(state, folder / "checkpoint_best.pt")
    log = [f"$ fairseq-train data --save-dir {folder} --adam-betas '(0.9, 0.98)'"]
    for update, nll_loss in ((10, 5.5), (10, 5.25), (20, 4.5)):  # the first one was repeated
        figures = {"valid_num_updates": str(update), "valid_nll_loss": str(nll_loss)}
        log.append(f"2026-11-23 | INFO | valid | {json.dumps(figures)}")
    (folder / "train.log").write_text("\n".join(log) + "\n")


@pytest.fixture
def folder(tmp_path):
    make_system(tmp_path / "teacher", TEACHER, "10.00", width=8)
    make_system(tmp_path / "student", STUDENT, "35.00", width=2)
    (tmp_path / "test.en").write_text("\n".join(REFERENCES) + "\n")
    return tmp_path


def report(folder, *systems):
    reference = ["--reference", str(folder / "test.en"), "--out", str(folder / "report.md")]
    return cli.main(["report", *systems, *reference])


def test_the_table_holds_what_sacrebleu_and_the_files_say(folder, capsys):
    systems = [f"{name}={folder / name}" for name in ("teacher", "student")]
    assert report(folder, *systems) == 0
    page = (folder / "report.md").read_text()
    assert capsys.readouterr().out.strip() in page
    row = [cell.strip() for cell in re.search(r"\| student .*", page)[0].strip("|").split("|")]
    scores = {}
    for name, hypotheses in (("teacher", TEACHER), ("student", STUDENT)):
        (folder / "hypotheses").write_text("\n".join(hypotheses) + "\n")
        command = ["sacrebleu", folder / "test.en", "-i", folder / "hypotheses", "-b", "-w", "6"]
        for metric in ("bleu", "chrf"):
            scores[name, metric] = float(run(*command, "-m", metric).stdout)
    kept = scores["student", "bleu"] / scores["teacher", "bleu"]
    assert row == [
        *["student", "22", "25%", "20", f"{scores['student', 'bleu']:.1f}", f"{kept:.0%}"],
        *[f"{scores['student', 'chrf']:.1f}", "35.0", "3.5x"],
    ]
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in page
    assert "fairseq-train data \\\n    --save-dir" in page
    assert "--adam-betas '(0.9, 0.98)'" in page
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_translations_are_read_in_input_order(folder):
    assert read_translations(folder / "student" / "generate-test.txt") == STUDENT


def test_a_repeated_validation_counts_once(folder):
    command, validation = read_training_log(folder / "teacher" / "train.log")
    assert command.startswith("fairseq-train data")
    assert validation == [(10, 5.25), (20, 4.5)]


def test_translations_with_a_gap_are_refused(folder):
    path = folder / "student" / "generate-test.txt"
    path.write_text(path.read_text().replace("D-1\t", "X-1\t"))
    with pytest.raises(ValueError, match="does not hold a translation of every sentence"):
        read_system("student", str(folder / "student"))


def test_a_log_that_tells_no_speed_is_refused(folder):
    (folder / "student" / "generate-test.log").write_text("INFO: loading model(s)\n")
    with pytest.raises(ValueError, match="does not say how fast fairseq-generate was"):
        read_system("student", str(folder / "student"))


@pytest.mark.parametrize("file", ["checkpoint_best.pt", "generate-test.txt", "train.log"])
def test_a_missing_file_is_named(folder, file, capsys):
    (folder / "student" / file).unlink()
    assert report(folder, f"teacher={folder / 'teacher'}", f"student={folder / 'student'}") == 2
    assert f"{folder}/student/{file} is missing, so that student cannot" in capsys.readouterr().err


def test_translations_of_another_set_are_refused(folder, capsys):
    (folder / "test.en").write_text("\n".join(REFERENCES[:2]) + "\n")
    assert report(folder, f"teacher={folder / 'teacher'}") == 2
    assert "teacher has 3 translations, but the reference has 2 lines." in capsys.readouterr().err


@pytest.mark.parametrize("system", ["teacher", "=runs/teacher", "teacher="])
def test_a_system_without_name_or_folder_is_refused(folder, system, capsys):
    assert report(folder, system) == 2
    assert f"A system is given as NAME=DIR, but is {system}." in capsys.readouterr().err
