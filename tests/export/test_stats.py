"""The figures that an exported translate.py writes for whoever monitors it."""

import json
import sys

import pytest
from forks import run_forked as run

from fairseq_kd.decoding.options import Search
from fairseq_kd.export.example import translate_py
from fairseq_kd.files.hashes import write_sums

STAND_IN = """\
class Translator:
    def __init__(self, folder):
        pass

    def translate_batch(self, batch, **options):
        if "break" in batch[0]:
            raise RuntimeError("no memory")
        return [type("Result", (), {"hypotheses": batch})]
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A translate.py whose model repeats the source, and fails at the word "break"."""
    (tmp_path / "ctranslate2.py").write_text(STAND_IN)
    (tmp_path / "model.bin").write_bytes(b"model")
    write_sums(tmp_path)
    path = tmp_path / "translate.py"
    path.write_text(translate_py(("es", "en"), "none", "none", "int8", Search(), (9, 9)))
    return path


def translated(program, text, *flags):
    (program.parent / "text").write_text(text, encoding="utf-8")
    command = " ".join([sys.executable, str(program), *flags, "<", str(program.parent / "text")])
    return run("bash", "-c", command, check=False)


def test_a_line_of_figures_for_every_thousand_sentences_and_for_the_rest(program):
    path = program.parent / "stats.jsonl"
    path.write_text('{"earlier": 1}\n')
    text = "uno dos\n" * 1200 + "break\n" + "a b c d e f g h i j\n"
    done = translated(program, text, "--stats", str(path))
    assert done.returncode == 0
    assert done.stdout == "uno dos\n" * 1200 + "\n" + "a b c d e f g h\n"
    assert done.stderr == (
        "line 1201: not translated: no memory\nline 1202: cut to 8 of 10 tokens\n"
    )
    earlier, first, rest = map(json.loads, path.read_text().splitlines())
    assert earlier == {"earlier": 1}
    assert (first["sentences"], first["cut"], first["failed"]) == (1000, 0, 0)
    assert (rest["sentences"], rest["cut"], rest["failed"]) == (202, 1, 1)
    for each in (first, rest):
        assert 0 < each["median_ms"] <= each["p95_ms"] <= each["p99_ms"]
        expected = each["sentences"] / each["seconds"]
        assert each["sentences_per_s"] == pytest.approx(expected, rel=0.2)


def test_without_the_flag_nothing_is_written(program):
    before = sorted(program.parent.iterdir())
    assert translated(program, "uno\n").stdout == "uno\n"
    assert [path for path in sorted(program.parent.iterdir()) if path.name != "__pycache__"] == [
        *sorted([*before, program.parent / "text"])
    ]


def test_a_file_that_cannot_be_written_is_named_before_anything_is_translated(program):
    done = translated(program, "uno\n", "--stats", "/gone/stats.jsonl")
    message = "--stats /gone/stats.jsonl cannot be written: No such file or directory. Give another"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{message} file.\n")


def test_a_full_disk_for_the_figures_does_not_end_the_translation(program):
    done = translated(program, "uno\n", "--stats", "/dev/full")
    assert done.stdout == "uno\n"
    assert "--stats /dev/full cannot be written: No space left on device" in done.stderr
