"""The journal, cut off at every byte, damaged, and on a disk that is full."""

import resource

import pytest

from fairseq_kd.sequence.journal import Journal
from fairseq_kd.sequence.shards import sorted_lines

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
    return journal.batches


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
        assert journal.batches == sum(end <= size for end in ends)
        for number in range(journal.batches, 3):
            journal.append(number, TEXTS[number])
        journal.close()
        assert path.read_bytes() == content


def test_a_damaged_batch_is_decoded_again_with_all_after_it(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\tc\n", b"\tx\n"))
    assert reopened(path) == 1
    assert path.read_bytes() == content[: content.index(b"# batch 1")]


@pytest.mark.parametrize("size", ["999999999999", "1" + "0" * 20, "1" + "0" * 5000])
def test_a_batch_that_claims_more_than_the_file_has_is_decoded_again(path, size):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"# batch 1, 9 bytes", b"# batch 1, %s bytes" % size.encode()))
    assert path.read_bytes() != content
    assert reopened(path) == 1
    assert path.read_bytes() == content[: content.index(b"# batch 1")]


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
