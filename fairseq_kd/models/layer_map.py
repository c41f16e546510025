"""Layer maps: the pairs of student and teacher layers that are compared, counted from 0."""

import math
import re
import sys
from typing import List, NamedTuple

from fairseq_kd.flag_types import Range

NAMED = ("uniform", "last", "none")
PAIR_WEIGHT = Range(float, 1e-12, 1e6)
PAIRS = "pairs student:teacher or student:teacher:weight, such as 0:1,1:3:0.5"


class LayerPair(NamedTuple):
    """A student layer, the teacher layer that it learns from, and the weight lambda of its term."""

    student: int
    teacher: int
    weight: float = 1.0


def uniform(n_student: int, n_teacher: int) -> List[LayerPair]:
    """Every student layer, with teacher layers at equal distances that end with the last.

    Layer l of L_S, counted from 1, learns from layer ``round(l * L_T / L_S)``, at least the first:
    6 of 12 are 2, 4, 6, 8, 10, 12.
    """
    return [
        LayerPair(layer - 1, max(1, (2 * layer * n_teacher + n_student) // (2 * n_student)) - 1)
        for layer in range(1, n_student + 1)
    ]


def spread(n_student: int, n_teacher: int) -> List[int]:
    """Teacher layers that initialise a student: first, last, and others at equal distances.

    A student of one layer starts from the first.
    """
    if n_student == 1:
        return [0]
    gaps = n_student - 1
    return [(2 * i * (n_teacher - 1) + gaps) // (2 * gaps) for i in range(n_student)]


def check_layer_map(text: str, flag: str) -> None:
    """Refuses text that is wrong for models of any number of layers: see ``parse_layer_map``."""
    if text not in NAMED:
        parse_layer_map(text, flag, "layers", sys.maxsize, sys.maxsize)


def parse_layer_map(
    text: str, flag: str, side: str, n_student: int, n_teacher: int
) -> List[LayerPair]:
    """The pairs in the text of a flag.

    Args:
        text: ``uniform``, ``last``, ``none``, or pairs ``student:teacher[:weight],...``.
        flag: the flag's name, for the error.
        side: ``encoder`` or ``decoder``, for the error.
        n_student: the student's number of layers.
        n_teacher: the teacher's.

    Raises:
        ValueError: the text is none of these, names a layer that does not exist or a pair twice,
            or a weight is not above 0.
    """
    if text == "none":
        return []
    if text == "last":
        return [LayerPair(n_student - 1, n_teacher - 1)]
    if text == "uniform":
        return uniform(n_student, n_teacher)
    pairs = [_parse_pair(item, text, flag) for item in text.split(",")]
    for pair in pairs:
        for owner, layer, count in (
            ("student", pair.student, n_student),
            ("teacher", pair.teacher, n_teacher),
        ):
            if layer >= count:
                raise ValueError(
                    f"{flag} {text} names layer {layer} of the {owner}'s {side}, but its layers "
                    f"are 0 to {count - 1}. Name one of these."
                )
        if [other[:2] for other in pairs].count(pair[:2]) > 1:
            raise ValueError(
                f"{flag} {text} names the pair {pair.student}:{pair.teacher} twice. Name it once, "
                "with a weight if it is to count more."
            )
    return pairs


def _parse_pair(item: str, text: str, flag: str) -> LayerPair:
    match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6})(?::(.+))?", item.strip())
    if match is None:
        raise ValueError(f"{flag} must be uniform, last, none or {PAIRS}, but is {text}.")
    try:
        weight = float(match[3] or 1.0)
    except ValueError:
        weight = math.nan
    if not PAIR_WEIGHT.holds(weight):
        raise ValueError(
            f"{flag} {text} gives the pair {match[1]}:{match[2]} the weight {match[3]}, which must "
            f"be {PAIR_WEIGHT}. Leave the pair out to ignore it."
        )
    return LayerPair(int(match[1]), int(match[2]), weight)
