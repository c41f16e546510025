"""A student that reads pieces of SentencePiece, from its training to its exported directory."""

import json
import math
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from forks import run_forked
from harness import PAIR, run
from trained import train_to_an_end

from fairseq_kd import cli

NEEDED = ("ctranslate2", "sentencepiece")
if not all(map(find_spec, NEEDED)):
    pytest.skip("needs CTranslate2 and SentencePiece", allow_module_level=True)

import ctranslate2  # noqa: E402
import sentencepiece  # noqa: E402

from fairseq_kd.decoding import external_model  # noqa: E402
from fairseq_kd.decoding.translation_formats import jsonl  # noqa: E402


@pytest.fixture(scope="module")
def pieces(prepared, tmp_path_factory):
    """Data of pieces, with the model of SentencePiece beside them."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    text = shutil.copytree(prepared / "text", folder / "text")
    both = [text / f"train.{language}" for language in ("es", "en")]
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(map(str, both)),
        model_prefix=str(folder / "sentencepiece"),
        vocab_size=400,
        minloglevel=2,
    )
    split = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    for path in text.glob("*.e?"):
        lines = path.read_text(encoding="utf-8").splitlines()
        written = (" ".join(split.encode(line, out_type=str)) + "\n" for line in lines)
        (folder / path.name).write_text("".join(written), encoding="utf-8")
    names = ["--trainpref", folder / "train", "--validpref", folder / "valid"]
    names += ["--testpref", folder / "test", "--destdir", folder / "bin"]
    run_forked("fairseq-preprocess", *PAIR, "--joined-dictionary", *names)
    return folder / "bin"


@pytest.fixture(scope="module")
def student(pieces, tmp_path_factory):
    return train_to_an_end(pieces, tmp_path_factory.mktemp("student"))


@pytest.fixture
def export(student, cache, tmp_path):
    """Runs the command export in this process."""

    def exported(*flags):
        words = ["export", student, "--out", tmp_path / "out", "--threads", "1", "--cache", cache]
        return cli.main([str(word) for word in (*words, "--beam", "2", *flags)])

    return exported


def test_the_exported_program_reads_and_writes_plain_text(export, pieces, tmp_path, capsys):
    assert export("--bpe", "sentencepiece", "--tokenizer", "none") == 0
    assert re.search(r"BLEU [\d.]+ \(checkpoint [\d.]+\)", capsys.readouterr().out)
    out = tmp_path / "out"
    assert (out / "sentencepiece.model").read_bytes() == (
        pieces.parent / "sentencepiece.model"
    ).read_bytes()
    assert "pip install ctranslate2 sentencepiece\n" in (out / "translate.py").read_text()
    source = Path(pieces).parent / "text" / "test.es"
    shown = run("bash", "-c", f"{sys.executable} {out}/translate.py < {source}", cwd="/").stdout
    assert len(shown.splitlines()) == len(source.read_text(encoding="utf-8").splitlines())
    assert "\u2581" not in shown
    assert shown.count(" ") > shown.count("\n")


def test_pieces_are_not_taken_for_another_splitting(export, tmp_path, capsys):
    assert export() == 2
    message = "--bpe is subword_nmt, but the words of the data were split by sentencepiece, as "
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ("none", "--codes none does not exist. Give the model that SentencePiece learned."),
        (None, "There is no file sentencepiece.model beside "),
    ],
)
def test_a_missing_model_is_reported(export, pieces, codes, message, tmp_path, capsys):
    data = shutil.copytree(pieces, tmp_path / "data")
    flags = ["--codes", codes] if codes else []
    flags += ["--data", data, "--bpe", "sentencepiece", "--tokenizer", "none"]
    assert export(*flags) == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_is_reported(export, monkeypatch, capsys):
    monkeypatch.setattr(
        "fairseq_kd.export.options.find_spec", lambda name: name != "sentencepiece" or None
    )
    assert export("--bpe", "sentencepiece") == 2
    assert "(pip install sentencepiece)." in capsys.readouterr().err


@pytest.fixture
def translate_text(student, pieces, cache, tmp_path_factory, tmp_path):
    """Translates text with the exported model, in this process, and returns its status."""
    model = tmp_path_factory.getbasetemp() / "outside" / "model"
    if not model.exists():
        words = ["export", student, "--out", model, "--threads", "1", "--cache", cache]
        words += ["--beam", "2", "--bpe", "sentencepiece", "--tokenizer", "none"]
        words += ["--quantization", "float32"]
        assert cli.main([str(word) for word in words]) == 0
    text = Path(pieces).parent / "text" / "test.es"

    def translated(*flags, model=model, text=text, out="out"):
        words = ["translate-text", "--ct2-model", model, "--text", text, "--out", tmp_path / out]
        return cli.main([str(word) for word in (*words, "--workers", "1", *flags)])

    translated.model, translated.text = model, text
    return translated


def hypotheses_of(folder):
    lines = (folder / "translations.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_text_is_translated_as_the_exported_program_does(translate_text, tmp_path, capsys):
    text = tmp_path / "text.es"
    lines = translate_text.text.read_text(encoding="utf-8").splitlines()
    text.write_text("\n".join([*lines[:5], "", *lines[5:]]) + "\n", encoding="utf-8")
    flags = ("--nbest", "2", "--beam", "3", "--compute-type", "float32")
    assert translate_text(*flags, text=text) == 0
    found = hypotheses_of(tmp_path / "out")
    assert [each["id"] for each in found] == [*range(len(lines) + 1)]
    assert found[5]["translations"] == []
    assert all(len(each["translations"]) <= 2 for each in found)
    translator = ctranslate2.Translator(str(translate_text.model), compute_type="float32")
    split = sentencepiece.SentencePieceProcessor(
        model_file=str(translate_text.model / "sentencepiece.model")
    )
    sources = [split.encode(line, out_type=str) for line in lines]
    results = translator.translate_batch(
        sources, beam_size=3, return_scores=True, max_decoding_length=510
    )
    number, result = next(  # of the first translation that ends by itself
        (i, each) for i, each in enumerate(results) if len(each.hypotheses[0]) < 2 * len(sources[i])
    )
    best = found[number + (number >= 5)]["translations"][0]
    assert best["translation"] == split.decode(result.hypotheses[0])
    assert best["score"] == pytest.approx(result.scores[0] / math.log(2), abs=1e-3)
    assert translate_text(*flags, text=text) == 0
    assert f"{tmp_path}/out already exists" in capsys.readouterr().err
    assert translate_text("--nbest", "1", text=text) == 2
    assert "made of other inputs: 'beam', 'nbest'" in capsys.readouterr().err


def test_an_interrupted_translation_resumes(translate_text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(external_model, "CHUNK", 8)
    limit = ("--max-source-tokens", "60")
    assert translate_text(*limit, out="whole") == 0
    (left_out,) = re.findall(r"(\d+) sentences have more than 60 pieces", capsys.readouterr().err)
    whole = hypotheses_of(tmp_path / "whole")
    translated = external_model.ExternalModel._translated
    calls = []

    def killed(self, first, lines):
        calls.append(first)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return translated(self, first, lines)

    monkeypatch.setattr(external_model.ExternalModel, "_translated", killed)
    assert translate_text(*limit) == 130
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == [
        "out.journal"
    ]
    assert translate_text(*limit) == 0
    message = f"{left_out} sentences have more than 60 pieces and were not translated\n"
    assert message in capsys.readouterr().err
    assert calls == [0, 8, 16, *range(16, len(whole), 8)]
    assert hypotheses_of(tmp_path / "out") == whole
    assert not (tmp_path / "out.journal").exists()


def test_its_file_is_read_as_translations_of_the_lines(translate_text, tmp_path):
    assert translate_text("--nbest", "2") == 0
    read = list(jsonl(tmp_path / "out" / "translations.jsonl"))
    for each in hypotheses_of(tmp_path / "out"):
        found = [(it.text, it.score) for it in read if it.number == each["id"]]
        several = [(one["translation"], one["score"]) for one in each["translations"]]
        assert found == several
        assert [score for _, score in found] == sorted((it[1] for it in found), reverse=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--source-prefix", "__xx__"], "--source-prefix: __xx__ is not in the vocabulary of "),
        (["--target-prefix", "eng_Latn"], "--target-prefix: eng_Latn is not in the vocabulary of"),
        (["--sentencepiece", "none"], "--sentencepiece none does not exist. Give the model of Se"),
        (["--ct2-model", "docs"], "--ct2-model docs holds no model.bin. Give a folder that a con"),
    ],
)
def test_what_the_model_does_not_know_is_refused(translate_text, flags, message, capsys, tmp_path):
    assert translate_text(*flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_pieces_of_another_model_are_refused(translate_text, tmp_path, capsys):
    sentencepiece.SentencePieceTrainer.train(
        input=str(translate_text.text.with_name("train.en")),
        model_prefix=str(tmp_path / "other"),
        vocab_size=300,
        minloglevel=2,
    )
    assert translate_text("--sentencepiece", tmp_path / "other.model") == 2
    message = r"The vocabulary of \S+ lacks \d+% of the pieces of \S+other\.model\. Give the Sente"
    assert re.search(message, capsys.readouterr().err)


@pytest.fixture
def copied(translate_text, tmp_path):
    """The model without its hashes, as of another converter."""
    model = Path(shutil.copytree(translate_text.model, tmp_path / "model"))
    (model / "SHA256SUMS").unlink()
    return model


def test_the_vocabulary_belongs_to_the_inputs(translate_text, copied, capsys):
    (vocabulary,) = copied.glob("*vocabulary.json")
    assert translate_text(model=copied) == 0
    tokens = json.loads(vocabulary.read_text())
    vocabulary.write_text(json.dumps([*tokens[:-2], *tokens[:-3:-1]]))
    assert translate_text(model=copied) == 2
    assert "was made of other inputs: 'model' differ." in capsys.readouterr().err


def test_a_damaged_vocabulary_is_named(translate_text, copied, capsys):
    (vocabulary,) = copied.glob("*vocabulary.json")
    vocabulary.write_text('["a", 1]')
    assert translate_text(model=copied) == 2
    message = f"{vocabulary} is damaged: '[1]' must be a text, but is a whole number. Convert the"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["model.bin", "shared_vocabulary.json", "config.json", "sentencepiece.model"]
)
def test_a_changed_file_of_an_export_is_named(translate_text, tmp_path, capsys, name):
    model = shutil.copytree(translate_text.model, tmp_path / "model")
    (model / name).write_bytes((model / name).read_bytes() + b"\n")
    assert translate_text(model=model) == 2
    message = f"{model}/{name} is damaged: its hash differs from SHA256SUMS. Copy it again.\n"
    assert message in capsys.readouterr().err


def test_a_vocabulary_that_lacks_most_pieces_of_a_short_text_is_refused(
    translate_text, copied, tmp_path, capsys
):
    (vocabulary,) = copied.glob("*vocabulary.json")
    tokens = json.loads(vocabulary.read_text())
    vocabulary.write_text(json.dumps([*tokens[:4], *(f"{token}x" for token in tokens[4:])]))
    (tmp_path / "text.es").write_text("En el principio era el Verbo.\n", encoding="utf-8")
    assert translate_text(model=copied, text=tmp_path / "text.es") == 2
    message = rf"The vocabulary of {copied} lacks \d+% of the pieces of "
    assert re.search(message, capsys.readouterr().err)


def test_a_line_with_more_pieces_than_the_model_has_positions_is_reported(
    translate_text, tmp_path, capsys
):
    (tmp_path / "text.es").write_text("a " * 3000 + "\n")
    assert translate_text("--max-source-tokens", "9000", text=tmp_path / "text.es") == 2
    message = (
        rf"CTranslate2 cannot translate with --ct2-model {translate_text.model}: No position "
        r"encodings are defined for positions >= (\d+), but got position \d+\. Give "
        r"--max-source-tokens \1 or less\.\n"
    )
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"decoder_start_token": "nope"},
            "{model}/config.json is damaged: its decoder_start_token 'nope' is not in the "
            "vocabulary. Convert the model again.\n",
        ),
        ({"add_source_bos": 5}, "CTranslate2 cannot translate with --ct2-model {model}: "),
    ],
)
def test_a_damaged_configuration_is_named(translate_text, copied, capsys, config, message):
    path = copied / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    assert translate_text(model=copied) == 2
    assert message.format(model=copied) in capsys.readouterr().err
