"""Scores and significance against the sacrebleu command, which knows nothing of this code."""

import re

import pytest
from forks import run_forked
from sacrebleu.metrics import BLEU

from fairseq_kd.evaluation.options import TOKENIZERS
from fairseq_kd.evaluation.results import METRICS
from fairseq_kd.evaluation.scores import (
    Bin,
    bleu_of_bins,
    bleu_tokenizer,
    equal_bins,
    metrics,
    paired_scores,
)

REFERENCES = [
    "The LORD is my shepherd: I shall lack nothing.",
    "He makes me lie down in green pastures.",
    "He leads me beside still waters.",
    "He restores my soul; he guides me in the paths of righteousness.",
    "Even though I walk through the valley of the shadow of death, I will fear no evil.",
    "You prepare a table before me in the presence of my enemies.",
]
TEXTS = {
    "student": [each.replace("me", "us").replace("He ", "Who ") for each in REFERENCES],
    "teacher": [each.replace("my", "the") for each in REFERENCES],
    "control": [" ".join(each.split()[::-1]) for each in REFERENCES],
}
NAMES = {"BLEU": "bleu", "chrF2": "chrf", "TER": "ter"}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "reference").write_text("\n".join(REFERENCES) + "\n")
    for name, lines in TEXTS.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_scores_are_those_of_the_sacrebleu_command(files):
    found = paired_scores(TEXTS, REFERENCES, "teacher", 100, metrics()).scores
    for name in TEXTS:
        for metric, option in NAMES.items():
            command = ["sacrebleu", files / "reference", "-i", files / name, "-m", option]
            printed = run_forked(*command, "-b", "-w", "9").stdout
            assert found[name][metric].score == pytest.approx(float(printed), abs=1e-8)


def test_the_bootstrap_is_that_of_the_sacrebleu_command(files):
    names = ["teacher", "student", "control"]  # the baseline first
    command = ["sacrebleu", files / "reference", "-i", *(files / name for name in names)]
    command += ["-m", *NAMES.values(), "--paired-bs", "--paired-bs-n", "200", "-f", "text"]
    rows = run_forked(*command, "-w", "6").stdout.splitlines()
    ours = paired_scores(TEXTS, REFERENCES, "teacher", 200, metrics()).scores
    for name in names:
        at = next(
            i for i, row in enumerate(rows) if name in row.partition("│")[2].partition("│")[0]
        )
        message = re.findall(r"(\d+\.\d+) \((\d+\.\d+) ± (\d+\.\d+)\)", rows[at])
        p_values = re.findall(r"p = (\d\.\d+)", rows[at + 1])
        assert len(message) == len(NAMES)
        assert len(p_values) == (0 if name == "teacher" else len(NAMES))
        for i, metric in enumerate(NAMES):
            got = ours[name][metric]
            figures = [got.score, got.mean, got.ci]
            assert figures == pytest.approx([float(each) for each in message[i]], abs=1e-6)
            if p_values:
                assert got.p == pytest.approx(float(p_values[i]), abs=1e-4)
    assert ours["teacher"]["BLEU"].p is None


@pytest.mark.parametrize(("name", "sentences"), [("teacher", 6), ("student", 1)])
def test_resamples_that_all_differ_alike_are_no_evidence(name, sentences):
    texts = {"teacher": TEXTS["teacher"][:sentences], "other": TEXTS[name][:sentences]}
    found = paired_scores(texts, REFERENCES[:sentences], "teacher", 100, metrics())
    for metric in METRICS:
        assert found.scores["other"][metric].p == 1.0


def test_a_second_comparison_counts_nothing_again_and_says_the_same(monkeypatch):
    measures = metrics()
    first = paired_scores(TEXTS, REFERENCES, "teacher", 100, measures)
    expected = paired_scores(TEXTS, REFERENCES, "control", 100, metrics())
    for metric in measures.values():
        monkeypatch.setattr(metric, "_compute_segment_statistics", None)
    assert paired_scores(TEXTS, REFERENCES, "teacher", 100, measures) == first
    assert paired_scores(TEXTS, REFERENCES, "control", 100, measures) == expected


def test_a_bin_is_scored_as_a_test_set_of_its_own(files):
    bins = [Bin("first", [0, 1, 2]), Bin("rest", [3, 4, 5])]
    found = bleu_of_bins(TEXTS, REFERENCES, bins)
    assert [each.sentences for each in found] == [3, 3]
    for name in TEXTS:
        (files / "part").write_text("\n".join(TEXTS[name][3:]) + "\n")
        (files / "against").write_text("\n".join(REFERENCES[3:]) + "\n")
        printed = run_forked(
            "sacrebleu", files / "against", "-i", files / "part", "-b", "-w", "9"
        ).stdout
        assert found[1].bleu[name] == pytest.approx(float(printed), abs=1e-8)


@pytest.mark.parametrize(
    "values", [[5], [3, 3, 3], [1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0.25, 0.5, 0, 1.0], [9, 1, 1, 1, 7]]
)
def test_bins_hold_every_sentence_once_and_part_no_equals(values):
    bins = equal_bins(values, 4, lambda low, high: f"{low:g}-{high:g}")
    assert sorted(i for each in bins for i in each.sentences) == list(range(len(values)))
    assert 1 <= len(bins) <= 4
    seen = [{values[i] for i in each.sentences} for each in bins]
    for i in range(1, len(seen)):
        assert max(seen[i - 1]) < min(seen[i])
    assert [each.label for each in bins] == [f"{min(s):g}-{max(s):g}" for s in seen]


def test_bins_of_different_values_are_of_equal_size():
    bins = equal_bins([5, 3, 8, 1, 7, 2, 6, 4], 4, lambda low, high: f"{low}-{high}")
    assert [each.label for each in bins] == ["1-2", "3-4", "5-6", "7-8"]


def test_bleu_of_chinese_is_that_of_the_sacrebleu_command(files):
    references = ["耶和华是我的牧者,我必不至缺乏。", "他使我躺卧在青草地上。", "他领我到水边。"]
    texts = {"teacher": ["耶和华是我的牧人,我不缺乏。", "他使我躺在青草地上。", "他领我到河边。"]}
    for name, lines in (("reference", references), ("teacher", texts["teacher"])):
        (files / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["sacrebleu", files / "reference", "-i", files / "teacher", "-b", "-w", "9"]
    printed = float(run_forked(*command, "-tok", "zh").stdout)
    tokenizer = bleu_tokenizer("zh", None)
    found = paired_scores(texts, references, "teacher", 100, metrics(tokenizer))
    assert found.scores["teacher"]["BLEU"].score == pytest.approx(printed, abs=1e-8)
    assert "|tok:zh|" in found.signatures["BLEU"]
    (binned,) = bleu_of_bins(texts, references, [Bin("all", [0, 1, 2])], tokenizer)
    assert binned.bleu["teacher"] == pytest.approx(printed, abs=1e-8)


@pytest.mark.parametrize(
    ("language", "chosen", "tokenizer"),
    [
        ("en", None, "13a"),
        ("zh", None, "zh"),
        ("zh_CN", None, "zh"),
        ("zh", "char", "char"),
        ("zho_Hans", None, "zh"),
        ("CHI", None, "zh"),
        ("deu", None, "13a"),
    ],
)
def test_the_target_language_chooses_the_tokenizer_of_bleu(language, chosen, tokenizer):
    assert bleu_tokenizer(language, chosen) == tokenizer
    assert set(TOKENIZERS) <= set(BLEU.TOKENIZERS)


@pytest.mark.parametrize("language", ["ja", "ko"])
def test_a_tokenizer_that_is_not_installed_is_named_with_its_package(language, monkeypatch):
    monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{language}_mecab.MeCab", None)
    message = rf"{language}-mecab needs a package .* \(pip install 'sacrebleu\[{language}\]'\); or"
    with pytest.raises(ValueError, match=message):
        bleu_tokenizer(language, None)
