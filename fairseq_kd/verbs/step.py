"""The verb ``fairseq-kd step``."""

import argparse
from typing import Any

from fairseq_kd.flag_types import file_path, one_line, one_word


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "step",
        help="run one step of a run, as Snakemake does for fairseq-kd progressive",
        description="Runs the commands of one step of a run that fairseq-kd progressive laid out, "
        "or goes on with them, and writes its manifest. Steps before it must be done.",
    )
    parser.add_argument("plan", metavar="RUN/plan.json", type=file_path, help="the plan of the run")
    parser.add_argument(
        "--sha256",
        type=one_word,
        required=True,
        metavar="HEX",
        help="of the plan as it was laid out; another one is not run",
    )
    parser.add_argument("name", type=one_line, metavar="STEP", help="the step")
    parser.set_defaults(run=run, kept="what is finished is kept")


def run(args: argparse.Namespace) -> int:
    """Runs the step, and ends with its status."""
    from fairseq_kd.child_process import die_with_script
    from fairseq_kd.pipeline.execution import run_step
    from fairseq_kd.pipeline.workflow import read_plan

    die_with_script()
    return run_step(read_plan(args.plan, args.sha256), args.name)
