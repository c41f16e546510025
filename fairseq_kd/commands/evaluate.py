"""The command ``fairseq-kd evaluate``: compares students with their teacher and controls."""

import sys

from fairseq_kd.command_line import Subcommand
from fairseq_kd.evaluation.options import EvaluateOptions

DESCRIPTION = """\
Compares students with their teacher, and with students of the same size that were trained without
distillation (controls): quality by sacreBLEU with paired bootstrap, error types, size, memory, and
speed in fairseq and in CTranslate2, all systems in turns. Writes report.html, report.md, every
translation as plain text, and evaluation.json with all figures to OUT, where it replaces an earlier
report. Killed? Run the same command again: finished translations are kept."""


def run(options: EvaluateOptions) -> int:
    """Evaluates, writes the report and prints its first table."""
    from fairseq_kd.evaluation.evaluation import Evaluation
    from fairseq_kd.evaluation.plots import check_matplotlib
    from fairseq_kd.evaluation.report import check_out, write_report
    from fairseq_kd.files.locks import locked
    from fairseq_kd.plugin import import_user_dir

    import_user_dir(options.user_dir)
    check_matplotlib()
    check_out(options.out, options.data)
    evaluation = Evaluation(options)
    with locked(options.out / ".evaluate.lock", f"--out {options.out}"):
        print(write_report(options.out, evaluation.run()))
    print(f"{options.out / 'report.html'} has all figures and plots", file=sys.stderr)
    return 0


SUBCOMMAND = Subcommand(
    EvaluateOptions,
    run,
    help="compare students with their teacher: quality, size, memory, speed; write a report",
    description=DESCRIPTION,
    kept="finished translations are kept",
)
