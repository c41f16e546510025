"""The verb ``fairseq-kd report``."""

import argparse
import re
from pathlib import Path


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb to the command line."""
    report = verbs.add_parser(
        "report",
        help="compare trained systems: size, BLEU, chrF, speed, training curves",
        description="Each folder holds checkpoint_best.pt; generate-test.txt and "
        "generate-test.log, what fairseq-generate --tokenizer moses --remove-bpe printed on "
        "standard output and standard error; and train.log, as fairseq-kd stage writes it.",
    )
    report.add_argument(
        "systems", nargs="+", metavar="NAME=DIR", help="a system and its folder; the teacher first"
    )
    report.add_argument(
        "--reference", required=True, type=Path, help="the test set's references, plain text"
    )
    report.add_argument(
        "--out", required=True, type=Path, help="the Markdown file; curves.png is put beside it"
    )
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the report and prints its table."""
    from fairseq_kd.evaluation.report import write_report
    from fairseq_kd.evaluation.system import read_system

    for item in args.systems:
        if not re.fullmatch("[^=]+=.+", item):
            raise ValueError(f"A system is given as NAME=DIR, but is {item}.")
    if not args.reference.is_file():
        raise FileNotFoundError(
            f"--reference {args.reference} does not exist. Give the plain text of the test set."
        )
    systems = [read_system(*item.split("=", 1)) for item in args.systems]
    references = args.reference.read_text(encoding="utf-8").rstrip("\n").split("\n")
    print(write_report(args.out, systems, references))
    return 0
