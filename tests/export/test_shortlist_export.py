"""An export with a lexical shortlist: what it holds, how it is measured, when it is left out."""

import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from harness import run

if find_spec("ctranslate2") is None:
    pytest.skip("needs CTranslate2", allow_module_level=True)

from fairseq_kd import cli
from fairseq_kd.export import shortlist as shortlists
from fairseq_kd.export.example import translate_py
from fairseq_kd.export.shortlist import (
    Shortlist,
    ShortlistTrial,
    alignments_of,
    pairs_to_align,
    shortlist_of,
)


@pytest.fixture(scope="module")
def export(ending_teacher, cache):
    """Runs the command export with a shortlist in this process."""

    def exported(out, *flags):
        words = ["export", ending_teacher, "--out", out, "--threads", "1", "--cache", cache]
        words += ["--beam", "2", "--shortlist"]
        return cli.main([str(word) for word in (*words, *flags)])

    return exported


@pytest.fixture(scope="module")
def exported(export, tmp_path_factory):
    """An export with a shortlist that is kept, whatever it costs."""
    out = tmp_path_factory.mktemp("export") / "student"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlists, "MOST_BLEU_LOST", 100)
        assert export(out) == 0
    return out


def card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_an_export_holds_the_shortlist_and_the_card_has_its_figures(
    exported, checkpoint, training, test_set
):
    pairs = pairs_to_align(checkpoint.model, training, test_set)
    found = shortlist_of(alignments_of(checkpoint.model, training, pairs), training)
    lines = (exported / "vmap.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 2 + len(found.of_token)
    assert "vmap.txt\n" in (exported / "SHA256SUMS").read_text()
    assert run("sha256sum", "--check", "--quiet", "SHA256SUMS", cwd=exported).stdout == ""
    text = card(exported)
    rows = re.findall(r"\| (checkpoint, fairseq|this, int8.*?) +\|", text)
    assert rows == ["checkpoint, fairseq", "this, int8, shortlist", "this, int8"]
    section = text.partition("## Lexical shortlist\n\n")[2].partition("\n\n")[0]
    covered, candidates = found.coverage(test_set)
    size = len(training.target_dictionary)
    assert section.startswith(f"The model chooses among {candidates:,.0f} of {size} tokens, the ")
    assert f" made from {len(training)} sentence pairs of the training set: " in section
    assert f": {100 * covered:.1f} % of the tokens of the references are among them. " in section
    row = r"\| this, int8{} +\| +\S+ MiB \| +([\d.]+) \|"
    change, short, whole = (
        float(re.search(pattern, text)[1])
        for pattern in (r"BLEU changes by (\S+),", row.format(", shortlist"), row.format(""))
    )
    assert change == pytest.approx(short - whole, abs=0.11)  # of rounded figures
    bleu = re.search(r"\| this, int8, shortlist +\| +\S+ MiB \| +([\d.]+) \|", text)[1]
    assert round(float(re.search(r'"value": ([\d.]+)', text)[1]), 1) == float(bleu)


def test_the_program_uses_the_shortlist_unless_the_flag_says_otherwise(exported, data, tmp_path):
    text = (Path(data).parent / "text" / "test.es").read_text(encoding="utf-8")
    moved = shutil.copytree(exported, tmp_path / "moved")
    (moved / "vmap.txt").write_text("\t</s>\n")  # nothing but the end
    sums = (moved / "SHA256SUMS").read_text()
    digest = run("sha256sum", moved / "vmap.txt").stdout.split()[0]
    (moved / "SHA256SUMS").write_text(re.sub(r"\w+(?=  vmap.txt)", digest, sums))

    def translated(folder, *flags):
        (tmp_path / "text").write_text(text, encoding="utf-8")
        command = " ".join([sys.executable, f"{folder}/translate.py", *flags])
        return run("bash", "-c", f"{command} < {tmp_path}/text", cwd="/").stdout

    whole = translated(exported, "--whole-vocabulary")
    assert translated(moved, "--whole-vocabulary") == whole
    short = translated(moved)
    assert short != whole
    assert not re.search(r"[b-z]", short.replace("<unk>", "").replace("<s>", ""))
    assert translated(exported).count("\n") == whole.count("\n")


def test_the_program_is_run_again_with_the_shortlist(export, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shortlists, "MOST_BLEU_LOST", 100)

    def program(*args):
        made = translate_py(*args)
        return "import sys; sys.exit('broken')" if "use_vmap" in made else made

    monkeypatch.setattr("fairseq_kd.export.student.translate_py", program)
    assert export(tmp_path / "out") == 2
    message = "The exported translate.py failed: broken. Nothing was exported.\n"
    assert capsys.readouterr().err.endswith(message)
    assert not (tmp_path / "out").exists()


def test_a_damaged_shortlist_is_named(exported, tmp_path):
    moved = shutil.copytree(exported, tmp_path / "moved")
    (moved / "vmap.txt").write_text("\t</s>\n")
    done = run(sys.executable, moved / "translate.py", check=False)
    message = f"{moved}/vmap.txt is damaged: its hash differs from SHA256SUMS. Copy it again.\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_a_shortlist_that_loses_is_left_out(export, tmp_path, monkeypatch, capsys):
    nothing = Shortlist((0, 2, 3), {})
    monkeypatch.setattr("fairseq_kd.export.student.shortlist_of", lambda *_: nothing)
    assert export(tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert re.search(r"\); the shortlist is left out, as it loses \d\.\d\d BLEU; see ", printed)
    text = card(tmp_path / "out")
    assert "A shortlist of 3 of " in text
    assert re.search(r" is left out: it loses \d\.\d\d BLEU, more than 0\.2\. ", text)
    assert re.search(r"\| this, int8, shortlist +\| ", text)
    assert not (tmp_path / "out" / "vmap.txt").exists()
    assert "vmap" not in (tmp_path / "out" / "SHA256SUMS").read_text()
    program = (tmp_path / "out" / "translate.py").read_text(encoding="utf-8")
    assert "vmap" not in program
    assert "whole" not in program


@pytest.mark.parametrize(("lost", "kept"), [(-1.0, True), (0.204, True), (0.206, False)])
def test_a_shortlist_may_lose_a_fifth_of_a_point(lost, kept):
    assert ShortlistTrial(5, None, 9, lost, 1.0, 1.0).kept is kept


def without(data, folder, pattern):
    """A copy of data without some of their files."""
    return Path(shutil.copytree(data, folder, ignore=shutil.ignore_patterns(pattern)))


def test_data_without_the_training_set_are_refused(export, data, tmp_path, capsys):
    folder = without(data, tmp_path / "bin", "train.*")
    assert export(tmp_path / "out", "--data", folder) == 2
    assert capsys.readouterr().err.endswith(
        f"--shortlist needs the training set, but {folder} holds no train.es-en.es. Give to --data "
        "the folder of the training.\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_shortlist_is_not_measured_on_the_training_set(export, tmp_path, capsys):
    assert export(tmp_path / "out", "--subset", "train") == 2
    assert capsys.readouterr().err.endswith(
        "--shortlist is made from the training set, so it cannot be measured on --subset train. "
        "Give another set, such as test.\n"
    )


def test_a_set_that_holds_the_training_set_is_refused(export, data, tmp_path, capsys):
    folder = Path(shutil.copytree(data, tmp_path / "bin"))
    for path in folder.glob("train.*"):
        shutil.copyfile(path, folder / path.name.replace("train", "copy"))
    assert export(tmp_path / "out", "--data", folder, "--subset", "copy") == 2
    assert capsys.readouterr().err.endswith(
        "--shortlist: every sentence of train that the model can read is also in copy, on which it "
        "would be measured. Give another --subset.\n"
    )


def test_a_training_set_without_references_is_refused(export, data, tmp_path, capsys):
    folder = without(data, tmp_path / "bin", "train.*.en.*")
    assert export(tmp_path / "out", "--data", folder) == 2
    assert capsys.readouterr().err.endswith(
        f"{folder} holds no references of train. Binarise it with both languages.\n"
    )
