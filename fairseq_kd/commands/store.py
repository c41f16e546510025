"""The command ``fairseq-kd store``: saves a teacher's top-k distributions."""

import argparse

from fairseq_kd.commands import store_merge
from fairseq_kd.commands.user_dir import add_user_dir, register_models
from fairseq_kd.flag_types import COUNT, Range, file_path, one_line, split_names
from fairseq_kd.shard import Shard

DESCRIPTION = """\
Runs a teacher over binarised data once and saves, for every target token, its K likeliest tokens
with their log-probabilities, and the probability mass of the rest. Training with --kd-store then
needs no teacher, at any temperature of at least 0.5."""
EPILOG = """\
example:
  fairseq-kd store --teacher teacher.pt --data data-bin --subset train,valid --out store
  fairseq-train data-bin --user-dir user_dir --criterion word_kd --kd-store store ...

on several machines, each with its own number, then once:
  fairseq-kd store ... --shard 3/8
  fairseq-kd store-merge --out store

Killed? Run the same command again: undamaged parts are kept, damaged parts and dictionaries are
built again.
"""


def add_parser(subcommands: argparse._SubParsersAction) -> None:
    """Adds the command to the command line."""
    store = subcommands.add_parser(
        "store",
        help="save a teacher's top-k distribution for every token of a data set, for --kd-store",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    store.add_argument("--teacher", required=True, type=one_line, help="its checkpoint")
    store.add_argument(
        "--data", required=True, type=one_line, help="the folder that fairseq-train reads"
    )
    store.add_argument(
        "--subset",
        type=split_names,
        default="train,valid",
        help="one or several, separated by commas (default: %(default)s)",
    )
    store.add_argument("--out", required=True, type=file_path, help="the folder of the store")
    store.add_argument(
        "--topk",
        type=Range(int, 1, 65536),
        default=64,
        help="K, the tokens kept of each distribution (default: %(default)s)",
    )
    store.add_argument(
        "--shard",
        type=Shard.parse,
        default="1/1",
        metavar="I/N",
        help="build the I-th of N parts of the work, then run store-merge (default: all)",
    )
    store.add_argument(
        "--max-tokens",
        type=COUNT,
        default=4000,
        help="target tokens per batch (default: %(default)s)",
    )
    store.add_argument(
        "--part-sentences",
        type=Range(int, 1, 10_000_000),
        default=4096,
        help="sentences per file, which is what a kill can lose (default: %(default)s)",
    )
    store.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of the teacher (default: %(default)s)",
    )
    add_user_dir(store)
    store.set_defaults(run=run, kept="the parts that are whole are kept")


def run(args: argparse.Namespace) -> int:
    """Builds the shard, and completes the store if it is the only one."""
    register_models(args)
    from fairseq_kd.teachers.store_building import StoreBuilder

    subsets = args.subset.split(",")
    builder = StoreBuilder(
        teacher=args.teacher,
        data=args.data,
        out=args.out,
        topk=args.topk,
        dtype=args.dtype,
        max_tokens=args.max_tokens,
        part_sentences=args.part_sentences,
        subsets=subsets,
    )
    for subset in subsets:
        builder.build(subset, args.shard)
    if args.shard.count > 1:
        print(
            f"shard {args.shard} is done; after the others: fairseq-kd store-merge "
            f"--out {args.out} --subset {args.subset}"
        )
        return 0
    return store_merge.run(args, read=False)  # the builder has read the parts that it kept
