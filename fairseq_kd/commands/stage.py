"""The command ``fairseq-kd stage``."""

import argparse

from fairseq_kd.flag_types import one_line


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command to the command line."""
    stage = subparsers.add_parser(
        "stage",
        help="run one fairseq-train command to its last update, however often it is interrupted",
        usage="fairseq-kd stage NAME -- fairseq-train DATA --save-dir DIR --max-update N ...",
    )
    stage.add_argument("name", type=one_line, metavar="NAME", help="its name in the progress line")
    stage.add_argument(
        "command", metavar="COMMAND", nargs="+", help="the training command, after --"
    )
    stage.set_defaults(run=run, kept="the checkpoints are kept")


def run(args: argparse.Namespace) -> int:
    """Runs the training, and ends with its status."""
    from fairseq_kd.child_process import die_with_script
    from fairseq_kd.pipeline.stage import run_stage

    die_with_script()
    status = run_stage(args.name, args.command)
    return status if status >= 0 else 128 - status  # as shells have it
