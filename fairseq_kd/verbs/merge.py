"""The verb ``merge``: joins what several runs of ``translate --shard`` decoded."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fairseq_kd.flag_types import file_path


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "merge",
        help="join the shards of translate to one file, refusing gaps and overlaps",
        description="Joins the shards of fairseq-kd translate --shard to OUT/hypotheses.txt, the "
        "file that an undivided run writes, bit for bit. The last shard to end does so by itself; "
        "this is for shards that were decoded in different places and copied together.",
    )
    parser.add_argument(
        "folder", metavar="OUT", type=file_path, help="the --out folder of translate"
    )
    parser.set_defaults(run=run, kept="the shards are kept")


def run(args: argparse.Namespace) -> int:
    """Merges, or says that it is done."""
    merge_shards(args.folder)
    return 0


def merge_shards(folder: Path) -> None:
    """Merges while no other process does."""
    from fairseq_kd.decoding.hypothesis_files import WHOLE, check_shard, merge
    from fairseq_kd.decoding.settings import locked, plan_id, read_plan

    plan = read_plan(folder)
    with locked(folder):
        if (folder / WHOLE).is_file():
            check_shard(folder / WHOLE, plan_id(plan))
            print(f"{folder / WHOLE} is there already", file=sys.stderr)
            return
        merge(folder, plan_id(plan), plan["sentences"])
    print(f"{plan['sentences']:,} sentences are in {folder / WHOLE}", file=sys.stderr)
