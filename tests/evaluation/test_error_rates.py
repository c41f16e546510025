"""Shares of translations that go wrong, on sentences where one can count them."""

from pathlib import Path

import pytest
from harness import LSTM, Setup

from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.evaluation.error_rates import (
    agreement,
    detached,
    error_rates,
    in_training_set,
    rare_share,
)
from fairseq_kd.evaluation.results import ErrorRates
from fairseq_kd.evaluation.systems import NamedCheckpoint, common_subset, load_systems


def test_empty_copied_and_repeating_translations_are_counted():
    sources = ["uno dos tres", "Jerusalén", "el perro come", "la casa es azul hoy"]
    references = ["one two three", "Jerusalem", "the dog eats", "a b c d a b c d"]
    hypotheses = ["Uno dos TRES", "Jerusalén", "", "a b c d a b c d"]
    assert error_rates(sources, hypotheses, references) == ErrorRates(
        empty=0.25,
        copied=0.25,  # a single word is not a copy
        repeating=0.0,  # the reference repeats it, too
        length_ratio=12 / 15,
        detached=0.5,  # the copy and the empty one
    )


def test_four_words_that_come_again_are_a_repetition():
    looping = "and he said to him and he said to them"
    assert error_rates(["x"], [looping], ["and he said to him"]).repeating == 1.0


def test_nothing_to_measure_gives_zeros():
    assert set(vars(error_rates([], [], [])).values()) == {0.0, None}
    assert error_rates([], [], [], []).memorised == 0.0


def test_a_translation_of_another_sentence_is_detached():
    references = ["the dog eats", "a blue house", "he came home", "she went away", "it rains now"]
    hypotheses = ["the dog ate", "a green house", "she went away", "she goes away", "rain"]
    assert detached(hypotheses, references) == [False, False, True, False, False]
    assert detached(["the dog"] * 2, ["the dog"] * 2) == [False, False]  # there is no other one
    assert detached(["x"], ["y"]) == [False]


def test_translations_from_the_training_set_are_memorised_unless_they_are_the_reference(data):
    subset = read_subset(Path(data), "train", ("es", "en"))
    symbols = [subset.target_dictionary.string(subset.target[i]) for i in range(3)]
    tokens = {"a": [symbols[0], f"{symbols[1]} {symbols[0]}"], "b": ["", symbols[2]]}
    kept = in_training_set(tokens, subset, subset.target)
    assert kept == {"a": [True, False], "b": [False, True]}
    texts, references = ["a b c d", "a b c d", "a b c", "a b c d e"], ["x", "a b c d", "x", "x"]
    rates = error_rates(references, texts, references, [True, True, True, False])
    assert rates.memorised == 0.25


def test_agreement_with_an_lstm_which_reads_the_longest_sources_first(data, teacher, tmp_path):
    path = str(Setup(data, "--criterion", "cross_entropy", training=LSTM).save(tmp_path / "l.pt"))
    named = [("teacher", "lstm", path), ("student", "same", path), ("student", "other", teacher)]
    systems = load_systems([NamedCheckpoint(*each) for each in named], Path(data))
    shares = agreement(systems, common_subset(systems, Path(data), "valid"))
    assert shares["lstm"] == shares["same"] == 1.0
    assert shares["other"] < 1.0


@pytest.mark.parametrize(
    ("bpe", "sentence", "share"),
    [
        ("subword_nmt", "the lo@@ rd is kind", 1 / 4),
        ("subword_nmt", "Ne@@ bu@@ chad@@ nezzar", 1.0),
        ("subword_nmt", "the <unk> is kind", 1 / 4),
        ("subword_nmt", "", 0.0),
        ("sentencepiece", "\u2581the \u2581lo rd \u2581is", 1 / 3),
        ("_EOW", "the_EOW lo rd_EOW", 1 / 2),
        ("none", "the lord", 0.0),
    ],
)
def test_a_word_is_rare_if_it_is_split_or_unknown(bpe, sentence, share):
    assert rare_share(sentence.split(), bpe, "<unk>") == pytest.approx(share)
