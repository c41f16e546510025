"""scripts/sequence_distillation.sh, whole, and killed between its steps."""

import os
import shutil

import pytest
from forks import run_forked
from harness import ROOT, copy_dictionaries, run
from translations import binarised

from fairseq_kd.files.atomic_files import MARK

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
    for name in ("generate.txt", "text"):  # as an earlier version left it
        run("cp", "-r", out / name, tmp_path)
    (tmp_path / "bin.partial").mkdir()
    result = run_forked(SCRIPT, teacher, data, tmp_path)
    assert not (tmp_path / "generate.log").exists()
    count = len(binarised(data, "train", "en"))
    assert result.stdout == (
        f"{tmp_path}/generate.txt is used unchecked: an earlier version made it and did not record "
        f"its inputs.\n{tmp_path}/bin is ready for fairseq-train: {count} pairs\n"
    )
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
    assert result.stderr.startswith(f"{reversed_data} holds no train.es-en.es for {teacher} to ")


@pytest.mark.slow
def test_a_file_that_is_no_teacher_is_refused(data, tmp_path):
    result = run_forked(SCRIPT, "none.pt", data, tmp_path / "out", check=False)
    assert result.returncode == 1
    assert result.stderr == (
        "Teacher none.pt does not exist. Give the path of a fairseq checkpoint.\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--quiet", "--results-path=out"])
def test_flags_by_which_nothing_is_printed_are_refused(flag, data, tmp_path):
    result = run_forked(SCRIPT, "teacher.pt", data, tmp_path / "out", flag, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(
        f"{flag} prevents fairseq-generate from printing the translations: "
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flag", ["--score-reference", "--gen-subset=test", "--prefix-size=2", "--num-shards=2"]
)
def test_flags_that_make_something_else_are_refused(flag, data, tmp_path):
    result = run_forked(SCRIPT, "teacher.pt", data, tmp_path / "out", flag, check=False)
    assert (result.returncode, result.stderr) == (
        1,
        f"{flag} does not give the best translations of the training set: leave it out, or take "
        "fairseq-kd translate.\n",
    )


@pytest.mark.parametrize("flag", ["--remove-bpe", "--post-process=subword_nmt"])
def test_flags_that_join_subwords_are_refused(flag, data, tmp_path):
    result = run_forked(SCRIPT, "teacher.pt", data, tmp_path / "out", flag, check=False)
    assert (result.returncode, result.stderr) == (
        1,
        f"{flag} joins subwords, but the training set is made of subwords: leave it out.\n",
    )


@pytest.mark.parametrize("flags", [["--nbest", "2"], ["--nbest=2"]])
def test_several_translations_are_refused(data, tmp_path, flags):
    result = run_forked(SCRIPT, "teacher.pt", data, tmp_path / "out", *flags, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(
        f"{flags[0]} has no effect, because the best translation is taken"
    )
    assert result.stderr.count("\n") == 1


STUBS = {  # in place of what takes long
    "python": "echo es en",
    "fairseq-generate": "printf 'S-0\\tuno\\nH-0\\t-1\\tone\\n'; echo >> \"$CALLS\"",
    "fairseq-preprocess": "true",
}


@pytest.fixture
def stubbed(tmp_path):
    """Runs the script with stubs; the number of calls of fairseq-generate."""
    for folder in ("stubs", "data"):
        (tmp_path / folder).mkdir()
    for name, body in STUBS.items():
        (tmp_path / "stubs" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "stubs" / name).chmod(0o755)
    for name in ("dict.es.txt", "dict.en.txt", "train.es-en.es.idx"):
        (tmp_path / "data" / name).write_text(name)
    (tmp_path / "teacher.pt").write_text("teacher")
    (tmp_path / "calls").touch()
    path = f"{tmp_path}/stubs:{ROOT}/.venv/bin:{os.environ['PATH']}"
    env = {"PATH": path, "CALLS": str(tmp_path / "calls")}

    def stubbed(*flags, check=True, **settings):
        command = [SCRIPT, "teacher.pt", "data", "out.partial/", *flags]
        return run(*command, cwd=tmp_path, env={**env, **settings}, check=check)

    return stubbed


def test_translations_of_another_teacher_or_setting_are_not_taken(stubbed, tmp_path):
    for _ in range(2):
        assert stubbed().stdout == "out.partial/bin is ready for fairseq-train: 1 pairs\n"
    assert (tmp_path / "calls").read_text() == "\n"
    refused = [stubbed(check=False, BEAM="4"), stubbed("--sampling", check=False)]
    for name in ("teacher.pt", "data/dict.es.txt", "data/train.es-en.es.idx"):
        kept = (tmp_path / name).read_text()
        (tmp_path / name).write_text("another")
        refused.append(stubbed(check=False))
        (tmp_path / name).write_text(kept)
    for result in refused:
        assert result.returncode == 1
        assert result.stderr.startswith(
            "out.partial already exists and was made from es-en, teacher of hash "
        )
        assert result.stderr.endswith("; remove it or choose another OUT_DIR.\n")
    assert "BEAM=5, MAX_TOKENS=4000 and flags: none, not from es-en" in refused[0].stderr
    assert "and flags: --sampling; remove" in refused[1].stderr
    (tmp_path / "out.partial" / "generate.txt").unlink()  # its text is still that of the teacher
    assert stubbed(check=False, BEAM="4").returncode == 1
    assert stubbed().returncode == 0


def test_its_folder_is_never_taken_for_what_a_killed_script_left(stubbed, tmp_path):
    stubbed()
    assert MARK not in os.listdir(tmp_path / "out.partial")
    (tmp_path / "out.partial" / MARK).touch()  # as an earlier version left it
    begin = 'set -euo pipefail; source "$0/scripts/common.sh"; begin "$1"; finish'
    run("bash", "-c", begin, ROOT, tmp_path / "out")
    assert (tmp_path / "out.partial" / "generate.txt").exists()
    stubbed()
    assert MARK not in os.listdir(tmp_path / "out.partial")


def test_the_header_is_the_help():
    assert (
        "usage: scripts/sequence_distillation.sh TEACHER.pt" in run_forked(SCRIPT, "--help").stdout
    )
    assert run_forked(SCRIPT, "teacher.pt", check=False).returncode == 2
