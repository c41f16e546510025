"""The command ``fairseq-kd merge``: joins the shards of ``translate --shard``."""

import argparse
from typing import Any

from fairseq_kd.flag_types import file_path


def add_parser(subcommands: Any) -> None:
    """Adds the command to the command line."""
    parser = subcommands.add_parser(
        "merge",
        help="join shards of translate that were decoded on other machines",
        description="Joins the shards of fairseq-kd translate --shard to OUT/hypotheses.txt, the "
        "file that an undivided run writes, bit for bit. The last shard to end does so by itself. "
        "Use this command for shards that were decoded on other machines and copied together.",
    )
    parser.add_argument(
        "folder", metavar="OUT", type=file_path, help="the --out folder of translate"
    )
    parser.set_defaults(run=run, kept="the shards are kept")


def run(args: argparse.Namespace) -> int:
    """Merges the shards, or prints that they are merged."""
    from fairseq_kd.decoding.decode import merge_shards

    merge_shards(args.folder)
    return 0
