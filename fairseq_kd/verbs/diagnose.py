"""The verb ``fairseq-kd diagnose``."""

import argparse
from typing import Any

from fairseq_kd.flag_types import file_path

DESCRIPTION = """\
Reads the logs of trainings, and what was translated with them, and says what went wrong: a loss
that blows up, translations that collapse to one token, a temperature or a teacher that teaches
nothing, a term that dominates, over-fitting, slow progress, a student too small for its teacher;
and what ended a training early: the loss scale at its minimum, too little memory, a killed process,
an exception, a log that just stops or has no figures.
Each finding has its evidence and what to try. Of healthy trainings it says nothing. Status 1 if
there is a finding."""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "diagnose",
        help="say what went wrong in a training, with evidence, and what to try",
        description=DESCRIPTION,
    )
    parser.add_argument(
        "folder",
        type=file_path,
        metavar="RUN",
        help="the --save-dir of a training with its train.log, a folder of several, or a file of "
        "what fairseq-train --log-format json printed",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the findings; 1 if there are any."""
    from fairseq_kd.diagnosis.findings import findings
    from fairseq_kd.diagnosis.stage import find_stages
    from fairseq_kd.names import on_terminal

    status = 0
    for stage in find_stages(args.folder):
        for finding in findings(stage):
            status = 1
            print(f"{on_terminal(stage.name)}: {finding.name}")
            seen = f"  seen: {finding.evidence}\n  try:  {finding.advice_text}"
            print(on_terminal(seen))
    return status
