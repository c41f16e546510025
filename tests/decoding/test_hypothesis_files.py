"""Shards that are cut off, changed, swapped, missing or too many, and their merging."""

import hashlib
import re

import pytest

from fairseq_kd.decoding.hypothesis_files import (
    WHOLE,
    check_cut,
    check_shard,
    merge,
    missing_shards,
    shard_file,
    sorted_lines,
    write_shard,
)
from fairseq_kd.shard import Shard

DECODING = "0123456789abcdef"
COUNT, SENTENCES = 3, 20


def lines_of_shard(index):
    return [
        b"H-%d\t-%d\tword %d\n" % (i, rank, i)
        for i in range(index - 1, SENTENCES, COUNT)
        for rank in (1, 2)
    ]


@pytest.fixture
def folder(tmp_path):
    for index in range(1, COUNT + 1):
        shard = Shard(index, COUNT)
        write_shard(tmp_path / shard_file(shard), shard, DECODING, lines_of_shard(index))
    return tmp_path


def first(folder):
    return folder / shard_file(Shard(1, COUNT))


def test_a_shard_records_its_number_and_its_sentences(folder):
    assert check_shard(first(folder), DECODING) == (Shard(1, 3), 7)


def test_merged_shards_are_the_undivided_file(folder, tmp_path_factory):
    undivided = tmp_path_factory.mktemp("undivided") / WHOLE
    lines = sorted(
        (line for index in (1, 2, 3) for line in lines_of_shard(index)),
        key=lambda line: int(re.match(rb"H-(\d+)", line)[1]),
    )
    write_shard(undivided, Shard(), DECODING, lines)
    merge(folder, DECODING, SENTENCES)
    assert (folder / WHOLE).read_bytes() == undivided.read_bytes()
    assert [path.name for path in folder.iterdir()] == [WHOLE]


@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2), Shard(1, 13)], ids=str)
def test_another_cut_is_refused_before_it_is_decoded(folder, shard):
    check_cut(folder, Shard(2, COUNT))
    with pytest.raises(ValueError, match=f"is one of 3 shards and overlaps shard {shard}"):
        check_cut(folder, shard)


def refused(folder, message, error=ValueError):
    """Merging fails with a message, makes no file, and leaves all shards as they are."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(error, match=message):
        merge(folder, DECODING, SENTENCES)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_shard_cut_off_at_any_line_is_refused(folder):
    lines = first(folder).read_bytes().splitlines(keepends=True)
    for kept in range(len(lines)):
        first(folder).write_bytes(b"".join(lines[:kept]))
        refused(folder, f"{first(folder)} is cut off: its last line does not name a shard.")
    first(folder).write_bytes(b"".join(lines)[:-1])
    refused(folder, "is cut off")


def test_swapped_shards_are_refused(folder):
    second = folder / shard_file(Shard(2, COUNT))
    content = first(folder).read_bytes(), second.read_bytes()
    first(folder).write_bytes(content[1])
    second.write_bytes(content[0])
    refused(folder, f"{first(folder)} holds shard 2/3: files were renamed or swapped. Rename it to")


def test_a_changed_line_is_refused(folder):
    first(folder).write_bytes(first(folder).read_bytes().replace(b"word 3\n", b"word 4\n", 1))
    refused(folder, f"{first(folder)} was changed after it was written: its hash differs.")


def test_a_shard_that_lacks_a_line_is_refused(folder):
    first(folder).write_bytes(first(folder).read_bytes().replace(b"H-3\t-1\tword 3\n", b"", 1))
    refused(folder, "was changed after it was written")


def test_a_shard_of_another_decoding_is_refused(folder):
    write_shard(first(folder), Shard(1, 3), "f" * 16, lines_of_shard(1))
    text = f"{first(folder)} belongs to another decoding (teacher, data or options) than its "
    text += "folder. Move it to the folder where it was decoded, or give this folder the decoding"
    refused(folder, re.escape(text))


def test_a_gap_is_refused_by_the_missing_shards(folder):
    first(folder).unlink()
    assert missing_shards(folder) == [Shard(1, 3)]
    refused(folder, "lacks 1 of 3 shards: 1/3. Run translate with --shard", FileNotFoundError)


def test_a_gap_within_whole_shards_is_refused(folder):
    write_shard(first(folder), Shard(1, 3), DECODING, lines_of_shard(1)[:-2])
    refused(folder, "Sentence 18 of 20 is in no shard")


def test_a_gap_at_the_end_is_refused(folder):
    write_shard(folder / shard_file(Shard(2, 3)), Shard(2, 3), DECODING, lines_of_shard(2)[:-2])
    refused(folder, "Sentence 19 of 20 is in no shard")


def test_an_overlap_is_refused(folder):
    write_shard(first(folder), Shard(1, 3), DECODING, [*lines_of_shard(1)[:2], b"H-1\t-1\tx\n"])
    refused(folder, f"Sentence 1 is in both {first(folder).name} and hypotheses-2-of-3.txt")


def test_shards_of_two_cuts_are_refused(folder):
    write_shard(folder / shard_file(Shard(1, 2)), Shard(1, 2), DECODING, [])
    refused(folder, "holds files of 2 and 3 shards, which overlap. Remove those of one number.")


@pytest.mark.parametrize(
    "name",
    [
        "1-of-2-old",
        "1-of-30000000",
        "1-of-" + "9" * 200,
        "1-of-0",
        "x-of-2",
        "1-of-2.txt",
        "²-of-2",
    ],
)
def test_a_file_that_no_shard_writes_is_none(folder, name):
    (folder / f"hypotheses-{name}.txt").write_text("mine\n")
    assert missing_shards(folder) == []
    merge(folder, DECODING, SENTENCES)
    assert {path.name for path in folder.iterdir()} == {WHOLE, f"hypotheses-{name}.txt"}


def test_a_number_that_no_sentence_has_is_not_a_hypothesis(folder):
    lines = [*lines_of_shard(1)[:-1], b"H-%s\t-1\tx\n" % (b"9" * 5000)]
    (folder / "journal").write_bytes(b"".join(lines))
    with pytest.raises(
        ValueError, match=rf"^{folder}/journal, byte \d+, is not a hypothesis\. Rem"
    ):
        list(sorted_lines(folder / "journal"))
    (folder / "journal").unlink()
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    end = f"# shard 1/3 of decoding {DECODING}: 7 sentences, sha256 {digest}\n"
    first(folder).write_bytes(b"".join(lines) + end.encode())
    refused(folder, f"{first(folder)}, line 14, is not a hypothesis.")


def test_a_shard_that_is_no_text_is_named_with_its_line(folder):
    lines = first(folder).read_bytes().splitlines(keepends=True)[:-1]
    lines[2] = lines[2].rstrip(b"\n") + b"\xff\n"
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    end = f"# shard 1/3 of decoding {DECODING}: 7 sentences, sha256 {digest}\n"
    first(folder).write_bytes(b"".join(lines) + end.encode())
    refused(folder, f"{first(folder)}, line 3, is not a hypothesis.")


@pytest.mark.parametrize("name", [WHOLE, "hypotheses-1-of-3.txt"])
def test_a_link_is_neither_merged_nor_replaced(folder, tmp_path, name):
    elsewhere, path = tmp_path / "elsewhere", folder / name
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.write_text("kept\n")
    path.symlink_to(elsewhere)
    refused(folder, f"{path} is a symbolic link.")
    assert path.is_symlink()


def test_nothing_to_merge_is_reported(tmp_path):
    refused(tmp_path, "holds no finished shard. Run translate --shard first.", FileNotFoundError)


def test_the_files_of_shards_sort_in_their_order():
    assert shard_file(Shard(3, 64)) == "hypotheses-03-of-64.txt"
    assert shard_file(Shard()) == WHOLE
