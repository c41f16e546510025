"""Text that is split into subwords already is not split a second time."""

from pathlib import Path

import pytest

from fairseq_kd import cli
from fairseq_kd.decoding.subset import read_subset

ADVICE = "Give plain text, or --tokenizer none and --bpe none, by which it is read as it is.\n"
READ_AS_IT_IS = ("--tokenizer", "none", "--bpe", "none")
READING = {  # the flag that names the text, and its language
    "import-translations": ("--hypotheses", "en"),
    "binarise-text": ("--text", "es"),
}


@pytest.fixture
def reading(data, tmp_path):
    """Runs a command on a text, in this process, and returns its status."""

    def run_command(command, text, *flags):
        words = [command, "--data", data, READING[command][0], text, "--workers", "1"]
        return cli.main([str(word) for word in (*words, "--out", tmp_path / "out", *flags)])

    return run_command


@pytest.mark.parametrize("command", READING)
def test_text_that_is_split_by_bpe_is_refused(reading, prepared, tmp_path, capsys, command):
    flag, language = READING[command]
    text = prepared / "bpe" / f"train.{language}"
    assert reading(command, text) == 2
    called = f"{flag} {text}" if flag == "--hypotheses" else text
    lines = text.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if "@@ " in line)
    message = f"{called} must be plain text, but is split by BPE, as {first[:40]!r} shows. "
    assert capsys.readouterr().err.endswith(f"fairseq-kd {command}: {message}{ADVICE}")
    assert not (tmp_path / "out").exists()


def test_split_text_is_read_as_it_is_without_tokenizer_and_bpe(reading, prepared, data, tmp_path):
    assert reading("binarise-text", prepared / "bpe" / "train.es", *READ_AS_IT_IS) == 0
    same = read_subset(tmp_path / "out", "train", ("es", "en")).source
    own = read_subset(Path(data), "train", ("es", "en")).source
    assert [each.tolist() for each in same] == [each.tolist() for each in own]


def test_split_translations_are_read_as_they_are_without_tokenizer_and_bpe(
    reading, prepared, tmp_path
):
    text = prepared / "bpe" / "train.en"
    assert reading("import-translations", text, *READ_AS_IT_IS) == 0
    hypotheses = (tmp_path / "out" / "hypotheses.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("\t")[2] for line in hypotheses if line.startswith("H-")]
    assert found == text.read_text(encoding="utf-8").splitlines()
