"""The command ``fairseq-kd progressive``: executes the run that a file describes."""

import sys

from fairseq_kd.command_line import Subcommand
from fairseq_kd.pipeline.options import ProgressiveOptions

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


def run(options: ProgressiveOptions) -> int:
    """Shows, writes or executes the workflow."""
    from fairseq_kd.files.atomic_files import check_apart
    from fairseq_kd.pipeline import driver
    from fairseq_kd.pipeline.preparation import folders_read, prepare_run
    from fairseq_kd.pipeline.run_file import read_run
    from fairseq_kd.pipeline.shell_script import write_script
    from fairseq_kd.pipeline.status import step_statuses

    if options.shell is not None:
        described = read_run(options.file, options.changes)
        check_apart(options.shell, folders_read(described), "--shell")
    executed = options.shell is None and not options.dry_run
    if executed:
        driver.check_snakemake()
    workflow = prepare_run(options.file, options.changes, record=executed)
    names = driver.wanted(workflow, options.until)
    if options.shell is not None:
        steps = [workflow.step(name) for name in names]
        write_script(workflow._replace(steps=steps), options.shell)
        print(f"{options.shell} is written: {len(names)} steps", file=sys.stderr)
        return 0
    if options.dry_run:
        statuses = [
            status
            for status in step_statuses(workflow, options.verify, record=False)
            if status.step.name in names
        ]
        print(driver.overview(statuses), driver.commands(statuses), sep="\n\n")
        return 0
    flags = options.all_snakemake_flags()
    return driver.run_workflow(workflow, options.until, flags, options.jobs, options.verify)


SUBCOMMAND = Subcommand(
    ProgressiveOptions,
    run,
    help="run the distillation that a run file describes",
    description=DESCRIPTION,
    epilog=EPILOG,
    kept="finished steps are kept",
)
