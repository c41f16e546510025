"""Required agreement of a teacher and a student, on tasks made for the tests."""

from types import SimpleNamespace

import pytest
from fairseq.data import Dictionary

from fairseq_kd.teachers.compatibility import check_same_vocabulary


def dictionary(*words):
    made = Dictionary()
    for word in words:
        made.add_symbol(word)
    return made


def task(pair=("de", "en"), source=("ein", "haus"), target=("a", "house")):
    cfg = SimpleNamespace(source_lang=pair[0], target_lang=pair[1], data="data-bin")
    sides = {"source_dictionary": dictionary(*source), "target_dictionary": dictionary(*target)}
    return SimpleNamespace(cfg=cfg, **sides)


def test_equal_vocabularies_pass():
    check_same_vocabulary("--kd-teacher teacher.pt", task(), task())


def test_the_first_differing_target_symbol_is_named():
    message = (
        'The target dictionaries of --kd-teacher teacher.pt and data-bin differ at index 5: "hut" '
        'against "house". Binarise the data with --tgtdict and the teacher\'s dict.en.txt.'
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_same_vocabulary("--kd-teacher teacher.pt", task(target=("a", "hut")), task())


@pytest.mark.parametrize(
    ("longer", "symbols"),
    [("student", 'no symbol against "dach"'), ("teacher", '"dach" against no symbol')],
)
def test_a_longer_dictionary_differs_where_the_shorter_ends(longer, symbols):
    tasks = [task(source=("ein", "haus", "dach")), task()]
    teacher, student = tasks if longer == "teacher" else tasks[::-1]
    with pytest.raises(ValueError, match=f"differ at index 6: {symbols}"):
        check_same_vocabulary("--kd-teacher teacher.pt", teacher, student)


def test_another_pair_is_named_even_with_equal_dictionaries():
    with pytest.raises(ValueError, match=r"translates de-fr, but the student learns de-en\. Give"):
        check_same_vocabulary("--kd-teacher teacher.pt", task(pair=("de", "fr")), task())


def test_a_student_that_translates_nothing_is_refused():
    with pytest.raises(ValueError, match=r"has no single language pair\. Distil with"):
        check_same_vocabulary("--kd-teacher teacher.pt", task(), task(pair=(None, None)))
