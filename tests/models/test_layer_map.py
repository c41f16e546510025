"""Pairs of layers: by rule, by the user's choice, and refusals."""

import re

import pytest

from fairseq_kd.models.layer_map import LayerPair, parse_layer_map, spread, uniform


def parse(text, n_student=3, n_teacher=6):
    return parse_layer_map(text, "--kd-feature-layers", "encoder", n_student, n_teacher)


def test_uniform_ends_with_the_last_layer_of_both():
    assert [pair.teacher for pair in uniform(6, 12)] == [1, 3, 5, 7, 9, 11]
    assert [pair.teacher for pair in uniform(5, 12)] == [1, 4, 6, 9, 11]
    assert [pair.teacher for pair in uniform(4, 3)] == [0, 1, 1, 2]
    for n_student in range(1, 13):
        for n_teacher in range(1, 13):
            pairs = uniform(n_student, n_teacher)
            assert [pair.student for pair in pairs] == list(range(n_student))
            assert pairs[-1].teacher == n_teacher - 1
            assert all(pair.teacher >= 0 for pair in pairs)
            assert all(pair.weight == 1 for pair in pairs)


def test_spread_keeps_the_first_and_the_last_layer():
    assert spread(3, 6) == [0, 3, 5]
    assert spread(4, 12) == [0, 4, 7, 11]
    assert spread(1, 6) == [0]
    for n_teacher in range(2, 13):
        for n_student in range(2, n_teacher + 1):
            layers = spread(n_student, n_teacher)
            assert (layers[0], layers[-1]) == (0, n_teacher - 1)
            assert layers == sorted(set(layers))


def test_a_map_is_uniform_last_none_or_pairs_of_layers():
    assert parse("uniform") == [LayerPair(0, 1), LayerPair(1, 3), LayerPair(2, 5)]
    assert parse("last") == [LayerPair(2, 5)]
    assert parse("none") == []
    assert parse("0:1, 2:5:0.5") == [LayerPair(0, 1, 1.0), LayerPair(2, 5, 0.5)]
    assert parse("2:0,2:1,0:1") == [LayerPair(2, 0), LayerPair(2, 1), LayerPair(0, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *[
            (
                text,
                "must be uniform, last, none or pairs student:teacher or student:teacher:weight, "
                f"such as 0:1,1:3:0.5, but is {text}.",
            )
            for text in ("", "first", "0-1", "0:1,", "-1:2", "0:1:", "1")
        ],
        (
            "0:1,3:5",
            "0:1,3:5 names layer 3 of the student's encoder, but its layers are 0 to 2. Name one "
            "of these.",
        ),
        (
            "0:6",
            "0:6 names layer 6 of the teacher's encoder, but its layers are 0 to 5. Name one of "
            "these.",
        ),
        (
            "0:1,0:1:2",
            "0:1,0:1:2 names the pair 0:1 twice. Name it once, with a weight if it is to count "
            "more.",
        ),
        *[
            (
                f"0:1:{weight}",
                f"0:1:{weight} gives the pair 0:1 the weight {weight}, which must be a number "
                "from 1e-12 to 1,000,000. Leave the pair out to ignore it.",
            )
            for weight in ("0", "-1", "nan", "inf", "much", "1e-40", "1e300")
        ],
    ],
)
def test_a_map_of_no_layers_of_the_models_is_refused(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape('--kd-feature-layers ' + message)}$"):
        parse(text)
