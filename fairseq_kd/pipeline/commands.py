"""The commands of a run: ``progressive``, and ``stage`` and ``step``, which are its processes."""

import sys
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import List, Optional, Tuple

from fairseq_kd.command_line import Group, Options, Subcommand
from fairseq_kd.flag_types import (
    Range,
    file_path,
    number_field,
    one_line,
    one_word,
    option_field,
)

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
NOT_EXECUTED = Group(exclusive=True)


@dataclass(frozen=True, kw_only=True)
class ProgressiveOptions(Options):
    """The run file, changes of it, and how its steps are executed."""

    COMMAND = "progressive"
    file: Path = option_field(
        MISSING, "the description of the run", read=file_path, positional=True, metavar="RUN.yaml"
    )
    until: Optional[str] = option_field(
        None, "execute this step and those that it needs", read=one_line, metavar="STEP"
    )
    changes: Tuple[str, ...] = option_field(
        (),
        "overrides the file, such as --set seed=2 --set train.lr=1e-3; may be repeated",
        read=one_line,
        flag="--set",
        repeated=True,
        metavar="KEY=VALUE",
    )
    jobs: int = number_field(
        1,
        Range(int, 1, 1000),
        "steps at the same time on this machine, each with its share of the cores and with "
        "one GPU (default: %(default)s, with all cores and GPUs)",
        metavar="N",
    )
    dry_run: bool = option_field(
        False,
        "show the steps that would be executed, why, and their commands",
        group=NOT_EXECUTED,
    )
    shell: Optional[Path] = option_field(
        None,
        "write the run as a bash script, and execute nothing",
        read=file_path,
        metavar="OUT.sh",
        group=NOT_EXECUTED,
    )
    verify: bool = option_field(
        False,
        "hash all outputs of finished steps and read their stores; without it, files of "
        "16 MiB and more count as unchanged while size and modification time are the same",
    )
    profile: Optional[str] = option_field(
        None,
        "a Snakemake profile, whose executor runs the steps (Slurm, Kubernetes, ...)",
        read=one_line,
        metavar="DIR",
    )
    snakemake_flags: Tuple[str, ...] = option_field(
        (),
        "after --: further flags for Snakemake, such as -- --executor slurm --jobs 8",
        positional=True,
        nargs="*",
        metavar="-- FLAG",
    )

    def engine(self) -> List[str]:
        """All flags for Snakemake."""
        profile = ["--profile", str(Path(self.profile).resolve())] if self.profile else []
        return [*profile, *self.snakemake_flags]

    def check(self) -> None:
        """Checks that every flag has an effect.

        Raises:
            ValueError: naming one that has none, because nothing is executed.
        """
        engine = self.engine()
        if self.snakemake_flags and not self.snakemake_flags[0].startswith("-"):
            word = self.snakemake_flags[0]
            raise ValueError(f"{word} is no flag of Snakemake. Did you mean --until {word}?")
        if {"-n", "--dry-run", "--dryrun"} & set(engine):
            raise ValueError("-- -n of Snakemake is --dry-run here, before --. Give that instead.")
        if self.jobs != 1 and (self.dry_run or self.shell):
            raise ValueError("--jobs has no effect with --dry-run or --shell. Leave it out.")
        if engine and (self.dry_run or self.shell):
            given = " ".join(engine)
            raise ValueError(f"{given} has no effect with --dry-run or --shell. Leave it out.")
        if self.shell is not None and self.verify:
            raise ValueError("--verify has no effect with --shell. Leave it out.")


def run_progressive(options: ProgressiveOptions) -> int:
    """Shows, writes or executes the workflow."""
    from fairseq_kd.files.whole_files import check_apart
    from fairseq_kd.pipeline import driver
    from fairseq_kd.pipeline.preparation import folders_read, prepare_run
    from fairseq_kd.pipeline.run_file import read_run
    from fairseq_kd.pipeline.shell_script import write_script
    from fairseq_kd.pipeline.state import step_statuses

    if options.shell is not None:
        run = read_run(options.file, options.changes)
        check_apart(options.shell, folders_read(run), "--shell")
    if options.shell is None and not options.dry_run:
        driver.check_snakemake()
    workflow = prepare_run(options.file, options.changes)
    names = driver.wanted(workflow, options.until)
    if options.shell is not None:
        steps = [workflow.step(name) for name in names]
        write_script(workflow._replace(steps=steps), options.shell)
        print(f"{options.shell} is written: {len(names)} steps", file=sys.stderr)
        return 0
    if options.dry_run:
        statuses = [
            status
            for status in step_statuses(workflow, options.verify)
            if status.step.name in names
        ]
        print(driver.overview(statuses), driver.commands(statuses), sep="\n\n")
        return 0
    engine = options.engine()
    return driver.run_workflow(workflow, options.until, engine, options.jobs, options.verify)


@dataclass(frozen=True, kw_only=True)
class StageOptions(Options):
    """One training, and its command."""

    COMMAND = "stage"
    name: str = option_field(
        MISSING, "its name in the progress line", read=one_line, positional=True, metavar="NAME"
    )
    command: Tuple[str, ...] = option_field(
        MISSING, "the training command, after --", positional=True, nargs="+", metavar="COMMAND"
    )


def run_stage(options: StageOptions) -> int:
    """Runs the training, and ends with its status."""
    from fairseq_kd.child_process import die_with_script
    from fairseq_kd.pipeline import stage

    die_with_script()
    status = stage.run_stage(options.name, list(options.command))
    return status if status >= 0 else 128 - status  # as shells have it


@dataclass(frozen=True, kw_only=True)
class StepOptions(Options):
    """One step of a run."""

    COMMAND = "step"
    workflow: Path = option_field(
        MISSING,
        "the workflow of the run",
        read=file_path,
        positional=True,
        metavar="RUN/workflow.json",
    )
    sha256: str = option_field(
        MISSING,
        "the hash of the workflow; commands of another one are not executed",
        read=one_word,
        metavar="HEX",
    )
    name: str = option_field(MISSING, "the step", read=one_line, positional=True, metavar="STEP")


def run_step(options: StepOptions) -> int:
    """Runs the step, and ends with its status."""
    from fairseq_kd.child_process import die_with_script
    from fairseq_kd.pipeline import execution
    from fairseq_kd.pipeline.workflow import read_workflow

    die_with_script()
    return execution.run_step(read_workflow(options.workflow, options.sha256), options.name)


PROGRESSIVE = Subcommand(
    ProgressiveOptions,
    run_progressive,
    help="distil a teacher step by step to a small student, as a run file describes it",
    description=DESCRIPTION,
    epilog=EPILOG,
    kept="what is finished is kept",
)
STAGE = Subcommand(
    StageOptions,
    run_stage,
    help="run one fairseq-train command to its last update, however often it is interrupted",
    usage="fairseq-kd stage NAME -- fairseq-train DATA --save-dir DIR --max-update N ...",
    kept="the checkpoints are kept",
)
STEP = Subcommand(
    StepOptions,
    run_step,
    description="Runs or resumes the commands of one step of a run, and writes its manifest. "
    "fairseq-kd progressive calls it through Snakemake; the steps before it must be done.",
    kept="what is finished is kept",
)
