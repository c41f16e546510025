"""The command ``fairseq-kd store-merge``: completes a store that was built in shards."""

from fairseq_kd.command_line import Subcommand
from fairseq_kd.teachers.options import StoreMergeOptions


def run(options: StoreMergeOptions, read: bool = True) -> int:
    """Completes the subsets, and prints their sizes.

    Args:
        options: the options.
        read: whether to read all records and compare their checksums.
    """
    from fairseq_kd.teachers.store import TeacherStore
    from fairseq_kd.teachers.store_merging import merge_subset

    for subset in options.subset.split(","):
        tokens = merge_subset(options.out, subset, read)
        store = TeacherStore(options.out)
        stored = store.subset(subset)
        print(
            f"{options.out}/{subset}: {len(stored):,} sentences, {tokens:,} tokens, "
            f"{store.dtype.itemsize} bytes each"
        )
        left_out = int((stored.sentences["length"] == 0).sum())
        if left_out:
            print(f"{left_out:,} sentences are longer than the teacher reads and were left out")
    return 0


SUBCOMMAND = Subcommand(
    StoreMergeOptions,
    run,
    help="complete a store whose shards were built by fairseq-kd store --shard",
    description="Reads the whole store, compares checksums, and refuses a subset with missing "
    "or damaged parts. Adds checksums to a store of format 1. fairseq-kd store without --shard "
    "does this by itself.",
    kept="the parts are kept",
)
