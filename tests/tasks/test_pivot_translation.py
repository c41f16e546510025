"""Three-way data: the content of a batch, and misaligned lines."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import Setup
from three_languages import PIVOT, preprocess, write_backwards

from fairseq_kd.tasks.pivot_translation import check_links

PLAIN = ["--criterion", "label_smoothed_cross_entropy"]


@pytest.fixture
def pivoting(three_way):
    return Setup(three_way, *PLAIN, *PIVOT)


@pytest.fixture
def broken(three_way, prepared, tmp_path):
    """A copy of the data whose es-en validation set is made anew of changed lines."""
    out, text = tmp_path / "bin", write_backwards(prepared, tmp_path / "text")
    shutil.copytree(three_way, out)
    dictionary = prepared / "bin" / "dict.en.txt"

    def break_(change):
        for language in ("es", "en"):
            path = text / f"valid.{language}"
            lines = change(language, path.read_text().splitlines())
            path.write_text("".join(f"{line}\n" for line in lines))
        for old in out.glob("valid.es-en.*"):
            old.unlink()
        preprocess(text, out, "es", "en", dictionary, sets=("valid",))
        return str(out)

    return break_


def test_a_batch_holds_the_pivots_sentences_in_its_own_order(pivoting):
    sample = pivoting.batch(0, 5, 2, 9)
    pad = pivoting.task.source_dictionary.pad()
    own, pivot = sample["net_input"]["src_tokens"], sample["pivot"]["src_tokens"]
    assert sample["pivot"]["src_lengths"].tolist() == sample["net_input"]["src_lengths"].tolist()
    for row in range(4):
        ours, theirs = (tokens[row][tokens[row].ne(pad)].tolist() for tokens in (own, pivot))
        assert theirs[:-1] == ours[:-1][::-1]  # but for the end symbol
        assert pivot[row][-1] != pad  # padded on the left, as the teacher was trained


def test_links_are_positions_of_the_padded_batch(pivoting):
    sample = pivoting.batch(0, 5, 2)
    own, pivot = sample["net_input"]["src_tokens"], sample["pivot"]["src_tokens"]
    rows, i, j = sample["pivot_links"].unbind(-1)
    assert torch.equal(own[rows, i], pivot[rows, j])
    assert len(rows) == sum(sample["net_input"]["src_lengths"]) - 3  # all but the end symbols


def test_of_cut_sentences_the_links_between_words_that_are_left_remain(three_way):
    words, width = 29, 30  # what is left of a long sentence, and that with its end symbol
    flags = ["--truncate-source", "--max-source-positions", width]
    whole, cut = Setup(three_way, *PLAIN, *PIVOT), Setup(three_way, *PLAIN, *PIVOT, *flags)
    numbers = range(len(whole.dataset))
    sample = cut.batch(*numbers)
    for tokens in (sample["net_input"]["src_tokens"], sample["pivot"]["src_tokens"]):
        assert tokens.size(1) == width
    want = []
    for row, number in enumerate(sample["id"].tolist()):
        n = len(whole.dataset[number]["source"]) - 1  # xx is es backwards
        left = width - min(n + 1, width)  # pads on the left
        links = [(i, n - 1 - i) for i in range(n)]
        want += [[row, i + left, j + left] for i, j in links if max(i, j) < words]
    assert sample["pivot_links"].tolist() == want
    assert 0 < len(want) < len(whole.batch(*numbers)["pivot_links"])


def test_each_epoch_reads_all_three_languages_of_its_own_folder(three_way, tmp_path):
    other = shutil.copytree(three_way, tmp_path / "bin")
    for path in other.glob("train.*"):
        path.unlink()
        shutil.copy(other / path.name.replace("train", "test"), path)
    flags = ["--kd-pivot-lang", "es", *PIVOT[:2], *PIVOT[4:]]
    task = Setup(f"{three_way}:{other}", *PLAIN, *flags).task
    sizes = []
    for epoch in (1, 2, 3):
        task.load_dataset("train", epoch=epoch)
        sizes.append(len(task.dataset("train")))
    task.load_dataset("test")
    assert sizes == [sizes[0], len(task.dataset("test")), sizes[0]]
    assert sizes[0] != sizes[1]


def test_a_first_part_that_counts_twice_does_so_in_all_three_languages(three_way, tmp_path):
    parts = shutil.copytree(three_way, tmp_path / "bin")
    for path in parts.glob("*.align.*"):
        path.unlink()
    for path in parts.glob("test.*"):
        path.rename(path.with_name(path.name.replace("test", "train1", 1)))
    task = Setup(str(parts), *PLAIN, *PIVOT, "--upsample-primary", "2").task
    numbers = []
    for combine in (False, True):
        task.load_dataset("train", combine=combine)
        numbers.append(len(task.dataset("train")))
    single = Setup(three_way, *PLAIN, *PIVOT).task
    single.load_dataset("test")
    assert numbers[1] == 2 * numbers[0] + len(single.dataset("test"))
    last = task.dataset("train")[numbers[1] - 1]
    assert last["pivot"][:-1].tolist() == last["source"][:-1].flip(0).tolist()


def test_the_student_sees_the_batches_of_translation(pivoting, three_way):
    plain = Setup(three_way, *PLAIN, "--source-lang", "xx", "--target-lang", "en")
    indices = [each.dataset.ordered_indices() for each in (plain, pivoting)]
    assert indices[0].tolist() == indices[1].tolist()
    want, got = plain.batch(1, 2, 3), pivoting.batch(1, 2, 3)
    assert all(torch.equal(got["net_input"][k], v) for k, v in want["net_input"].items())
    assert torch.equal(got["target"], want["target"])


def test_a_pivot_sentence_that_is_too_long_is_left_out(pivoting):
    indices = pivoting.dataset.ordered_indices()
    pivoting.dataset.pivot.src_sizes[indices[3]] = 2000
    pivoting.dataset.pivot.src_sizes[indices[4]] = 1024
    kept, ignored = pivoting.dataset.filter_indices_by_size(indices, (1024, 1024))
    assert ignored == [indices[3]]
    assert len(kept) == len(indices) - 1


def refuses(data, message, *flags, error=ValueError):
    with pytest.raises(error, match=f"{re.escape(message)}"):
        Setup(data, *PLAIN, *(flags or PIVOT))


def test_lines_out_of_step_are_refused_by_the_first_of_them(broken):
    def swap(language, lines):
        return [*lines[:3], lines[4], lines[3], *lines[5:]]

    refuses(broken(swap), "is out of step in line 4: the target of xx is ")


def test_a_target_of_other_words_in_the_same_number_is_out_of_step(broken):
    def turn(language, lines):
        turned = " ".join(reversed(lines[3].split()))
        return [*lines[:3], turned if language == "en" else lines[3], *lines[4:]]

    refuses(broken(turn), "is out of step in line 4: the target of xx is ")


def test_another_number_of_lines_is_refused(broken, pivoting):
    count = len(pivoting.dataset)
    message = (
        f"has different numbers of lines: xx {count}, en {count}, es {count - 1}. Line N of all"
    )
    refuses(broken(lambda language, lines: lines[:-1]), message)


def test_a_missing_line_is_refused(broken):
    def empty(language, lines):
        return [*lines[:6], "" if language == "es" else lines[6], *lines[7:]]

    refuses(broken(empty), "lacks the es sentence of line 7. Leave the line out of all three")


def test_a_missing_pivot_file_is_refused(three_way, tmp_path):
    out = shutil.copytree(three_way, tmp_path / "bin")
    for old in out.glob("valid.es-en.*"):
        old.unlink()
    message = f"{out}/valid.es-en.es.idx is missing. Binarise the valid sentences in es too:"
    refuses(str(out), message, error=FileNotFoundError)


def test_alignments_of_other_files_are_refused(three_way, prepared, tmp_path):
    out = shutil.copytree(three_way, tmp_path / "bin")
    text = write_backwards(prepared, tmp_path / "text")
    for name in ("valid.xx", "valid.es", "valid.links"):
        path = text / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    dictionary = prepared / "bin" / "dict.en.txt"
    preprocess(text, out, "xx", "es", dictionary, "--align-suffix", "links", sets=("valid",))
    refuses(str(out), "/valid.align.xx-es aligns ")


def test_links_beyond_a_sentence_are_refused(three_way, prepared, tmp_path):
    out = shutil.copytree(three_way, tmp_path / "bin")
    text = write_backwards(prepared, tmp_path / "text")
    lines = (text / "valid.links").read_text().splitlines()
    beyond = len((text / "valid.xx").read_text().splitlines()[4].split())  # its end symbol
    (text / "valid.links").write_text(
        "".join(f"{each}\n" for each in [*lines[:4], f"{beyond}-0", *lines[5:]])
    )
    dictionary = prepared / "bin" / "dict.en.txt"
    preprocess(text, out, "xx", "es", dictionary, "--align-suffix", "links", sets=("valid",))
    refuses(
        str(out), "/valid.align.xx-es links positions in line 5 that its sentences do not have."
    )


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ([0, 1, 1], "a.xx-es must hold pairs of positions, but has 3 numbers in line 2. Binarise "),
        ([0, -1], "a.xx-es links positions in line 2 that its sentences do not have. Align the "),
        ([-3, 0, 1, 1], "a.xx-es links positions in line 2 that its sentences do not have. Align "),
    ],
)
def test_rows_that_are_no_links_are_refused(row, fault, cut):
    rows = [torch.tensor(each) for each in ([0, 0], row)]
    sides = SimpleNamespace(src_sizes=np.array([4, 4]))
    with pytest.raises(ValueError, match=f"^{re.escape(fault)}"):
        check_links("a.xx-es", rows, sides, sides, cut)
    check_links("a.xx-es", [rows[0], torch.tensor([], dtype=torch.int)], sides, sides, cut)


@pytest.mark.parametrize(
    ("message", "flags"),
    [
        ("--task pivot_translation needs --kd-pivot-lang", [PIVOT[0], PIVOT[1], *PIVOT[4:]]),
        ("--kd-pivot-lang is xx, which is the student's own", [*PIVOT, "--kd-pivot-lang", "xx"]),
    ],
)
def test_a_pivot_language_must_be_given_and_be_another(three_way, message, flags):
    refuses(three_way, message, *flags)
