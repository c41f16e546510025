"""Scores by programs of the user's own."""

import json
import re

import numpy as np
import pytest

from fairseq_kd import cli
from fairseq_kd.evaluation.external_metrics import Scorer, sentence_scores
from fairseq_kd.evaluation.results import METRICS
from fairseq_kd.evaluation.scores import metrics, paired_scores

SOURCES = [f"una frase {i}" for i in range(40)]
REFERENCES = [f"a sentence {i}" for i in range(40)]
GOOD = [f"a sentence {i % 30}" for i in range(40)]
BAD = [f"a phrase {i % 11}" for i in range(40)]
EQUAL = Scorer("Equal", "paste -d= $HYP $REF | awk -F= '{print ($1 == $2) + 0.25}'")


def test_a_program_reads_all_three_texts():
    command = "paste -d, $SRC $HYP $REF | awk -F, '{print length($1), length($2), length($3)}'"
    one_each = f"{command} | tr -d ' '"
    scores = sentence_scores(Scorer("x", one_each), ["a", "bb"], ["ccc", "d d"], ["eeee", "f"])
    assert scores == [134.0, 231.0]


def test_the_score_is_the_mean_with_the_bootstrap_of_sacrebleu():
    by_name = metrics(scorers=[EQUAL], sources=SOURCES)
    found = paired_scores({"bad": BAD, "good": GOOD}, REFERENCES, "bad", 500, by_name)
    assert list(found.scores["good"]) == [*METRICS, "Equal"]
    each = np.array([good == ref for good, ref in zip(GOOD, REFERENCES, strict=True)]) + 0.25
    good = found.scores["good"]["Equal"]
    assert good.score == pytest.approx(each.mean())
    rows = np.random.default_rng(12345).choice(40, size=(500, 40))
    resampled = np.sort(each[rows].mean(1))
    assert good.mean == pytest.approx(resampled.mean(), abs=1e-6)
    assert good.ci == pytest.approx((resampled[-13] - resampled[12]) / 2, abs=1e-6)
    assert found.scores["bad"]["Equal"].p is None
    assert good.p < 0.01
    assert found.signatures["Equal"] == EQUAL.command


def test_a_program_is_run_once_for_each_system(tmp_path):
    count = Scorer("x", f"echo >> {tmp_path}/runs; sed 's/.*/1/' $HYP")
    by_name = metrics(scorers=[count], sources=SOURCES)
    for base in ("bad", "good"):
        paired_scores({"bad": BAD, "good": GOOD}, REFERENCES, base, 100, by_name)
    assert (tmp_path / "runs").read_text() == "\n\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 3", r"--scorer x: exit 3 ended with status 3\. See its messages\."),
        ("head -1 $HYP", r"printed 1 lines for 40 sentences\. It must print one number per line"),
        (
            "yes 1",
            r"^--scorer x: yes 1 printed more than 40 lines for 40 sentences\. It must print one "
            r"number per line, one for each sentence\.$",
        ),
        ("yes 1 | head -41", r"printed more than 40 lines for 40 sentences\. It must print one n"),
        ("cat /dev/zero", r"cat /dev/zero printed more than 40 lines for 40 sentences\. It must "),
        ("cat $HYP", r"printed 'a sentence 0' as line 1, which is not a number f"),
        ("sed 's/.*/nan/' $HYP", r"printed 'nan' as line 1, which is not a number from -1e\+12 to"),
        ("yes 1e308 | head -40", r"printed '1e308' as line 1, which is not a number from -1e\+12 "),
    ],
)
def test_what_is_no_score_per_sentence_is_refused(command, message):
    with pytest.raises(ValueError, match=message):
        sentence_scores(Scorer("x", command), SOURCES, GOOD, REFERENCES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cat", "--scorer must be NAME=COMMAND with a name of letters, digits, - and _, such as "),
        ("a b=cat", "--scorer must be NAME=COMMAND with a name of letters, "),
        ("x=", "--scorer must be NAME=COMMAND with a name of letters, "),
        ("bleu=cat", "--scorer bleu has the name of another metric. Give another name."),
    ],
)
def test_another_form_is_refused(given, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Scorer.parse(given)


def test_two_programs_of_one_name_are_refused(evaluate_words, tmp_path, capsys):
    flags = ["--scorer", "x=cat $REF", "--scorer", "x=cat $HYP"]
    assert cli.main(evaluate_words(tmp_path / "out", *flags)) == 2
    message = "evaluate: --scorer x is given twice. Give each another name.\n"
    assert capsys.readouterr().err.endswith(message)


def test_the_report_has_the_score_in_its_tables(evaluate_words, tmp_path):
    quick = ["--rounds", "0", "--no-memory", "--bootstrap", "100"]
    given = ["--scorer", f"{EQUAL.name}={EQUAL.command}"]
    assert cli.main(evaluate_words(tmp_path / "out", *quick, *given)) == 0
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    score = figures["quality"]["scores"]["teacher"]["Equal"]["score"]
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| teacher .*\| +{score:.4f} ± ", page, re.M)
    assert re.search(r"^\| against teacher .*\| +Equal \|$", page, re.M)
    assert EQUAL.command in page
    assert "![Equal over parameters; the line is the Pareto front](plots/front-size-Equal" in page
    assert (tmp_path / "out" / "plots" / "front-size-Equal.png").is_file()
