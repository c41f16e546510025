"""The command ``fairseq-kd flags``."""

import argparse

from fairseq_kd.flag_types import one_line


def add_parser(subcommands: argparse._SubParsersAction) -> None:
    """Adds the command to the command line."""
    flags = subcommands.add_parser(
        "flags", help="list the flags of our criterions, which fairseq-train --help omits"
    )
    flags.add_argument(
        "criterion",
        nargs="?",
        type=one_line,
        help="one criterion or task, such as word_kd (default: all)",
    )
    flags.add_argument("--markdown", action="store_true", help="as the page docs/flags.md")
    flags.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the flags."""
    from fairseq_kd.criterions.flags import flags_page, flags_text

    print(flags_page() if args.markdown else flags_text(args.criterion), end="")
    return 0
