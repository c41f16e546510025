"""The command ``fairseq-kd inherit``."""

import argparse

from fairseq_kd.commands.user_dir import add_user_dir, register_models
from fairseq_kd.flag_types import Range, Several, file_path, one_line

DESCRIPTION = """\
Writes a checkpoint to start a student from, by fairseq-train --finetune-from-model: the teacher's
first and last layers and others evenly between, or those that you name. A narrower student gets the
most important heads and feed-forward units. What is not a size (sharing of embeddings, activation
function and so on) is taken from the teacher; flags of fairseq-train for the model may follow after
--, such as -- --encoder-layers 4."""


def add_parser(subcommands: argparse._SubParsersAction) -> None:
    """Adds the command to the command line."""
    parser = subcommands.add_parser(
        "inherit",
        help="write a student checkpoint that starts from a teacher's layers",
        description=DESCRIPTION,
        usage="fairseq-kd inherit --teacher T.pt --arch A --out S.pt [flags] [-- model flags]",
    )
    parser.add_argument(
        "--teacher", required=True, type=one_line, metavar="T.pt", help="the teacher's checkpoint"
    )
    parser.add_argument(
        "--arch",
        required=True,
        type=one_line,
        metavar="A",
        help="the student's size, as for fairseq-train",
    )
    parser.add_argument(
        "--out", required=True, type=file_path, metavar="S.pt", help="the checkpoint to write"
    )
    for side in ("encoder", "decoder"):
        parser.add_argument(
            f"--{side}-layers",
            type=Several(Range(int, 0, 999), 1000),
            metavar="0,2,5",
            help=f"the teacher layer that each layer of the student's {side} starts from, counted "
            "from 0 (default: the first, the last, and others evenly between)",
        )
    add_user_dir(parser)
    parser.add_argument("model_flags", nargs="*", help=argparse.SUPPRESS)
    parser.set_defaults(run=run, kept="the teacher is as it was")


def run(args: argparse.Namespace) -> int:
    """Writes the checkpoint and prints what was copied from where."""
    register_models(args)
    from fairseq_kd.sizing.student_checkpoint import write_student

    layers = {side: getattr(args, f"{side}_layers") for side in ("encoder", "decoder")}
    print(write_student(args.teacher, args.arch, args.out, layers, args.model_flags))
    return 0
