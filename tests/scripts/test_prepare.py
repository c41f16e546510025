"""scripts/prepare.sh on real verses and on the mistakes that corpora have."""

import gzip
import os

import pytest
from fairseq.data import Dictionary, data_utils
from forks import run_forked
from harness import ROOT, run, write_text

PREPARE = ROOT / "scripts" / "prepare.sh"


def prepare(text, out, check=True, **env):
    return run_forked(
        PREPARE, "es", "en", text, out, env={"MERGES": "100", "WORKERS": "1", **env}, check=check
    )


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "text", {"train": 60, "valid": 10, "test": 10})


def test_lines_stay_together_and_come_back_as_written(prepared):
    sides = {
        lang: (prepared / "text" / f"valid.{lang}").read_text().splitlines()
        for lang in ("es", "en")
    }
    dictionary = Dictionary.load(str(prepared / "bin" / "dict.en.txt"))
    for lang, lines in sides.items():
        split = (prepared / "bpe" / f"valid.{lang}").read_text().splitlines()
        binary = data_utils.load_indexed_dataset(
            str(prepared / "bin" / f"valid.es-en.{lang}"), dictionary
        )
        assert len(lines) == len(split) == len(binary)
        assert max(len(line.split()) for line in lines) <= 25
        for number, line in enumerate(lines):
            words = split[number].replace("@@ ", "").split()
            letters = "".join(words).replace("&apos;", "'").replace("&quot;", '"')
            assert letters == "".join(line.split())
            known = dictionary.encode_line(split[number], add_if_not_exist=False)
            assert binary[number].tolist() == known.tolist()


def test_a_folder_made_from_other_text_or_settings_is_not_taken(text, tmp_path):
    out = tmp_path / "out"
    prepare(text, out)
    assert prepare(text, out).stdout == f"{out} already exists\n"
    result = prepare(text, out, check=False, MERGES="99")
    assert result.returncode == 1
    assert "made from es-en, MERGES=100, MAX_WORDS=0 and text of hash " in result.stderr
    assert "not from es-en, MERGES=99, " in result.stderr
    with (text / "train.es").open("a") as file, (text / "train.en").open("a") as other:
        print("una más", file=file)
        print("one more", file=other)
    assert prepare(text, out, check=False).returncode == 1


def made_before(out, record):
    (out / "bin").mkdir(parents=True)
    (out / "prepared.txt").write_text(record)
    return out


def test_what_a_folder_says_it_was_made_from_does_not_steer_the_terminal(text, tmp_path):
    out = made_before(tmp_path / "out", "\x1b]0;title\a\x1b[31m es-en\n")
    result = run(PREPARE, "es", "en", text, out, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(
        rf"{out} already exists and was made from $'\E]0;title\a\E[31m es-en', not from es-en, "
        r"MERGES="
    )


@pytest.mark.parametrize("place", ["text/train.es", "out/prepared.txt"])
def test_a_pipe_is_refused_and_not_waited_for(place, text, tmp_path):
    out = made_before(tmp_path / "out", "")
    (tmp_path / place).unlink()
    os.mkfifo(tmp_path / place)
    command = ["timeout", "20", PREPARE, "es", "en", text, out]
    message = "must be a regular file, but is a folder, a pipe or a device. Put a file there."
    result = run(*command, check=False)
    assert (result.returncode, result.stderr) == (1, f"{tmp_path / place} {message}\n")


@pytest.mark.parametrize("name", ["MERGES", "WORKERS"])
@pytest.mark.parametrize("value", ["abc", "0", "-5", "1.5"])
def test_a_setting_that_is_no_number_above_0_is_refused(name, value, text, tmp_path):
    result = run(PREPARE, "es", "en", text, tmp_path / "out", env={name: value}, check=False)
    message = f"{name} must be a whole number, 1 or more, but is {value}.\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", message)


def test_both_sides_share_one_dictionary(prepared):
    source, target = ((prepared / "bin" / f"dict.{lang}.txt").read_text() for lang in ("es", "en"))
    assert source == target


def test_sets_out_of_step_are_refused(text, tmp_path):
    lines = (text / "valid.en").read_text().splitlines()
    (text / "valid.en").write_text("\n".join(lines[:-1]) + "\n")
    result = prepare(text, tmp_path / "out", check=False)
    assert result.returncode == 1
    assert f"{text}/valid.es has 10 lines but {text}/valid.en has 9;" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_byte_that_is_no_text_is_named_by_file_and_line(text, tmp_path):
    lines = (text / "valid.es").read_bytes().splitlines()
    (text / "valid.es").write_bytes(b"\n".join([*lines[:3], b"cant\xf3", *lines[4:]]))
    result = prepare(text, tmp_path / "out", check=False)
    assert result.returncode == 1
    message = (
        f'{text}/valid.es, line 4, is not UTF-8: after "cant" comes the byte 0xf3. If the file'
    )
    assert result.stderr.startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_missing_side_is_named(text, tmp_path):
    (text / "test.es").unlink()
    result = prepare(text, tmp_path / "out", check=False)
    assert result.returncode == 1
    assert f"{text}/test.es is missing" in result.stderr


def test_empty_lines_drop_out_on_both_sides_and_gzip_is_read(text, tmp_path):
    lines = (text / "test.en").read_text().splitlines()
    (text / "test.en").write_bytes("\r\n".join(["", *lines[1:], ""]).encode())  # from Windows
    source = (text / "test.es").read_bytes()
    (text / "test.es").unlink()
    (text / "test.es.gz").write_bytes(gzip.compress(source))
    prepare(text, tmp_path / "out")
    for lang, want in (("es", source.decode().splitlines()), ("en", lines)):
        kept = (tmp_path / "out" / "text" / f"test.{lang}").read_bytes().decode()
        assert kept == "".join(line + "\n" for line in want[1:])


def test_paths_are_relative_to_where_one_stands_and_what_is_there_is_kept(text, tmp_path):
    command = [PREPARE, "es", "en", "text", "out/"]
    merges = {"MERGES": "100"}
    run_forked(*command, cwd=tmp_path, env=merges)
    assert (tmp_path / "out" / "bin" / "dict.en.txt").is_file()
    assert run_forked(*command, cwd=tmp_path, env=merges).stdout == "out already exists\n"


def test_the_header_is_the_help():
    assert run(PREPARE, "--help").stdout.startswith(
        "Turn parallel text into what fairseq-train reads"
    )
    result = run(PREPARE, "es", check=False)
    assert result.returncode == 2
    assert "usage: scripts/prepare.sh SOURCE TARGET TEXT_DIR OUT_DIR" in result.stderr


def test_the_vocabulary_of_a_teacher_is_taken(prepared, text, tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    for path in (prepared / "codes", *(prepared / "bin").glob("dict.*.txt")):
        (folder / path.name).write_bytes(path.read_bytes())
    prepare(text, tmp_path / "out", VOCABULARY=str(folder))
    assert (tmp_path / "out" / "codes").read_text() == (prepared / "codes").read_text()
    for lang in ("es", "en"):
        name = f"dict.{lang}.txt"
        assert (tmp_path / "out" / "bin" / name).read_text() == (folder / name).read_text()
        kept, again = (each / "bpe" / f"valid.{lang}" for each in (prepared, tmp_path / "out"))
        assert len({*again.read_text().splitlines()} & {*kept.read_text().splitlines()}) > 3


def test_a_vocabulary_without_its_codes_is_refused(text, tmp_path):
    result = prepare(text, tmp_path / "out", check=False, VOCABULARY=str(tmp_path))
    assert result.returncode == 1
    assert (
        f"{tmp_path}/codes is missing: VOCABULARY is a folder with the BPE codes" in result.stderr
    )
    assert not (tmp_path / "out").exists()
