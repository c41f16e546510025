"""The references of a set, from files as people keep them."""

import re
import shutil
from pathlib import Path

import pytest

from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.evaluation.translations import plain_text

AS_THEY_ARE = (str, str)  # what undoes no tokenisation
JOINED = (lambda tokens: tokens.replace("@@ ", ""),) * 2


@pytest.fixture
def subset(prepared, tmp_path):
    """The test set with its texts beside it, in a folder that may be changed."""
    shutil.copytree(prepared / "text", tmp_path / "text")
    folder = shutil.copytree(prepared / "bin", tmp_path / "bin")
    return read_subset(folder, "test", ("es", "en"))


def rewritten(path, change):
    lines = change(path.read_text(encoding="utf-8").splitlines())
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return lines


@pytest.mark.parametrize("given", [True, False])
def test_empty_lines_at_the_end_are_sentences(subset, given, capsys):
    path = Path(subset.folder).parent / "text" / "test.en"
    lines = rewritten(path, lambda lines: [*lines[:-2], "", ""])
    assert plain_text(subset, path if given else None, AS_THEY_ARE).references == lines
    path.write_text("\n".join([*lines[:-1], "the last"]), encoding="utf-8")  # without its newline
    found = plain_text(subset, path if given else None, AS_THEY_ARE).references
    assert found == [*lines[:-1], "the last"]
    assert capsys.readouterr().err == ""


def test_a_text_beside_the_data_that_is_not_the_sets_is_reported_and_ignored(subset, capsys):
    text = Path(subset.folder).parent.resolve() / "text"
    for language in subset.pair:
        rewritten(text / f"test.{language}", lambda lines: lines[1:])
    found = plain_text(subset, None, AS_THEY_ARE)
    assert found.origin == "the binarised set, detokenised"
    assert len(found.sources) == len(found.references) == len(subset)
    message = [
        f"{text}/test.{each} is ignored: it has {len(subset) - 1} lines, but test has "
        f"{len(subset)} sentences\n"
        for each in subset.pair
    ]
    assert capsys.readouterr().err == "".join(message)


def test_another_text_of_as_many_lines_is_reported_and_ignored(subset, capsys):
    text = Path(subset.folder).parent.resolve() / "text"
    rewritten(text / "test.en", lambda lines: [*lines[1:], lines[0]])
    found = plain_text(subset, None, AS_THEY_ARE)
    assert found.origin == "the binarised set, detokenised"
    assert re.fullmatch(
        rf"{text}/test\.en is ignored: \d+ of its lines are not the sentences of test\n",
        capsys.readouterr().err,
    )


def test_a_reference_of_another_encoding_is_named_with_its_line(subset, tmp_path):
    path = tmp_path / "latin1.en"
    path.write_bytes(b"one\ntwo \xe9\n")
    message = f'^--reference {path}, line 2, is not UTF-8: after "two " comes the byte 0xe9. '
    with pytest.raises(ValueError, match=message):
        plain_text(subset, path, AS_THEY_ARE)


def test_a_reference_from_windows_is_read_as_its_text(subset, capsys):
    path = Path(subset.folder).parent / "text" / "test.en"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_bytes("\ufeff".encode() + "".join(f"{line}\r\n" for line in lines).encode())
    assert plain_text(subset, path, AS_THEY_ARE).references == lines
    message = f"--reference {path} begins with a byte-order mark, which is left out\n"
    assert capsys.readouterr().err == message


def test_references_of_another_text_are_reported(subset, capsys):
    path = Path(subset.folder).parent / "text" / "test.en"
    lines = rewritten(path, lambda lines: [*lines[1:], lines[0]])
    assert plain_text(subset, path, AS_THEY_ARE).references == lines
    message = (
        rf"--reference {path}: \d+ of its lines are not the sentences of test in \S+; see that"
    )
    assert re.search(message, capsys.readouterr().err)


def test_a_reference_that_is_split_into_subwords_is_refused(subset, prepared):
    path = prepared / "bpe" / "test.en"
    first = path.read_text(encoding="utf-8")[:40]
    message = f"--reference {path} must be plain text, but is split by BPE, as {first!r} shows. "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}Give the text as it was before"):
        plain_text(subset, path, JOINED)


def test_a_text_beside_the_data_that_is_split_into_subwords_is_reported_and_ignored(
    subset, prepared, capsys
):
    text = Path(subset.folder).parent.resolve() / "text"
    shutil.copy(prepared / "bpe" / "test.en", text)
    assert plain_text(subset, None, JOINED).origin == "the binarised set, detokenised"
    message = f"{text}/test.en is ignored: it must be plain text, but is split by BPE\n"
    assert capsys.readouterr().err == message


def test_a_split_reference_is_that_of_split_translations(subset, prepared):
    path = prepared / "bpe" / "test.en"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert plain_text(subset, path, AS_THEY_ARE).references == lines
