"""The verbs ``fairseq-kd store`` and ``fairseq-kd store-merge``."""

import argparse
import re
from pathlib import Path

EPILOG = """\
example:
  fairseq-kd store --teacher teacher.pt --data data-bin --subset train,valid --out store
  fairseq-train data-bin --user-dir user_dir --criterion word_kd --kd-store store ...

on several machines, each with its own number, then once:
  fairseq-kd store ... --shard 3/8
  fairseq-kd store-merge --out store --subset train

Killed? Run the same command again: the parts that are there are kept.
"""


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Adds the two verbs to the command line."""
    store = verbs.add_parser(
        "store",
        help="keep a teacher's likeliest words for every token of a data set, for --kd-store",
        description="Runs a teacher over binarised data once and keeps, for every target token, "
        "its K likeliest words with their log-probabilities, and the mass of all the others. "
        "Training with --kd-store then needs no teacher, at any temperature.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    store.add_argument("--teacher", required=True, help="its checkpoint")
    store.add_argument("--data", required=True, help="the folder that fairseq-train reads")
    store.add_argument(
        "--subset",
        default="train,valid",
        help="one or several, with commas (default: %(default)s)",
    )
    store.add_argument("--out", required=True, type=Path, help="the folder of the store")
    store.add_argument(
        "--topk", type=int, default=64, help="K, words kept of each token (default: %(default)s)"
    )
    store.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="build the I-th of N shares only (default: 1/1, and merge)",
    )
    store.add_argument(
        "--max-tokens",
        type=positive,
        default=4000,
        help="target tokens that the teacher reads at once (default: %(default)s)",
    )
    store.add_argument(
        "--part-sentences",
        type=positive,
        default=4096,
        help="sentences that are written at once, and lost by a kill (default: %(default)s)",
    )
    store.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision in which it runs (default: %(default)s)",
    )
    store.set_defaults(run=_store)
    merge = verbs.add_parser(
        "store-merge",
        help="complete a store whose shards were built by fairseq-kd store --shard",
        description="Refuses a subset of which a part is missing or cut off.",
    )
    merge.add_argument("--out", required=True, type=Path, help="the folder of the store")
    merge.add_argument("--subset", default="train,valid", help="as for fairseq-kd store")
    merge.set_defaults(run=_merge)


def shard(text: str) -> tuple:
    """``I/N`` as (I, N)."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not found or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError(f"a shard is I/N with I from 1 to N, but is {text}")
    return int(found[1]), int(found[2])


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"it must be a whole number above 0, but is {text}")
    return int(text)


def _store(args: argparse.Namespace) -> int:
    from fairseq_kd import plugin  # noqa: F401  (registers our architectures)
    from fairseq_kd.teachers.store_building import Shard, StoreBuilder

    builder = StoreBuilder(
        teacher=args.teacher,
        data=args.data,
        out=args.out,
        topk=args.topk,
        dtype=args.dtype,
        max_tokens=args.max_tokens,
        part_sentences=args.part_sentences,
    )
    part = Shard(*args.shard)
    for subset in args.subset.split(","):
        builder.build(subset, part)
    if part.count > 1:
        print(
            f"shard {part.number}/{part.count} is done; after the others: fairseq-kd store-merge "
            f"--out {args.out} --subset {args.subset}"
        )
        return 0
    return _merge(args)


def _merge(args: argparse.Namespace) -> int:
    from fairseq_kd.teachers.store import TeacherStore
    from fairseq_kd.teachers.store_building import merge_subset

    for subset in args.subset.split(","):
        tokens = merge_subset(args.out, subset)
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
