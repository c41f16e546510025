"""Selection and filters by scores of another program."""

import csv
import json

import pytest
from translations import hypotheses

from fairseq_kd.files.hashes import sha256_of

OFF = ["--max-length-ratio", "inf", "--max-copied", "inf", "--max-repeated", "inf"]


def refused(distill, tmp_path, capsys, text, *flags, **other):
    assert distill(tmp_path / "refused", *flags, **other) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


def test_scores_of_another_program_select_and_filter(distill, decoded, tmp_path):
    numbers, scores, best = [], [], {}
    for number, several in hypotheses(decoded).items():
        own = [(number * 7 + rank * 5) % 11 / 10 for rank in range(len(several))]
        best[number] = own.index(max(own))
        scores += own
        numbers += [number] * len(own)
    path = tmp_path / "scores.txt"
    path.write_text("".join(f"{score}\n" for score in scores))
    out = tmp_path / "out"
    flags = ("--scores", path, "--select", "score", "--min-score", "0.9")
    assert distill(out, *flags, *OFF) == 0
    with (out / "scores.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert {int(row["sentence"]): int(row["hypothesis"]) for row in rows} == best
    highest = {n: max(s for m, s in zip(numbers, scores, strict=True) if m == n) for n in best}
    assert all(float(row["teacher_score"]) == highest[int(row["sentence"])] for row in rows)
    kept = {int(row["sentence"]) for row in rows if row["removed_by"] == "-"}
    assert kept == {number for number, score in highest.items() if score >= 0.9}
    made_of = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["made_of"]
    assert made_of["scores"] == sha256_of([path])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda lines: lines[:-1], "scores.txt has fewer lines than "),
        (lambda lines: [*lines, "1"], "scores.txt has more lines than "),
        (lambda lines: ["x", *lines[1:]], "scores.txt, line 1 is not a number: 'x'."),
        (lambda lines: ["1_0", *lines[1:]], "scores.txt, line 1 is not a number: '1_0'."),
        (lambda lines: ["nan", *lines[1:]], "scores.txt, line 1 is not a number: 'nan'."),
    ],
)
def test_scores_that_are_not_those_of_the_hypotheses_are_refused(
    distill, decoded, tmp_path, change, text, capsys
):
    count = len((decoded / "hypotheses.txt").read_text(encoding="utf-8").split("\nH-"))
    path = tmp_path / "scores.txt"
    path.write_text("\n".join(change(["0.5"] * count)) + "\n")
    refused(distill, tmp_path, capsys, text, "--scores", path, "--select", "score")


def test_scores_that_are_missing_are_refused(distill, tmp_path, capsys):
    text = "--scores none.txt does not exist. Give a file of numbers."
    refused(distill, tmp_path, capsys, text, "--scores", "none.txt", "--select", "score")
    text = "--select score needs --scores. Give the file of the scores."
    refused(distill, tmp_path, capsys, text, "--select", "score")
