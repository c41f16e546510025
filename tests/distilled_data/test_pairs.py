"""Selected pairs, and their display."""

from fairseq_kd.decoding.hypothesis_files import Hypothesis
from fairseq_kd.distilled_data.filters import PairFilters
from fairseq_kd.distilled_data.pairs import PairCounts, ScoredPair
from fairseq_kd.distilled_data.selection import Sentence


def test_words_of_a_dictionary_do_not_steer_the_terminal_in_examples():
    title, colour = "\x1b]0;title\x07uno", "\x9b31m"
    sentence = Sentence(0, title, f"{colour}one", [Hypothesis("one\x1b[2J", -0.5)])
    counts = PairCounts(1, (3, 3))
    pair = ScoredPair(sentence, 0, [], None)
    counts.add(pair)
    counts.keep(pair, ([5], [6]))
    assert counts.text(PairFilters({})).splitlines()[-3:] == [
        r"[0] \x1b]0;title\x07uno",
        r"    reference  \x9b31mone",
        r"    distilled  one\x1b[2J",
    ]
