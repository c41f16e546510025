"""The lines of hypotheses: written, read back, and refused where one is missing."""

import math
import re

import pytest

from fairseq_kd.decoding.hypothesis_files import UNTRANSLATED, Hypothesis, by_sentence, lines_of


def test_lines_are_those_of_fairseq_generate():
    found = [Hypothesis("the L@@ ord", -0.51234), Hypothesis("L@@ ord", -1.0)]
    assert lines_of(17, found) == "H-17\t-0.5123\tthe L@@ ord\nH-17\t-1.0000\tL@@ ord\n"


@pytest.fixture
def read(tmp_path):
    """The hypotheses read from a file with these lines."""

    def read(*lines, words=None):
        (tmp_path / "h.txt").write_bytes(b"".join(lines))
        return dict(by_sentence(tmp_path / "h.txt", words))

    return read


def test_what_was_written_is_read(read):
    texts = [[Hypothesis("a b", -0.5), Hypothesis("b", -1.25)], [], [Hypothesis("c", -2.0)]]
    lines = [lines_of(i, each).encode() for i, each in enumerate(texts)]
    found = read(*lines, b"# the end\n", words={"a", "b", "c"})
    assert found == {0: texts[0], 1: [UNTRANSLATED], 2: texts[2]}
    assert found[1][0].score == -math.inf


def test_nothing_is_read_of_nothing(read):
    assert read() == {}


@pytest.mark.parametrize(
    ("numbers", "found", "before", "due"),
    [((0, 2), 2, 0, 1), ((1, 2), 1, -1, 0), ((0, 1, 0), 0, 1, 2)],
)
def test_a_missing_line_is_named(read, tmp_path, numbers, found, before, due):
    place = f"{tmp_path / 'h.txt'}, line {len(numbers) if before >= 0 else 1},"
    message = (
        f"^{place}: sentence {found} follows sentence {before}, but {due} is expected: a line is"
    )
    with pytest.raises(ValueError, match=message):
        read(*(f"H-{number}\t-1.0\ta\n".encode() for number in numbers))


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b"H-1\t-1.0\ta zz\n", 'holds "zz", which the dictionary lacks'),
        (b"H-1\t-1.0\n", "is not a hypothesis: 'H-1\\t-1.0'"),
        (b"H-one\t-1.0\ta\n", "is not a hypothesis: 'H-one\\t-1.0\\ta'"),
        (b"H-1\tgood\ta\n", "is not a hypothesis: 'H-1\\tgood\\ta'"),
        (b"H-1\t-1.0\t\xff\n", "is not UTF-8"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(read, tmp_path, line, wrong):
    message = f"{tmp_path / 'h.txt'}, line 2, {wrong}. Decode again."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(b"H-0\t-1.0\ta\n", line, words={"a"})
