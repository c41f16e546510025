"""scripts/sequence_distillation.sh, whole, and killed between its steps."""

import shutil

import pytest
from forks import run_forked
from harness import ROOT, copy_dictionaries, run
from translations import binarised

SCRIPT = ROOT / "scripts" / "sequence_distillation.sh"


@pytest.fixture(scope="module")
def out(data, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence") / "out"
    run_forked(
        SCRIPT,
        teacher,
        data,
        folder,
        "--cpu",
        "--max-len-a",
        "0",
        "--max-len-b",
        "9",
        env={"BEAM": "1"},
    )
    return folder


def test_every_source_keeps_its_place_and_gets_a_translation(out, data, prepared):
    assert binarised(out / "bin", "train", "es") == binarised(data, "train", "es")
    target = binarised(out / "bin", "train", "en")
    assert len(target) == len(binarised(data, "train", "en"))
    assert max(map(len, target)) <= 10
    lines = (out / "text" / "train.en").read_text(encoding="utf-8").splitlines()
    assert (out / "text" / "train.es").read_text() == (prepared / "bpe" / "train.es").read_text()
    assert len(lines) == len(target)
    for name in ("dict.es.txt", "dict.en.txt"):
        assert (out / "bin" / name).read_text() == (prepared / "bin" / name).read_text()
    assert binarised(out / "bin", "valid", "en") == binarised(data, "valid", "en")


def test_it_goes_on_with_what_is_there(out, data, teacher, tmp_path):
    for name in ("generate.txt", "text"):
        run("cp", "-r", out / name, tmp_path)
    (tmp_path / "bin.partial").mkdir()
    result = run_forked(SCRIPT, teacher, data, tmp_path)
    assert not (tmp_path / "generate.log").exists()
    count = len(binarised(data, "train", "en"))
    assert result.stdout == f"{tmp_path}/bin is ready for fairseq-train: {count} pairs\n"
    assert binarised(tmp_path / "bin", "train", "en") == binarised(out / "bin", "train", "en")


@pytest.mark.slow
def test_a_source_without_translation_is_refused(out, data, teacher, tmp_path):
    lines = (out / "generate.txt").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("H-5\t")]
    (tmp_path / "generate.txt").write_text("".join(kept))
    result = run_forked(SCRIPT, teacher, data, tmp_path, check=False)
    assert result.returncode == 1
    assert "generate.txt has sources without translation. Remove it and run" in result.stderr
    assert not (tmp_path / "text").exists()


@pytest.fixture
def reversed_data(data, tmp_path):
    """The validation set as a training set and itself, named as if English were the source."""
    folder = copy_dictionaries(data, tmp_path / "reversed")
    for language in ("es", "en"):
        for split in ("train", "valid"):
            for suffix in ("bin", "idx"):
                name = f"{split}.en-es.{language}.{suffix}"
                shutil.copy(f"{data}/valid.es-en.{language}.{suffix}", folder / name)
    return folder


def test_the_teacher_tells_which_language_is_its_source(data, teacher, reversed_data, tmp_path):
    words = [teacher, reversed_data, tmp_path / "out", "--cpu", "--max-len-a", "0"]
    run_forked(SCRIPT, *words, "--max-len-b", "3", env={"BEAM": "1"})
    made = tmp_path / "out" / "bin"
    assert binarised(made, "train", "es") == binarised(data, "valid", "es")
    assert binarised(made, "valid", "en") == binarised(data, "valid", "en")
    assert list(made.glob("*.en-es.*")) == []


def test_data_without_the_languages_of_the_teacher_are_refused(teacher, reversed_data, tmp_path):
    (reversed_data / "train.en-es.es.idx").unlink()
    result = run_forked(SCRIPT, teacher, reversed_data, tmp_path / "out", check=False)
    assert result.stderr.startswith(f"{reversed_data} holds no train.es-en.es, which ")


@pytest.mark.slow
def test_a_file_that_is_no_teacher_is_refused(data, tmp_path):
    result = run_forked(SCRIPT, "none.pt", data, tmp_path / "out", check=False)
    assert result.returncode == 1
    assert result.stderr == (
        "Teacher none.pt does not exist. Give the path of a fairseq checkpoint.\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [["--nbest", "2"], ["--nbest=2"]])
def test_several_translations_are_refused(data, tmp_path, flags):
    result = run_forked(SCRIPT, "teacher.pt", data, tmp_path / "out", *flags, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{flags[0]} is of no use, for the best translation is taken")
    assert result.stderr.count("\n") == 1


def test_the_header_is_the_help():
    assert (
        "usage: scripts/sequence_distillation.sh TEACHER.pt" in run_forked(SCRIPT, "--help").stdout
    )
    assert run_forked(SCRIPT, "teacher.pt", check=False).returncode == 2
