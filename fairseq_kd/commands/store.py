"""The command ``fairseq-kd store``: saves a teacher's top-k distributions."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Optional

from fairseq_kd.command_line import Options, Subcommand, user_dir_field
from fairseq_kd.commands import store_merge
from fairseq_kd.flag_types import (
    COUNT,
    Range,
    file_path,
    number_field,
    one_line,
    option_field,
    split_names,
)
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


@dataclass(frozen=True, kw_only=True)
class StoreOptions(Options):
    """The teacher, its data, and what is kept of its distributions."""

    COMMAND = "store"
    teacher: str = option_field(MISSING, "its checkpoint", read=one_line)
    data: str = option_field(MISSING, "the folder that fairseq-train reads", read=one_line)
    subset: str = option_field(
        "train,valid",
        "one or several, separated by commas (default: %(default)s)",
        read=split_names,
    )
    out: Path = option_field(MISSING, "the folder of the store", read=file_path)
    topk: int = number_field(
        64,
        Range(int, 1, 65536),
        "K, the tokens kept of each distribution (default: %(default)s)",
    )
    shard: Shard = option_field(
        Shard(),
        "build the I-th of N parts of the work, then run store-merge (default: all)",
        read=Shard.parse,
        metavar="I/N",
    )
    max_tokens: int = number_field(4000, COUNT, "target tokens per batch (default: %(default)s)")
    part_sentences: int = number_field(
        4096,
        Range(int, 1, 10_000_000),
        "sentences per file, which is what a kill can lose (default: %(default)s)",
    )
    dtype: str = option_field(
        "float32",
        "precision of the teacher (default: %(default)s)",
        ("float32", "bfloat16", "float16"),
    )
    user_dir: Optional[str] = user_dir_field()


def run(options: StoreOptions) -> int:
    """Builds the shard, and completes the store if it is the only one."""
    from fairseq_kd.plugin import import_user_dir
    from fairseq_kd.teachers.store_building import StoreBuilder

    import_user_dir(options.user_dir)
    subsets = options.subset.split(",")
    builder = StoreBuilder(
        teacher=options.teacher,
        data=options.data,
        out=options.out,
        topk=options.topk,
        dtype=options.dtype,
        max_tokens=options.max_tokens,
        part_sentences=options.part_sentences,
        subsets=subsets,
    )
    for subset in subsets:
        builder.build(subset, options.shard)
    if options.shard.count > 1:
        print(
            f"shard {options.shard} is done; after the others: fairseq-kd store-merge "
            f"--out {options.out} --subset {options.subset}"
        )
        return 0
    whole = store_merge.StoreMergeOptions(out=options.out, subset=options.subset)
    return store_merge.run(whole, read=False)  # the builder has read the parts that it kept


SUBCOMMAND = Subcommand(
    StoreOptions,
    run,
    help="save a teacher's top-k distribution for every token of a data set, for --kd-store",
    description=DESCRIPTION,
    epilog=EPILOG,
    kept="the parts that are whole are kept",
)
