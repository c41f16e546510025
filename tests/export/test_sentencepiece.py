"""A student that reads pieces of SentencePiece, from its training to its exported directory."""

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
pytestmark = pytest.mark.skipif(
    not all(map(find_spec, NEEDED)), reason="needs CTranslate2 and SentencePiece"
)


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
