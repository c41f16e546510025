"""scripts/sequence_distillation.sh, whole, and killed between its steps."""

import pytest
from harness import ROOT, run
from translations import binarised

SCRIPT = ROOT / "scripts" / "sequence_distillation.sh"


@pytest.fixture(scope="module")
def out(data, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence") / "out"
    run(
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
    result = run(SCRIPT, "no_teacher.pt", data, tmp_path)
    count = len(binarised(data, "train", "en"))
    assert result.stdout == f"{tmp_path}/bin is ready for fairseq-train: {count} pairs\n"
    assert binarised(tmp_path / "bin", "train", "en") == binarised(out / "bin", "train", "en")


def test_a_source_without_translation_is_refused(out, data, tmp_path):
    lines = (out / "generate.txt").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("H-5\t")]
    (tmp_path / "generate.txt").write_text("".join(kept))
    result = run(SCRIPT, "no_teacher.pt", data, tmp_path, check=False)
    assert result.returncode == 1
    assert "generate.txt has sources without translation. Remove it and run" in result.stderr
    assert not (tmp_path / "text").exists()


def test_the_header_is_the_help():
    assert "usage: scripts/sequence_distillation.sh TEACHER.pt" in run(SCRIPT, "--help").stdout
    assert run(SCRIPT, "teacher.pt", check=False).returncode == 2
