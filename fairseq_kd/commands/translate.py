"""The command ``fairseq-kd translate``: decodes a binarised set with its teacher."""

import argparse
import sys
from typing import Any, Tuple

from fairseq_kd.commands.user_dir import add_user_dir, register_models
from fairseq_kd.decoding.search import Search, add_search_flags, search_of
from fairseq_kd.files.whole_files import check_apart
from fairseq_kd.flag_types import COUNT, THREADS, file_path, one_line, one_word, split_name
from fairseq_kd.shard import Shard

DESCRIPTION = """\
Decodes a set that fairseq-preprocess binarised, as training data for a student. Tokens stay as
binarised: nothing is detokenised and BPE is kept. OUT/hypotheses.txt has the translations in the
order of the set, in the format of the H- lines of fairseq-generate. Killed? Run the same command
again: it continues. Then make the training set by fairseq-kd distill-data."""


def add_parser(subcommands: Any) -> None:
    """Adds the command to the command line."""
    parser = subcommands.add_parser(
        "translate",
        help="decode a binarised set with a teacher, in shards if wanted",
        description=DESCRIPTION,
    )
    parser.add_argument(
        "--teacher",
        required=True,
        type=one_line,
        metavar="T.pt[:T2.pt]",
        help="fairseq checkpoint; several are averaged",
    )
    parser.add_argument(
        "--data", required=True, type=file_path, help="the folder that fairseq-preprocess wrote"
    )
    parser.add_argument(
        "--subset", type=split_name, default="train", help="which split (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, type=file_path, help="folder for the translations")
    parser.add_argument(
        "--shard",
        type=Shard.parse,
        default="1/1",
        metavar="I/N",
        help="decode the I-th of N parts, such as on N machines; the last one to end merges them "
        "(parts in several folders: copy them into one and run fairseq-kd merge; default: all)",
    )
    add_search_flags(parser)
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine",
        choices=("auto", "ctranslate2", "fairseq"),
        default="auto",
        help="fairseq is slower, and decodes every model and ensembles (default: auto, CTranslate2 "
        "where it can decode)",
    )
    engine.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to decode (default: auto, a GPU if there is one)",
    )
    engine.add_argument(
        "--compute-type",
        type=one_word,
        default="auto",
        help="int8, float32, float16, ..., as the engine supports (default: auto, float16 on GPUs; "
        "on CPUs int8 for CTranslate2 and float32 for fairseq)",
    )
    engine.add_argument(
        "--workers",
        type=THREADS,
        help="batches that CTranslate2 decodes at the same time (default: one per core or GPU)",
    )
    engine.add_argument(
        "--max-tokens",
        type=COUNT,
        help="source tokens of a batch, padding included; it can change the last digits of scores "
        "(default: the engine's)",
    )
    engine.add_argument(
        "--cache",
        type=file_path,
        help="folder for converted teachers (default: fairseq_kd in $XDG_CACHE_HOME or ~/.cache)",
    )
    add_user_dir(parser)
    parser.set_defaults(run=run, check=check_flags, kept="what was decoded before is kept")


def check_flags(args: argparse.Namespace) -> Tuple[Search, Shard]:
    """The search and the shard of the flags.

    Raises:
        ValueError: a flag has no effect together with the others.
    """
    return search_of(args), args.shard


def run(args: argparse.Namespace) -> int:
    """Decodes one shard, and merges the shards if it was the last."""
    search, shard = check_flags(args)
    check_apart(args.out, {"--data": args.data, "--cache": args.cache})
    register_models(args)

    from fairseq_kd.decoding.decode import decode, max_source, merge_if_last, untranslatable
    from fairseq_kd.decoding.engine_choice import choose_engine
    from fairseq_kd.decoding.translation_model import load_checkpoints, read_subset_for

    teachers = load_checkpoints(args.teacher)
    subset = read_subset_for(teachers, args.data, args.subset)
    if subset.name == "train" and subset.continuation is not None:
        print(
            f"{args.data} also has {subset.continuation}, which fairseq-train reads with train and "
            f"this command does not decode. For it: fairseq-kd translate "
            f"--subset {subset.continuation} ... --out ANOTHER",
            file=sys.stderr,
        )
    if args.beam is not None and search.beam > args.beam:
        print(f"--beam is {search.beam}, so that --nbest {args.nbest} are found", file=sys.stderr)
    engine = choose_engine(
        args.engine,
        teachers,
        subset,
        search,
        device=args.device,
        compute_type=args.compute_type,
        workers=args.workers,
        cache=args.cache,
    )
    path, progress = decode(teachers, subset, engine, args.out, shard, args.max_tokens)
    if progress is None:
        print(f"{path} is there already", file=sys.stderr)
    else:
        print(
            f"{progress.done_sentences:,} sentences are in {path}; this run decoded "
            f"{progress.sentences_per_s:.1f} a second for {progress.seconds:.0f} s",
            file=sys.stderr,
        )
    longest = max_source(teachers)
    left = untranslatable(subset, longest)
    if left:
        print(
            f"{len(left):,} of {len(subset):,} sentences are empty or have more than {longest} "
            f"tokens, and were not translated: {', '.join(map(str, left[:5]))}, ...",
            file=sys.stderr,
        )
    merge_if_last(args.out)
    return 0
