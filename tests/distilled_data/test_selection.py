"""Selections by their definition, with a similarity that is not symmetric."""

import itertools
import math
from collections import Counter

import pytest

from fairseq_kd.distilled_data.selection import SELECTIONS, similarity

WORDS = ["a b c d", "a b x d", "b c d e f", "x y", "a b c d"]


def overlap(hypothesis, reference):
    """The share of the hypothesis's words that the reference has: short ones gain."""
    words = hypothesis.split()
    return 100 * sum(word in reference.split() for word in words) / len(words)


def select(name, words=WORDS, reference="x y z", score=overlap):
    return SELECTIONS[name](words, reference, score)


def test_best_is_the_teachers_first():
    assert select("best") == [0]


def test_nbest_is_all_in_the_teachers_order():
    assert select("nbest") == [0, 1, 2, 3, 4]


def test_interpolation_is_nearest_to_the_reference_and_of_equals_the_first():
    assert select("interpolation") == [3]
    assert select("interpolation", reference="a b c d") == [0]
    assert select("interpolation", reference="q") == [0]
    assert select("interpolation", ["a b c d q", "b"], "a b c d") == [1]


def test_minimum_bayes_risk_has_the_largest_sum_over_all():
    for words in itertools.permutations(WORDS):
        sums = [math.fsum(overlap(h, g) for g in words) for h in words]
        chosen = select("mbr", words)[0]
        assert sums[chosen] == max(sums)
        assert words[chosen] == words[min(i for i, s in enumerate(sums) if s == max(sums))]


def test_minimum_bayes_risk_counts_a_hypothesis_as_often_as_it_came():
    assert select("mbr", ["a b", "x y", "x y"]) == [1]


def test_a_single_hypothesis_is_selected_by_all():
    for name in SELECTIONS:
        assert select(name, ["a"]) == [0]


SENTENCES = ["a b c d", "a b x d", "b c d e f", "a b", "a, b-c d."]


def sentence_bleu(hypothesis, reference):
    """BLEU of one sentence: exponential smoothing, n up to the words there are."""
    ours, theirs = hypothesis.split(), reference.split()
    if not set(ours) & set(theirs):
        return 0.0
    logs, halved = [], 1.0
    for n in range(1, min(4, len(ours)) + 1):
        grams = [
            Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
            for words in (ours, theirs)
        ]
        right, total = sum((grams[0] & grams[1]).values()), len(ours) - n + 1
        if right == 0:
            halved /= 2
        logs.append(math.log((right or halved) / total))
    brevity = min(1.0, math.exp(1 - len(theirs) / len(ours)))
    return 100 * brevity * math.exp(math.fsum(logs) / len(logs))


@pytest.mark.parametrize(("hypothesis", "reference"), itertools.permutations(SENTENCES, 2))
def test_bleu_is_smoothed_sentence_bleu_of_the_words_as_they_are(hypothesis, reference):
    found = similarity("bleu")(hypothesis, reference)
    assert found == pytest.approx(sentence_bleu(hypothesis, reference), rel=1e-9)


def test_similarity_is_0_to_100():
    for metric in ("bleu", "chrf"):
        assert similarity(metric)("the L ord said", "the L ord said") == pytest.approx(100)
        assert similarity(metric)("", "the L ord said") == 0
