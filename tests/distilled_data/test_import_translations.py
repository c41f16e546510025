"""Translations of another system, in every format, become what translate would have written."""

import json
import math
import random
import re
from pathlib import Path

import pytest
from harness import run
from translations import binarised, hypotheses

from fairseq_kd import cli
from fairseq_kd.decoding import external_translations
from fairseq_kd.decoding.hypothesis_files import UNTRANSLATED, WHOLE
from fairseq_kd.decoding.translation_check import Compared, why_not_translations


@pytest.fixture
def text(data):
    """The plain text of the training set, by language."""
    folder = Path(data).parent / "text"
    return {
        each: (folder / f"train.{each}").read_text(encoding="utf-8").splitlines()
        for each in ("es", "en")
    }


@pytest.fixture
def imported(data, tmp_path):
    """Runs import-translations on lines of text, in this process, and returns its status."""

    def run_command(lines, *flags, out="out", end="\n"):
        path = tmp_path / f"{out}.txt"
        path.write_bytes("".join(f"{line}{end}" for line in lines).encode())
        words = ["import-translations", "--data", data, "--hypotheses", path]
        words += ["--out", tmp_path / out, "--workers", "1"]
        return cli.main([str(word) for word in (*words, *flags)])

    return run_command


def of_every_format(text):
    """The same translations, the references, in every format of text."""
    numbered = list(enumerate(text["en"]))
    shuffled = random.Random(1).sample(numbered, len(numbered))
    return {
        "plain": text["en"],
        "tsv": [f"{source}\t{line}" for source, line in zip(text["es"], text["en"], strict=True)],
        "nbest": [f"{number} ||| {line} ||| LM= -9.1" for number, line in shuffled],
        "jsonl": [json.dumps({"id": number, "translation": line}) for number, line in shuffled],
    }


@pytest.mark.parametrize("form", ["plain", "tsv", "nbest", "jsonl"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_is_split_and_looked_up_as_the_data_were(
    imported, data, text, tmp_path, capsys, form, end
):
    assert imported(of_every_format(text)[form], "--format", form, end=end) == 0
    dictionary = ["<s>", "<pad>", "</s>", "<unk>"]
    lines = (Path(data) / "dict.en.txt").read_text(encoding="utf-8").splitlines()
    dictionary += [line.rpartition(" ")[0] for line in lines]
    found = hypotheses(tmp_path / "out")
    got = [[dictionary.index(each) for each in hyp.tokens.split()] for (hyp,) in found.values()]
    assert [[*ids, 2] for ids in got] == binarised(data, "train", "en")
    assert all(math.isnan(hyp.score) for (hyp,) in found.values())
    assert "unknown tokens: 0.00%" in capsys.readouterr().err


def test_what_translate_wrote_gives_the_same_training_set(
    imported, decoded, distill, tmp_path, monkeypatch
):
    monkeypatch.setattr(external_translations, "why_not_translations", lambda *compared: "")
    lines = (decoded / WHOLE).read_text(encoding="utf-8").splitlines()
    places = random.Random(2).sample(range(len(lines)), len(lines))
    numbers = [line.split("\t")[0] for line in lines]
    lines.sort(key=lambda line: places[numbers.index(line.split("\t")[0])])  # which is stable
    assert imported(lines, "--format", "fairseq") == 0
    for name, folder in (("ours", decoded), ("theirs", tmp_path / "out")):
        flags = ("--select", "interpolation", "--max-length-ratio", "2")
        assert distill(tmp_path / name, *flags, translations=folder) == 0
    for path in (tmp_path / "ours").glob("*.bin"):
        assert path.read_bytes() == (tmp_path / "theirs" / path.name).read_bytes(), path.name
    scores = [(tmp_path / name / "scores.tsv").read_text() for name in ("ours", "theirs")]
    assert scores[0] == scores[1]


def test_hypotheses_are_ranked_by_their_scores_and_those_without_keep_their_order(
    imported, text, tmp_path
):
    pairs = [[(line, -2.0), (f"{line} !", -1.0)] for line in text["en"]]
    several = [
        json.dumps({"translations": [{"translation": each, "score": by} for each, by in pair]})
        for pair in pairs
    ]
    assert imported(several, "--format", "jsonl") == 0
    first = hypotheses(tmp_path / "out")[0]
    assert [each.score for each in first] == [-1.0, -2.0]
    assert first[0].tokens == f"{first[1].tokens} !"
    plain = [json.dumps({"translations": [each for each, _ in pair]}) for pair in pairs]
    assert imported(plain, "--format", "jsonl", out="plain") == 0
    assert [each.tokens for each in hypotheses(tmp_path / "plain")[0]] == [
        first[1].tokens,
        first[0].tokens,
    ]
    settings = json.loads((tmp_path / "out" / "decoding.json").read_text())
    assert settings["nbest"] == 2


def test_a_line_without_translations_is_a_sentence_without_them(imported, text, tmp_path):
    lines = [json.dumps({"translation": each}) for each in text["en"]]
    lines[3] = json.dumps({"translations": []})
    assert imported(lines, "--format", "jsonl") == 0
    every = hypotheses(tmp_path / "out")
    empty = [number for number, (best, *_) in every.items() if not best.tokens]
    assert empty == [3]


def test_a_filter_of_scores_needs_scores(imported, text, distill, tmp_path, capsys):
    scored = [
        f"{source}\t{line}\t{0.5 + (number > 9)}"
        for number, (source, line) in enumerate(zip(text["es"], text["en"], strict=True))
    ]
    assert imported(scored, "--format", "tsv") == 0
    flags = ("--min-score", "1", "--select", "best")
    assert distill(tmp_path / "set", *flags, translations=tmp_path / "out") == 0
    assert len(binarised(tmp_path / "set", "train", "en")) == len(text["en"]) - 10
    assert imported(text["en"], out="plain") == 0
    capsys.readouterr()
    assert distill(tmp_path / "refused", *flags, translations=tmp_path / "plain") == 2
    message = f"--min-score needs scores, but not every translation in {tmp_path}/plain has one. "
    assert f"{message}Leave it out." in capsys.readouterr().err


def test_sentences_without_a_translation_are_counted_and_left_out(
    imported, text, distill, tmp_path, capsys
):
    lines = [f"{number} ||| {line}" for number, line in enumerate(text["en"])]
    lines[3] = "3 ||| "
    del lines[5]
    del lines[-1]
    assert imported(lines, "--format", "nbest") == 0
    assert f"3 of {len(text['en']):,} sentences have no translation" in capsys.readouterr().err
    found = hypotheses(tmp_path / "out")
    assert len(found) == len(text["en"])
    missing = [number for number, (best, *_) in found.items() if best == UNTRANSLATED]
    assert missing == [3, 5, len(text["en"]) - 1]
    assert distill(tmp_path / "set", translations=tmp_path / "out") == 0
    assert len(binarised(tmp_path / "set", "train", "en")) == len(text["en"]) - 3


def test_tokens_of_no_text_and_unknown_ones_become_the_unknown_token(imported, text, tmp_path):
    assert imported(text["en"]) == 0
    lines = (tmp_path / "out" / WHOLE).read_text(encoding="utf-8").splitlines()
    lines[0] = "H-0\t-0.5\t, </s> <pad> \u9f8d ."
    assert imported(lines, "--format", "fairseq", out="again") == 0
    out = tmp_path / "again"
    assert hypotheses(out)[0][0].tokens == ", <unk> <unk> <unk> ."


def test_run_again_it_is_there_and_another_file_is_refused(imported, text, tmp_path, capsys):
    assert imported(text["en"]) == 0
    before = (tmp_path / "out" / WHOLE).read_bytes()
    assert imported(text["en"]) == 0
    assert f"{tmp_path}/out/{WHOLE} already exists" in capsys.readouterr().err
    assert imported([*text["en"][:-1], "Amen."]) == 2
    message = f"--out {tmp_path}/out already exists and holds decoding.json. Remove it or"
    assert message in capsys.readouterr().err
    assert (tmp_path / "out" / WHOLE).read_bytes() == before


REFUSED = {  # lines of a file, made of the text; its format; what is said
    "a line too few": (
        lambda text: text["en"][1:],
        "plain",
        r"has \S+ lines, but train in \S+ has \S+ sentences\. Line N must be the translation of",
    ),
    "a line too many": (lambda text: [*text["en"], "x"], "plain", r"has \S+ lines, but train in"),
    "a line too few of those without an id": (
        lambda text: [json.dumps({"translation": line}) for line in text["en"][1:]],
        "jsonl",
        r"has \S+ lines, but train in \S+ has \S+ sentences\. Line N must be",
    ),
    "a part of the lines with an id": (
        lambda text: [
            json.dumps({"translation": line, **({"id": i} if i % 2 else {})})
            for i, line in enumerate(text["en"])
        ],
        "jsonl",
        r"has lines that name their sentence and lines that do not, such as line 1\. Name",
    ),
    "a part out of step": (
        lambda text: [*text["en"][:40], *text["en"][41:140], "x y z", *text["en"][140:]],
        "plain",
        r"about sentence \d+ to \d+, its chrF is \S+ with the references, and \S+ with those of ot",
    ),
    "lines out of step at the end": (
        lambda text: [*text["en"][:-20], *text["en"][-19:], ""],
        "plain",
        r"from about sentence \d+ on, its lines are nearer to the references of neighbouring sente",
    ),
    "nothing": (lambda text: [], "jsonl", "holds no translation in the format jsonl. Give another"),
    "text for H lines": (lambda text: text["en"], "fairseq", "holds no translation in the format"),
    "other sources": (
        lambda text: [
            f"{source}\t{line}"
            for source, line in zip(text["es"][1:] + text["es"][:1], text["en"], strict=True)
        ],
        "tsv",
        r"has other sources than train in \S+: \S+ of \S+ lines differ, such as line 1\. Tra",
    ),
    "lines out of step": (
        lambda text: text["en"][1:] + text["en"][:1],
        "plain",
        r"does not translate train in \S+: its chrF is \S+ with the references, and \S+ with those",
    ),
    "the sources": (
        lambda text: text["es"],
        "plain",
        r"its chrF is \S+ with the references, and 100.0 with the sources. Give the translations.",
    ),
    "another script": (
        lambda text: ["\u9f8d\u9a8c\u8bd5\u8a00 \u8bed" for _ in text["en"]],
        "plain",
        r"100% of its tokens, such as \S+ .*, are not in the dictionary of en in \S+. Give th",
    ),
    "no number": (lambda text: ["x ||| y"], "nbest", r"line 1, must be N \|\|\| TRANSLATION \|"),
    "a sentence of another set": (
        lambda text: ["999999 ||| y"],
        "nbest",
        r"has a translation of sentence 999999, but train in \S+ has \d+, counted from 0\. Give",
    ),
    "a cell too few": (
        lambda text: ["y"],
        "tsv",
        "line 1, must be SOURCE, a tab, TRANSLATION, and",
    ),
    "a score that is none": (
        lambda text: ["a\tb\tc"],
        "tsv",
        "line 1, must have a number as score",
    ),
    "a score as Python writes it": (
        lambda text: ["a\tb\t1_0"],
        "tsv",
        "line 1, must have a number as score",
    ),
    "a key twice": (
        lambda text: ['{"translation": "y", "id": 1, "id": 0}'],
        "jsonl",
        "line 1, must be an object such as",
    ),
    "no JSON": (
        lambda text: ["{"],
        "jsonl",
        r'line 1, must be an object such as {"id": 0, "transl',
    ),
    "JSON of another shape": (lambda text: ['{"text": "y"}'], "jsonl", "line 1, must be an object"),
    "a text for a list": (
        lambda text: [json.dumps({"translations": line}) for line in text["en"]],
        "jsonl",
        "line 1, must be an object such as",
    ),
    "a number below 0": (
        lambda text: ['{"id": -1, "translation": "y"}'],
        "jsonl",
        "line 1, must be",
    ),
    "a score of many digits": (
        lambda text: [f'{{"translation": "y", "score": {10**400}}}'],
        "jsonl",
        "line 1, must be an object such as",
    ),
    "a score without end": (
        lambda text: ["a\tb\tinf"],
        "tsv",
        "line 1, must have a number as scor",
    ),
    "one sentence alone": (
        lambda text: [json.dumps({"id": 0, "translation": line}) for line in text["en"]],
        "jsonl",
        r"translates 1 of \S+ sentences\. Give the translations of this set\.",
    ),
    "H lines of words": (
        lambda text: [f"H-{i}\t-1\t{line}" for i, line in enumerate(text["en"])],
        "fairseq",
        r"not in the dictionary of en in \S+\. Give the output of fairseq-generate without --rem",
    ),
    "a true score": (
        lambda text: ['{"translation": "y", "score": true}'],
        "jsonl",
        "line 1, must be an object such as",
    ),
    "an id of many digits": (
        lambda text: [f'{{"translation": "y", "id": {"9" * 4000}}}'],
        "jsonl",
        "line 1, must be an object such as",
    ),
    "an id of a part": (
        lambda text: ['{"translations": [{"translation": "y", "id": 3}]}'],
        "jsonl",
        "line 1, must be an object such as",
    ),
    "one and several": (
        lambda text: ['{"translation": "y", "translations": ["z"]}'],
        "jsonl",
        "line 1, must be an object such as",
    ),
    "a number for a text": (lambda text: ['{"translation": 5}'], "jsonl", "line 1, must be an obj"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(
    imported, text, tmp_path, capsys, wrong
):
    make, form, message = REFUSED[wrong]
    assert imported(make(text), "--format", form) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert re.search(
        rf"^fairseq-kd import-translations: --hypotheses \S+:?,? ?.*{message}", printed
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_h_lines_of_other_sentences_are_refused(imported, text, tmp_path, capsys):
    assert imported(text["en"]) == 0
    found = hypotheses(tmp_path / "out")
    lines = [f"H-{number}\t-1\t{found[number - 1][0].tokens}" for number in range(1, len(found))]
    assert imported(lines, "--format", "fairseq", out="shifted") == 2
    assert "The lines are out of step, or in another language." in capsys.readouterr().err


def test_words_in_more_pieces_than_the_references_are_of_another_language():
    own = [Compared(0, "a@@ b@@ c d@@ e f", "abc de f", "xyz vw", [])] * 10
    other = [Compared(1, "g@@ h@@ i j@@ k l", "ghi jk l", "xyz vw", [])] * 10
    why = why_not_translations([*own, *other], "subword_nmt")
    assert why == (
        "its words are split into 2.0 pieces, and those of the references into 1.0. It is in "
        "another language, or the data were split by other --codes."
    )


FLAGS = {  # flags, and what is said
    "codes of nothing": (
        ["--bpe", "none", "--codes", "x"],
        "--codes has no effect with --bpe none. Leave one of them out.",
    ),
    "codes of what is split": (
        ["--format", "fairseq", "--codes", "x"],
        "--codes has no effect with --format fairseq. Leave one of them out.",
    ),
    "no codes": (["--codes", "nowhere"], "--codes nowhere does not exist. Give the merges that s"),
    "codes of something else": (
        ["--codes", __file__],
        "is not a subword-nmt codes file. Give the merges that subword-nmt learned.",
    ),
    "another splitting": (["--bpe", "sentencepiece"], "--bpe is sentencepiece, but the words of"),
    "another set": (["--subset", "none"], "holds no none.es-en.es. Give to --data the folder that"),
}


@pytest.mark.parametrize("wrong", FLAGS)
def test_flags_that_do_not_fit_are_refused(imported, text, tmp_path, capsys, wrong):
    flags, message = FLAGS[wrong]
    assert imported(text["en"], *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_the_data_did_not_have_is_refused(text, data, tmp_path, capsys):
    """Moses makes other words of text that it has not tokenised."""
    plain = tmp_path / "plain"
    for name, lines in text.items():
        (tmp_path / f"train.{name}").write_text("".join(f"{line}\n" for line in lines))
    run("fairseq-preprocess", "--source-lang", "es", "--target-lang", "en", "--joined-dictionary",
        "--trainpref", tmp_path / "train", "--destdir", plain)  # fmt: skip
    hypotheses = str(tmp_path / "train.en")
    command = ["import-translations", "--data", str(plain), "--hypotheses", hypotheses]
    command += ["--out", str(tmp_path / "out"), "--bpe", "none"]
    assert cli.main([*command, "--tokenizer", "moses"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert re.search(
        r"--tokenizer moses would make '.* [,.].*' of '.*[,.].*', as \S+plain has", message
    )
    assert not (tmp_path / "out").exists()
    assert cli.main([*command, "--tokenizer", "none"]) == 0


def test_a_few_other_sources_are_reported(imported, text, capsys):
    lines = of_every_format(text)["tsv"]
    lines[20:23] = [lines[23].split("\t")[0] + "\t" + line.split("\t")[1] for line in lines[20:23]]
    assert imported(lines, "--format", "tsv") == 0
    message = rf"the source of 3 of {len(lines)} lines is not that of the set, such as of line 21;"
    assert re.search(message, capsys.readouterr().err)
