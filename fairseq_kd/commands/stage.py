"""The command ``fairseq-kd stage``: runs one training, resumed until its last update."""

from fairseq_kd.command_line import Subcommand
from fairseq_kd.pipeline.options import StageOptions


def run(options: StageOptions) -> int:
    """Runs the training, and ends with its status."""
    from fairseq_kd.child_process import die_with_script
    from fairseq_kd.pipeline import stage

    die_with_script()
    status = stage.run_stage(options.name, list(options.command))
    return status if status >= 0 else 128 - status  # as shells have it


SUBCOMMAND = Subcommand(
    StageOptions,
    run,
    help="run one fairseq-train command to its last update, however often it is interrupted",
    usage="fairseq-kd stage NAME -- fairseq-train DATA --save-dir DIR --max-update N ...",
    kept="the checkpoints are kept",
)
