"""The command ``fairseq-kd step``: runs one step of a run, as a process of it."""

from fairseq_kd.command_line import Subcommand
from fairseq_kd.pipeline.options import StepOptions


def run(options: StepOptions) -> int:
    """Runs the step, and ends with its status."""
    from fairseq_kd.child_process import die_with_script
    from fairseq_kd.pipeline import execution
    from fairseq_kd.pipeline.workflow import read_workflow

    die_with_script()
    return execution.run_step(read_workflow(options.workflow, options.sha256), options.name)


SUBCOMMAND = Subcommand(
    StepOptions,
    run,
    description="Runs or resumes the commands of one step of a run, and writes its manifest. "
    "fairseq-kd progressive calls it through Snakemake; the steps before it must be done.",
    kept="finished steps are kept",
)
