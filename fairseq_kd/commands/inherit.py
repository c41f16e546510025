"""The command ``fairseq-kd inherit``: writes a student checkpoint from a teacher's layers."""

import argparse
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple

from fairseq_kd.command_line import Options, Subcommand, user_dir_field
from fairseq_kd.flag_types import Range, Several, file_path, number_field, one_line, option_field

DESCRIPTION = """\
Writes a checkpoint to start a student from, by fairseq-train --finetune-from-model: the teacher's
first and last layers and others evenly between, or those that you name. A narrower student gets the
most important heads and feed-forward units. What is not a size (sharing of embeddings, activation
function and so on) is taken from the teacher; flags of fairseq-train for the model may follow after
--, such as -- --encoder-layers 4."""


def layers_field(side: str) -> Any:
    """The flag of the layers that one side of the student starts from."""
    return number_field(
        None,
        Several(Range(int, 0, 999), 1000),
        f"the teacher layer that each layer of the student's {side} starts from, counted from 0 "
        "(default: the first, the last, and others evenly between)",
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
    user_dir: Optional[str] = user_dir_field()
    model_flags: Tuple[str, ...] = option_field((), argparse.SUPPRESS, positional=True, nargs="*")


def run(options: InheritOptions) -> int:
    """Writes the checkpoint and prints what was copied from where."""
    from fairseq_kd.plugin import import_user_dir
    from fairseq_kd.sizing.student_checkpoint import write_student

    import_user_dir(options.user_dir)
    layers = {"encoder": options.encoder_layers, "decoder": options.decoder_layers}
    flags = list(options.model_flags)
    print(write_student(options.teacher, options.arch, options.out, layers, flags))
    return 0


SUBCOMMAND = Subcommand(
    InheritOptions,
    run,
    help="write a student checkpoint that starts from a teacher's layers",
    description=DESCRIPTION,
    usage="fairseq-kd inherit --teacher T.pt --arch A --out S.pt [flags] [-- model flags]",
    kept="the teacher is as it was",
)
