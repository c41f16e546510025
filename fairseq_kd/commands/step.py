"""The command ``fairseq-kd step``."""

import argparse
from typing import Any

from fairseq_kd.flag_types import file_path, one_line, one_word


def add_parser(subparsers: Any) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(  # without help=, which would list it in fairseq-kd --help
        "step",
        description="Runs or resumes the commands of one step of a run, and writes its manifest. "
        "fairseq-kd progressive calls it through Snakemake; the steps before it must be done.",
    )
    parser.add_argument(
        "workflow", metavar="RUN/workflow.json", type=file_path, help="the workflow of the run"
    )
    parser.add_argument(
        "--sha256",
        type=one_word,
        required=True,
        metavar="HEX",
        help="the hash of the workflow; commands of another one are not executed",
    )
    parser.add_argument("name", type=one_line, metavar="STEP", help="the step")
    parser.set_defaults(run=run, kept="what is finished is kept")


def run(args: argparse.Namespace) -> int:
    """Runs the step, and ends with its status."""
    from fairseq_kd.child_process import die_with_script
    from fairseq_kd.pipeline.execution import run_step
    from fairseq_kd.pipeline.workflow import read_workflow

    die_with_script()
    return run_step(read_workflow(args.workflow, args.sha256), args.name)
