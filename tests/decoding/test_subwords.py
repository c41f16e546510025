"""Detection of the subword method from the dictionary, and refusal of another one."""

import re
from types import SimpleNamespace

import pytest
from fairseq.data import Dictionary

from fairseq_kd.decoding.subset import check_splitting, splitting_of, words_of

PIECES = {
    "sentencepiece": ["\u2581the", "\u2581light", "s", "ning", "."],
    "subword_nmt": ["the", "light@@", "s", "n@@", "ing"],
    None: ["the", "lights", "@@", "a", "I", "of", "and", "to", "in", "that", "it"],
}


def dictionary(words):
    made = Dictionary()
    for word in words:
        made.add_symbol(word)
    return made


@pytest.mark.parametrize(("split", "words"), PIECES.items())
def test_the_marks_of_the_pieces_tell(split, words):
    assert splitting_of(dictionary(words)) == split
    assert splitting_of(dictionary([])) is None


@pytest.mark.parametrize(
    ("source", "target", "given", "text"),
    [
        ("sentencepiece", None, "subword_nmt", "\u2581the shows. Give --remove-bpe sentencepiece"),
        (None, "subword_nmt", "sentencepiece", "light@@ shows. Give --remove-bpe subword_nmt."),
        ("sentencepiece", "sentencepiece", "sentencepiece", None),
        ("subword_nmt", "subword_nmt", "subword_nmt", None),
        ("sentencepiece", "sentencepiece", "none", None),
        (None, None, "subword_nmt", None),
    ],
)
def test_either_side_is_looked_at(source, target, given, text):
    sides = (dictionary(PIECES[split]) for split in (source, target))
    subset = SimpleNamespace(
        **dict(zip(("source_dictionary", "target_dictionary"), sides, strict=True))
    )
    if text is None:
        check_splitting(subset, given)
        return
    with pytest.raises(ValueError, match=re.escape(text)):
        check_splitting(subset, given)


@pytest.mark.parametrize(
    ("split", "tokens", "words"),
    [
        ("sentencepiece", "\u2581the \u2581light ning .", "the lightning."),
        ("subword_nmt", "the light@@ n@@ ing .", "the lightning ."),
        ("none", "the light@@ ning", "the light@@ ning"),
    ],
)
def test_words_are_put_together_again(split, tokens, words):
    assert words_of(tokens, split) == words
