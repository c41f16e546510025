"""The command ``fairseq-kd store-merge``: completes a store that was built in shards."""

import argparse

from fairseq_kd.flag_types import file_path, split_names


def add_parser(subcommands: argparse._SubParsersAction) -> None:
    """Adds the command to the command line."""
    parser = subcommands.add_parser(
        "store-merge",
        help="complete a store whose shards were built by fairseq-kd store --shard",
        description="Reads the whole store, compares checksums, and refuses a subset with missing "
        "or damaged parts. Adds checksums to a store of format 1. fairseq-kd store without --shard "
        "does this by itself.",
    )
    parser.add_argument("--out", required=True, type=file_path, help="the folder of the store")
    parser.add_argument(
        "--subset", type=split_names, default="train,valid", help="as for fairseq-kd store"
    )
    parser.set_defaults(run=run, kept="the parts are kept")


def run(args: argparse.Namespace, read: bool = True) -> int:
    """Completes the subsets, and prints their sizes.

    Args:
        args: the options.
        read: whether to read all records and compare their checksums.
    """
    from fairseq_kd.teachers.store import TeacherStore
    from fairseq_kd.teachers.store_merging import merge_subset

    for subset in args.subset.split(","):
        tokens = merge_subset(args.out, subset, read)
        store = TeacherStore(args.out)
        stored = store.subset(subset)
        print(
            f"{args.out}/{subset}: {len(stored):,} sentences, {tokens:,} tokens, "
            f"{store.dtype.itemsize} bytes each"
        )
        left_out = int((stored.sentences["length"] == 0).sum())
        if left_out:
            print(f"{left_out:,} sentences are longer than the teacher reads and were left out")
    return 0
