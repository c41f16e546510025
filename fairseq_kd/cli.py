"""The command ``fairseq-kd VERB``; every verb has its own ``--help``."""

import argparse
import logging
import re
import sys
from pathlib import Path
from typing import List, Optional

DESCRIPTION = (
    "Knowledge distillation for fairseq. Training itself is fairseq-train ... --user-dir user_dir."
)


def main(argv: Optional[List[str]] = None) -> int:
    """Runs a verb; a mistake of the user's ends in one sentence and status 2."""
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"fairseq-kd {args.verb}: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The command line of all verbs."""
    top = argparse.ArgumentParser(prog="fairseq-kd", description=DESCRIPTION)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    flags = verbs.add_parser(
        "flags", help="list the flags of our criterions, which fairseq-train --help omits"
    )
    flags.add_argument("criterion", nargs="?", help="one criterion, such as word_kd (default: all)")
    flags.add_argument("--markdown", action="store_true", help="as the page docs/flags.md")
    flags.set_defaults(run=_flags)

    stage = verbs.add_parser(
        "stage",
        help="run one fairseq-train command to its last update, however often it is interrupted",
        usage="fairseq-kd stage NAME -- fairseq-train DATA --save-dir DIR --max-update N ...",
    )
    stage.add_argument("name", metavar="NAME", help="what to call it in the progress line")
    stage.add_argument(
        "command", metavar="COMMAND", nargs="+", help="the training command, after --"
    )
    stage.set_defaults(run=_stage)

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
    report.set_defaults(run=_report)
    return top


def _flags(args: argparse.Namespace) -> int:
    logging.getLogger("fairseq").setLevel(logging.WARNING)  # it advises on its own extras
    from fairseq_kd.criterions.flags import flags_page, flags_text

    print(flags_page() if args.markdown else flags_text(args.criterion), end="")
    return 0


def _stage(args: argparse.Namespace) -> int:
    from fairseq_kd.progressive.stage import die_with_parent, run_stage

    die_with_parent()
    return run_stage(args.name, args.command)


def _report(args: argparse.Namespace) -> int:
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


if __name__ == "__main__":
    sys.exit(main())
