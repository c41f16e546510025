"""Whether a teacher's distributions mean the same to the student: same languages, same
dictionaries.
"""

from itertools import zip_longest

from fairseq.data import Dictionary
from fairseq.tasks import FairseqTask


def check_same_words(path: str, teacher: FairseqTask, student: FairseqTask) -> None:
    """Refuses a teacher of another language pair or with other dictionaries than the student's.

    Args:
        path: the teacher's checkpoint, as the user typed it.
        teacher: the task that the teacher was trained on.
        student: the task of the training.

    Raises:
        ValueError: naming the two pairs, or the first index at which the dictionaries differ and
            both symbols there.
    """
    pairs = [(task.cfg.source_lang, task.cfg.target_lang) for task in (teacher, student)]
    if pairs[0] != pairs[1]:
        (teacher_source, teacher_target), (source, target) = pairs
        swapped = " (the pair is swapped)" if pairs[0] == pairs[1][::-1] else ""
        raise ValueError(
            f"--kd-teacher {path} translates {teacher_source}-{teacher_target}, but the student "
            f"learns {source}-{target}{swapped}. Give a teacher of the same direction, or change "
            "--source-lang and --target-lang."
        )
    sides = (
        ("source", student.cfg.source_lang, teacher.source_dictionary, student.source_dictionary),
        ("target", student.cfg.target_lang, teacher.target_dictionary, student.target_dictionary),
    )
    for side, language, theirs, ours in sides:
        _check_same_dictionary(side, language, path, theirs, ours, student.cfg.data)


def _check_same_dictionary(
    side: str, language: str, path: str, teacher: Dictionary, student: Dictionary, data: str
) -> None:
    for index, (theirs, ours) in enumerate(zip_longest(teacher.symbols, student.symbols)):
        if theirs != ours:
            theirs, ours = (
                f'"{symbol}"' if symbol is not None else "no symbol" for symbol in (theirs, ours)
            )
            option = "--srcdict" if side == "source" else "--tgtdict"
            raise ValueError(
                f"The {side} dictionaries of --kd-teacher {path} and {data} differ at index "
                f"{index}: {theirs} against {ours}. Binarise the data with {option} and the "
                f"teacher's dict.{language}.txt."
            )
