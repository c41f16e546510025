"""The score of every filter on hand-counted pairs, its threshold, and its counts."""

import math

import pytest

from fairseq_kd.distilled_data.filters import FILTERS, Pair, PairFilters

BY_NAME = {each.name: each for each in FILTERS}


def pair(source="la casa", target="the house", score=-1.0, **other):
    return Pair(source.split(), target.split(), source.split(), target.split(), score, **other)


@pytest.mark.parametrize(
    ("name", "of", "score"),
    [
        ("words", pair(target=""), 0),
        ("words", pair(target="a b c"), 3),
        ("teacher_score", pair(score=-2.5), -2.5),
        ("length_ratio", pair("a b c d e", "a"), 6 / 2),  # with the ends of sentence
        ("length_ratio", pair("a", "a b c d e"), 6 / 2),
        ("length_ratio", pair("a", ""), 2),
        ("copied", pair("uno dos dos", "uno uno dos tres"), 2 / 4),
        ("copied", pair("uno", "uno"), 1),
        ("copied", pair("uno", ""), 0),
        ("repeated", pair("x", "a b a b a b"), 2 / 4),  # aba bab aba bab
        ("repeated", pair("x", "no no no no no"), 2 / 3),
        ("repeated", pair("q r q r q r", "a b a b a b"), 0),  # the source repeats as much
        ("repeated", pair("x", "a b"), 0),
        ("similarity", pair(similarity=33.0), 33.0),
        ("duplicates", pair(earlier=2), 2),
    ],
)
def test_a_filter_scores_a_pair_as_defined(name, of, score):
    assert BY_NAME[name].score(of) == pytest.approx(score)


def test_copies_are_counted_in_words_and_lengths_in_tokens():
    split = Pair(["ca@@", "sa"], ["c@@", "a@@", "sa"], ["casa"], ["casa"], -1.0)
    assert BY_NAME["copied"].score(split) == 1
    assert BY_NAME["length_ratio"].score(split) == 4 / 3


def test_a_pair_on_the_threshold_is_kept():
    for each in FILTERS:
        step = 1.0 if each.flag.startswith("--min") else -1.0
        assert each.keeps(2.0, 2.0)
        assert not each.keeps(2.0, 2.0 + step)
        assert each.keeps(2.0, 2.0 - step)


def test_a_similarity_that_was_not_computed_reaches_no_threshold():
    assert math.isnan(BY_NAME["similarity"].score(pair()))
    assert PairFilters({"similarity": 0.0}).apply(pair())[1] == "similarity"


def test_what_each_filter_took_and_would_take_is_counted():
    bank = PairFilters({"words": 1, "teacher_score": -2.0, "length_ratio": 3.0})
    kept = bank.apply(pair())
    assert kept[1] is None
    assert len(kept[0]) == len(FILTERS)
    assert bank.apply(pair(target="", score=-math.inf))[1] == "words"
    assert bank.apply(pair(score=-3))[1] == "teacher_score"
    assert bank.apply(pair("a b c d e f g h", "a", score=-3))[1] == "teacher_score"
    assert bank.apply(pair("a b c d e f g h", "a"))[1] == "length_ratio"
    counts = {name: (bank.removed[name], bank.removed_alone[name]) for name in bank.thresholds}
    assert counts == {"words": (1, 1), "teacher_score": (2, 3), "length_ratio": (1, 2)}


def test_a_filter_without_a_threshold_takes_nothing():
    assert PairFilters({}).apply(pair(target="", score=-math.inf))[1] is None


def test_inf_turns_a_filter_off():
    bank = PairFilters({"length_ratio": math.inf, "teacher_score": -math.inf})
    assert bank.apply(pair("a", "b " * 500, score=-math.inf))[1] is None
