"""The journal, cut off at every byte, damaged, and on a full disk."""

import os
import resource
import time

import pytest

from fairseq_kd.decoding.hypothesis_files import sorted_lines
from fairseq_kd.decoding.journal import Journal

TEXTS = ["H-4\t-1\tá\nH-4\t-2\tb\n", "H-0\t-1\tc\n", "H-2\t-1\td e\nH-1\t-3\t\n"]


@pytest.fixture
def path(tmp_path):
    journal = Journal(tmp_path / "journal", "mine")
    for number, text in enumerate(TEXTS):
        journal.append(number, text)
    journal.close()
    return tmp_path / "journal"


def reopened(path, title="mine"):
    journal = Journal(path, title)
    journal.close()
    return len(journal.numbers)


def test_batches_are_counted_and_their_lines_sorted(path):
    assert reopened(path) == 3
    lines = [line.decode() for line in sorted_lines(path)]
    assert lines == [
        "H-0\t-1\tc\n",
        "H-1\t-3\t\n",
        "H-2\t-1\td e\n",
        "H-4\t-1\tá\n",
        "H-4\t-2\tb\n",
    ]


def test_cut_off_at_any_byte_it_keeps_the_whole_batches_and_goes_on(path):
    content = path.read_bytes()
    ends = [content.index(text.encode()) + len(text.encode()) for text in TEXTS]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        journal = Journal(path, "mine")
        assert len(journal.numbers) == sum(end <= size for end in ends)
        for number in range(len(journal.numbers), 3):
            journal.append(number, TEXTS[number])
        journal.close()
        assert path.read_bytes() == content


DAMAGES = {  # of the second batch
    "a changed letter": (b"\tc\n", b"\tx\n"),
    "another checksum": (b"# batch 1, 9 bytes, crc32", b"# batch 1, 9 bytes, crc33"),
    "a size that is larger": (b"# batch 1, 9 bytes", b"# batch 1, 29 bytes"),
    "a size beyond the file": (b"# batch 1, 9 bytes", b"# batch 1, 999999999999 bytes"),
    "a size of twenty digits": (b"# batch 1, 9 bytes", b"# batch 1, 1%s bytes" % (b"0" * 20)),
    "a size of 5,000 digits": (b"# batch 1, 9 bytes", b"# batch 1, 1%s bytes" % (b"0" * 5000)),
    "a batch that is there": (b"# batch 1,", b"# batch 0,"),
    "a lost line end": (b"\tc\n#", b"\tc #"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_batch_alone_is_decoded_again(path, capsys, kind):
    content = path.read_bytes()
    path.write_bytes(content.replace(*DAMAGES[kind]))
    assert path.read_bytes() != content
    journal = Journal(path, "mine")
    lost = [1, 2] if kind == "a lost line end" else [1]
    assert journal.numbers == [number for number in range(3) if number not in lost]
    for number in lost:
        journal.append(number, TEXTS[number])
    journal.close()
    assert len(list(sorted_lines(path))) == 5
    text = (
        f"{path} was damaged: 2 of its batches are undamaged and kept, the others are decoded again"
    )
    assert (text in capsys.readouterr().err) == (lost == [1])
    assert reopened(path) == 3


def damaged_journal(path, batches, damaged):
    journal = Journal(path, "mine")
    for number in range(batches):
        journal.append(number, f"H-{number}\t-1\ta b\n")
    journal.close()
    content = path.read_bytes()
    for number in damaged:
        content = content.replace(b"H-%d\t-1\ta" % number, b"H-%d\t-1\tx" % number)
    path.write_bytes(content)
    return content


def test_any_number_of_damaged_batches_costs_no_other(tmp_path, capsys):
    damaged_journal(tmp_path / "journal", 60, range(40))
    assert reopened(tmp_path / "journal") == 20
    assert "20 of its batches are undamaged and kept" in capsys.readouterr().err


def test_a_journal_without_a_whole_batch_is_moved_aside(tmp_path, capsys):
    path = tmp_path / "journal"
    content = damaged_journal(path, 3, range(3))
    assert reopened(path) == 0
    assert path.read_bytes() == b"# mine\n"
    assert (tmp_path / "journal.damaged").read_bytes() == content
    text = f"{path} was damaged: all of its batches are damaged and are decoded again; it is"
    assert f"{text} kept as {path}.damaged\n" == capsys.readouterr().err


def test_damage_at_the_end_is_reported_and_is_not_taken_for_a_kill(tmp_path, capsys):
    damaged_journal(tmp_path / "journal", 4, [2, 3])
    assert reopened(tmp_path / "journal") == 2
    assert "2 of its batches are undamaged and kept" in capsys.readouterr().err


def test_false_sizes_do_not_make_a_journal_slow(tmp_path):
    path, records = tmp_path / "journal", 20_000
    path.write_bytes(b"# mine\n" + b"# batch 1, 100000 bytes, crc32 00000000\n" * records)
    start = time.process_time()
    assert reopened(path) == 0
    assert time.process_time() - start < 1  # read to that size each time, it takes some ten seconds


@pytest.mark.parametrize("old", [b"# mine\n", b"# mine", b"e\n"])
def test_a_damaged_first_line_costs_no_batch(path, old):
    content = path.read_bytes()
    path.write_bytes(content.replace(old, b"?" * len(old), 1))
    lost = old.endswith(b"\n")
    text = (
        rf"first line must be '# mine', but is '.*correct that line to keep its {3 - lost} batches"
    )
    with pytest.raises(ValueError, match=text):
        Journal(path, "mine")
    path.write_bytes(b"# mine\n" + path.read_bytes().partition(b"\n")[2])
    assert reopened(path) == 3 - lost


def test_a_journal_of_two_names_is_changed_under_its_own_alone(path, tmp_path):
    content = path.read_bytes()
    os.link(path, tmp_path / "backup")
    journal = Journal(path, "mine")
    journal.append(3, "H-5\t-1\te\n")
    journal.close()
    assert reopened(path) == 4
    assert (tmp_path / "backup").read_bytes() == content


def test_another_decodings_journal_is_refused_and_kept(path):
    content = path.read_bytes()
    with pytest.raises(ValueError, match="belongs to another decoding"):
        Journal(path, "yours")
    assert path.read_bytes() == content


def test_what_a_full_disk_took_of_a_batch_is_removed(path):
    content = path.read_bytes()
    journal = Journal(path, "mine")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 40, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.append(3, "H-5\t-1\t" + 100 * "e")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == content
    journal.append(3, "H-5\t-1\te\n")
    journal.close()
    assert reopened(path) == 4


def test_a_batch_that_lacks_its_sentence_is_decoded_again(path, capsys):
    journal = Journal(path, "mine", lambda number, text: text != TEXTS[1].encode())
    assert journal.numbers == [0, 2]
    journal.close()
    assert "2 of its batches are undamaged and kept" in capsys.readouterr().err
