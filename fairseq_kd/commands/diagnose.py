"""The command ``fairseq-kd diagnose``: reports what went wrong in trainings."""

from dataclasses import MISSING, dataclass
from pathlib import Path

from fairseq_kd.command_line import Options, Subcommand
from fairseq_kd.flag_types import file_path, option_field

DESCRIPTION = """\
Reads the logs and translations of trainings, and reports what went wrong: a loss that blows up,
translations that collapse to one token, a temperature that is too high, an untrained teacher, a
dominant term, over-fitting, slow progress, a student too small for its teacher; and why a training
ended early: the loss scale at its minimum, too little memory, a killed process, an exception, a log
that stops or has no figures.
Each finding has evidence and advice. Healthy trainings are not listed. The exit status is 1 if
there is a finding."""


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions(Options):
    """The trainings to read."""

    COMMAND = "diagnose"
    folder: Path = option_field(
        MISSING,
        "the --save-dir of a training with its train.log, a folder of several, or a file with "
        "the output of fairseq-train --log-format json",
        read=file_path,
        positional=True,
        metavar="RUN",
    )


def run(options: DiagnoseOptions) -> int:
    """Prints the findings; 1 if there are any."""
    from fairseq_kd.diagnosis.findings import findings
    from fairseq_kd.diagnosis.training_run import find_training_runs
    from fairseq_kd.files.names import on_terminal

    status = 0
    for training in find_training_runs(options.folder):
        for finding in findings(training):
            status = 1
            print(f"{on_terminal(training.name)}: {finding.name}")
            details = f"  evidence: {finding.evidence}\n  advice:   {finding.advice_text}"
            print(on_terminal(details))
    return status


SUBCOMMAND = Subcommand(
    DiagnoseOptions,
    run,
    help="report what went wrong in a training, with evidence and advice",
    description=DESCRIPTION,
)
