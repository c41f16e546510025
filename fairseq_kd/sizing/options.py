"""The options of ``fairseq-kd inherit``."""

import argparse
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple

from fairseq_kd.command_line import (
    Options,
    teacher_language_field,
    teacher_pair,
    user_dir_field,
)
from fairseq_kd.flag_types import (
    Range,
    Several,
    file_path,
    number_field,
    one_line,
    option_field,
)


def layers_field(side: str) -> Any:
    """The flag of the layers that one side of the student starts from."""
    return number_field(
        None,
        Several(Range(int, 0, 999), 1000),
        f"the teacher layer that each layer of the student's {side} starts from, counted from 0 "
        "(default: the first, the last, and the others at equal distances)",
        metavar="0,2,5",
    )


@dataclass(frozen=True, kw_only=True)
class InheritOptions(Options):
    """The teacher, and the student's model."""

    COMMAND = "inherit"
    teacher: str = option_field(MISSING, "the teacher's checkpoint", read=one_line, metavar="T.pt")
    arch: str = option_field(
        MISSING, "the student's size, as for fairseq-train", read=one_line, metavar="A"
    )
    out: Path = option_field(MISSING, "the checkpoint to write", read=file_path, metavar="S.pt")
    encoder_layers: Optional[Sequence[int]] = layers_field("encoder")
    decoder_layers: Optional[Sequence[int]] = layers_field("decoder")
    teacher_source_lang: Optional[str] = teacher_language_field("source")
    teacher_target_lang: Optional[str] = teacher_language_field("target")
    user_dir: Optional[str] = user_dir_field()
    model_flags: Tuple[str, ...] = option_field((), argparse.SUPPRESS, positional=True, nargs="*")

    def check(self) -> None:
        """Checks that the teacher's languages are given together."""
        teacher_pair(self)
