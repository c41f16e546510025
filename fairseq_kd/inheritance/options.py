"""The options of ``fairseq-kd inherit``."""

import argparse
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple

from fairseq_kd.command_line import (
    Group,
    Options,
    teacher_language_field,
    teacher_pair,
    user_dir_field,
)
from fairseq_kd.flag_types import (
    COUNT,
    Range,
    Several,
    data_folder,
    file_path,
    flag_name,
    number_field,
    one_line,
    option_field,
    subset_name,
)

SUBSET, SENTENCES, MAX_TOKENS = "train", 1000, 4000
MEASURING = Group("sentences of --importance data")


def layers_field(side: str) -> Any:
    """The flag of the layers that one side of the student starts from."""
    return number_field(
        None,
        Several(Range(int, 0, 999), 1000),
        f"the teacher layer that each layer of the student's {side} starts from, counted from 0 "
        "(default: the first, the last, and the others at equal distances; with --importance data "
        "those without which its loss rises most)",
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
    importance: str = option_field(
        "weights",
        "how heads and feed-forward units are ranked: by the norms of their weights, or by what "
        "they compute on --data, which also ranks layers (default: %(default)s)",
        ("weights", "data"),
    )
    data: Optional[Path] = option_field(
        None,
        "the folder that fairseq-train reads, for --importance data (default: none)",
        read=data_folder,
        group=MEASURING,
    )
    subset: Optional[str] = option_field(
        None, f"the subset (default: {SUBSET})", read=subset_name, group=MEASURING
    )
    sentences: Optional[int] = number_field(
        None,
        COUNT,
        f"how many of its sentences, at equal distances (default: {SENTENCES})",
        group=MEASURING,
    )
    max_tokens: Optional[int] = number_field(
        None,
        COUNT,
        f"target tokens per batch, without influence on the result (default: {MAX_TOKENS})",
        group=MEASURING,
    )
    teacher_source_lang: Optional[str] = teacher_language_field("source")
    teacher_target_lang: Optional[str] = teacher_language_field("target")
    user_dir: Optional[str] = user_dir_field()
    model_flags: Tuple[str, ...] = option_field((), argparse.SUPPRESS, positional=True, nargs="*")

    def check(self) -> None:
        """Checks that the teacher's languages are given together, and what needs data.

        Raises:
            ValueError: a flag has no effect, or another is missing.
        """
        teacher_pair(self)
        if self.importance == "data" and self.data is None:
            raise ValueError(
                "--importance data needs --data. Give the folder that fairseq-train reads."
            )
        for name in ("data", "subset", "sentences", "max_tokens"):
            if self.importance != "data" and getattr(self, name) is not None:
                raise ValueError(
                    f"{flag_name(name)} has no effect without --importance data. Add that, or "
                    "leave it out."
                )
