"""The languages that a training or a command is about, by their names in the data and a teacher."""

import re
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

from fairseq.data.data_utils import infer_language_pair

Pair = Tuple[str, str]


class Languages(NamedTuple):
    """A language pair by its names in the student's data and in a teacher.

    Args:
        data: names in the files of the data; None if they are the teacher's.
        teacher: names that the teacher gives them (``--teacher-source-lang``); None if they are
            those of the data, or those that the checkpoint records.
        several: whether there are several teachers, of which some may have the names of the data.
        folder: of the data, whose dictionaries may lack language tokens that a multilingual
            teacher has among its own; None: the dictionaries are the teacher's.
    """

    data: Optional[Pair] = None
    teacher: Optional[Pair] = None
    several: bool = False
    folder: Optional[str] = None

    def are_mixed_up(self) -> bool:
        """Whether the teacher's names are those of the data swapped, or one of them twice.

        ``en_XX`` and ``en`` are names of the same language.
        """
        if self.data is None or self.teacher is None:
            return False
        own, teacher = (
            tuple(re.split("[-_.@+]", each)[0].casefold() for each in pair)
            for pair in (self.data, self.teacher)
        )
        if self.teacher[0] == self.teacher[1]:
            return teacher[0] in own and own[0] != own[1]
        return self.teacher == self.data[::-1] or (teacher == own[::-1] and own[0] != own[1])

    @classmethod
    def of_data(cls, folder: Path, teacher: Optional[Pair]) -> "Languages":
        """The pair of a folder of fairseq-preprocess, as its files name it.

        Args:
            folder: of the data.
            teacher: names that the teacher gives the languages, if they are others.
        """
        pair = infer_language_pair(str(folder)) if folder.is_dir() else (None, None)
        return cls(None if None in pair else tuple(pair), teacher, folder=str(folder))
