"""The lines of hypotheses: written, read back, and refused where one is missing."""

import math

import pytest

from fairseq_kd.sequence.hypotheses import UNTRANSLATED, Hypothesis, by_sentence, lines_of


def test_lines_are_those_of_fairseq_generate():
    found = [Hypothesis("the L@@ ord", -0.51234), Hypothesis("L@@ ord", -1.0)]
    assert lines_of(17, found) == "H-17\t-0.5123\tthe L@@ ord\nH-17\t-1.0000\tL@@ ord\n"


def test_what_was_written_is_read():
    texts = [[Hypothesis("a b", -0.5), Hypothesis("b", -1.25)], [], [Hypothesis("c", -2.0)]]
    lines = "".join(lines_of(i, each) for i, each in enumerate(texts)).splitlines(keepends=True)
    read = dict(by_sentence(lines))
    assert read == {0: texts[0], 1: [UNTRANSLATED], 2: texts[2]}
    assert read[1][0].score == -math.inf


def test_nothing_is_read_of_nothing():
    assert list(by_sentence([])) == []


@pytest.mark.parametrize(
    ("numbers", "found", "before", "due"),
    [((0, 2), 2, 0, 1), ((1, 2), 1, -1, 0), ((0, 1, 0), 0, 1, 2)],
)
def test_a_missing_line_is_named(numbers, found, before, due):
    lines = [f"H-{number}\t-1.0\ta\n" for number in numbers]
    message = f"^Sentence {found} follows sentence {before}, but {due} is due: a line is missing"
    with pytest.raises(ValueError, match=message):
        list(by_sentence(lines))
