"""The command ``fairseq-kd progressive``."""

import argparse
import sys
from pathlib import Path
from typing import Any, List

from fairseq_kd.flag_types import Range, file_path, one_line

DESCRIPTION = """\
Executes the run that RUN.yaml describes: text, teacher, store or translations, each stage of the
ladder, controls and the evaluation (docs/progressive.md). Only steps that are missing or out of
date are executed, and the reason is shown. Killed? Run the same command again."""
EPILOG = """\
example of a run file:
  data: data-bin
  teacher: teacher.pt
  target: 0.25
  each: {temperature: 1, start: inherit}
  train: {max-update: 100000}
"""


def add_parser(subparsers: Any) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "progressive",
        help="distil a teacher step by step to a small student, as a run file describes it",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", metavar="RUN.yaml", type=file_path, help="the description of the run"
    )
    parser.add_argument(
        "--until", type=one_line, metavar="STEP", help="execute this step and those that it needs"
    )
    parser.add_argument(
        "--set",
        action="append",
        type=one_line,
        default=[],
        dest="changes",
        metavar="KEY=VALUE",
        help="overrides the file, such as --set seed=2 --set train.lr=1e-3; may be repeated",
    )
    parser.add_argument(
        "--jobs",
        type=Range(int, 1, 1000),
        default=1,
        metavar="N",
        help="steps at the same time on this machine, each with its share of the cores and with "
        "one GPU (default: %(default)s, with all cores and GPUs)",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--dry-run",
        action="store_true",
        help="show the steps that would be executed, why, and their commands",
    )
    shown.add_argument(
        "--shell",
        metavar="OUT.sh",
        type=file_path,
        help="write the run as a bash script, and execute nothing",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="hash all outputs of finished steps and read their stores; without it, files of "
        "16 MiB and more count as unchanged while size and modification time are the same",
    )
    parser.add_argument(
        "--profile",
        type=one_line,
        metavar="DIR",
        help="a Snakemake profile, whose executor runs the steps (Slurm, Kubernetes, ...)",
    )
    parser.add_argument(
        "snakemake_flags",
        nargs="*",
        metavar="-- FLAG",
        help="after --: further flags for Snakemake, such as -- --executor slurm --jobs 8",
    )
    parser.others = "snakemake_flags"
    parser.set_defaults(run=run, kept="what is finished is kept")


def run(args: argparse.Namespace) -> int:
    """Shows, writes or executes the workflow."""
    from fairseq_kd.files.whole_files import check_apart
    from fairseq_kd.pipeline import driver
    from fairseq_kd.pipeline.preparation import folders_read, prepare_run
    from fairseq_kd.pipeline.run_file import read_run
    from fairseq_kd.pipeline.shell_script import write_script
    from fairseq_kd.pipeline.state import step_statuses

    engine = _engine(args)
    if args.shell is not None and args.verify:
        raise ValueError("--verify has no effect with --shell. Leave it out.")
    if args.shell is not None:
        check_apart(args.shell, folders_read(read_run(args.file, args.changes)), "--shell")
    if args.shell is None and not args.dry_run:
        driver.check_snakemake()
    workflow = prepare_run(args.file, args.parser, args.changes)
    names = driver.wanted(workflow, args.until)
    if args.shell is not None:
        write_script(workflow._replace(steps=[workflow.step(name) for name in names]), args.shell)
        print(f"{args.shell} is written: {len(names)} steps", file=sys.stderr)
        return 0
    if args.dry_run:
        statuses = [
            status for status in step_statuses(workflow, args.verify) if status.step.name in names
        ]
        print(driver.overview(statuses), driver.commands(statuses), sep="\n\n")
        return 0
    return driver.run_workflow(workflow, args.until, engine, args.jobs, args.verify)


def _engine(args: argparse.Namespace) -> List[str]:
    """The flags for Snakemake.

    Raises:
        ValueError: they have no effect, because nothing is executed.
    """
    profile = ["--profile", str(Path(args.profile).resolve())] if args.profile else []
    engine = [*profile, *args.snakemake_flags]
    if args.snakemake_flags and not args.snakemake_flags[0].startswith("-"):
        word = args.snakemake_flags[0]
        raise ValueError(f"{word} is no flag of Snakemake. Did you mean --until {word}?")
    if {"-n", "--dry-run", "--dryrun"} & set(engine):
        raise ValueError("-- -n of Snakemake is --dry-run here, before --. Give that instead.")
    if args.jobs != 1 and (args.dry_run or args.shell):
        raise ValueError("--jobs has no effect with --dry-run or --shell. Leave it out.")
    if engine and (args.dry_run or args.shell):
        given = " ".join(engine)
        raise ValueError(f"{given} has no effect with --dry-run or --shell. Leave it out.")
    return engine
