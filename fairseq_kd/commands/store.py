"""The command ``fairseq-kd store``: saves a teacher's top-k distributions."""

from fairseq_kd.command_line import Subcommand, teacher_pair
from fairseq_kd.commands import store_merge
from fairseq_kd.teachers.options import StoreMergeOptions, StoreOptions

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


def run(options: StoreOptions) -> int:
    """Builds the shard, and completes the store if it is the only one."""
    from fairseq_kd.plugin import import_user_dir
    from fairseq_kd.teachers.store_building import StoreBuilder

    import_user_dir(options.user_dir)
    subsets = options.subset.split(",")
    builder = StoreBuilder(
        teacher=options.teacher,
        data=str(options.data),
        out=options.out,
        topk=options.topk,
        dtype=options.dtype,
        max_tokens=options.max_tokens,
        part_sentences=options.part_sentences,
        subsets=subsets,
        languages=teacher_pair(options),
    )
    for subset in subsets:
        builder.build(subset, options.shard)
    if options.shard.count > 1:
        print(
            f"shard {options.shard} is done; after the others: fairseq-kd store-merge "
            f"--out {options.out} --subset {options.subset}"
        )
        return 0
    whole = StoreMergeOptions(out=options.out, subset=options.subset)
    return store_merge.run(whole, read=False)  # the builder has read the parts that it kept


SUBCOMMAND = Subcommand(
    StoreOptions,
    run,
    help="save a teacher's top-k distribution for every token of a data set, for --kd-store",
    description=DESCRIPTION,
    epilog=EPILOG,
    kept="complete parts are kept",
)
