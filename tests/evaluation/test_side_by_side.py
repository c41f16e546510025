"""Translations side by side, on sentences where one can see which is better."""

import itertools

from fairseq_kd.evaluation.pages import Searchable, Section, Span, html_page, markdown_page
from fairseq_kd.evaluation.results import SentenceResult
from fairseq_kd.evaluation.side_by_side import (
    MOST_SENTENCES,
    SHOWN,
    differing,
    largest_losses,
    sentence_results,
    side_by_side,
)

TEXTS = {"teacher": ["the dog eats", "a house"], "small": ["the dog sleeps", "a house"]}
REFERENCES = ["the dog eats", "a blue house"]


def test_words_that_the_reference_lacks_are_highlighted():
    runs = differing("the old dog eats fish", "the dog eats meat")
    assert runs == [Span("the"), Span("old", True), Span("dog eats"), Span("fish", True)]
    assert differing("the dog", "the old dog") == [Span("the"), Span("dog")]
    assert differing("", "the dog") == []


def test_sentences_are_in_the_order_of_what_is_lost():
    def sentence(number, good, bad):
        return SentenceResult(number, "", "", {}, {"good": good, "bad": bad})

    sentences = [sentence(1, 50, 40), sentence(2, 30, 70), sentence(3, 90, 10)]
    assert [each.number for each in largest_losses(sentences, "bad", "good")] == [3, 1]
    assert [each.number for each in largest_losses(sentences, "good", "bad")] == [2]
    many = [sentence(number, 50, 40) for number in range(30)]
    assert len(largest_losses(many, "bad", "good")) == SHOWN


def test_every_sentence_has_the_chrf_of_each_system():
    first, second = sentence_results(["el perro come", "una casa"], REFERENCES, TEXTS)
    assert first.chrf["teacher"] == 100 > first.chrf["small"] > 0
    assert (second.number, second.source, second.reference) == (2, "una casa", "a blue house")
    assert second.translations == {"teacher": "a house", "small": "a house"}
    assert second.chrf["teacher"] == second.chrf["small"]


def test_of_a_large_set_evenly_spread_sentences_are_kept():
    many = [str(number) for number in range(3 * MOST_SENTENCES)]
    kept = [each.number for each in sentence_results(many, many, {})]
    assert len(kept) == MOST_SENTENCES
    assert (kept[0], kept[-1]) == (1, len(many))
    assert {b - a for a, b in itertools.pairwise(kept)} <= {2, 3, 4}


def test_the_page_shows_versions_below_each_other_and_hides_the_rest():
    sentences = sentence_results(["<i> perro", "una | casa"], REFERENCES, TEXTS)
    shown = side_by_side(sentences[0], ("small", "teacher"))
    sections = [Section("TextVersions", [shown, Searchable("All", [side_by_side(sentences[1])])])]
    page = html_page("title", [], sections)
    assert '<dt>source</dt><dd dir="auto">&lt;i&gt; perro</dd>' in page
    assert '<dd dir="auto">the dog <mark>sleeps</mark></dd>' in page
    assert f"<h3>Sentence 1: chrF {sentences[0].chrf['small']:.0f} of small, 100 of teacher" in page
    fold = page.partition("<details>")[2].partition("</details>")[0]
    assert fold.count("<article>") == 1
    assert 'type="search"' in fold
    text = markdown_page("title", sections, "plots")
    assert "| teacher (100) " in text
    assert "una" not in text
    assert "All: in the HTML page." in text
