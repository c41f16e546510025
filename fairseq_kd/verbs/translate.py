"""The verb ``translate``: decodes a binarised set with its teacher."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, Tuple

from fairseq_kd.decoding.search import Search, add_search_flags, search_of
from fairseq_kd.flag_types import COUNT, THREADS, file_path, one_line, one_word, split_name
from fairseq_kd.shard import Shard
from fairseq_kd.whole_files import check_apart

DESCRIPTION = """\
Decodes a set that fairseq-preprocess binarised, for a student to learn from. Tokens stay as they
are binarised: nothing is detokenised and BPE is kept. OUT/hypotheses.txt gets the translations in
the set's order, in the format of the H- lines of fairseq-generate. Killed? Run the same command
again: it goes on where it was. Then make the training set by fairseq-kd distill-data."""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
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
        help="decode the I-th of N parts, so that N machines share the work; the last one to end "
        "merges them (default: all)",
    )
    add_search_flags(parser)
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine",
        choices=("auto", "ctranslate2", "fairseq"),
        default="auto",
        help="fairseq is slower, and serves every model and ensembles (default: auto, CTranslate2 "
        "where it can)",
    )
    engine.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="(default: auto, a GPU if there is one)",
    )
    engine.add_argument(
        "--compute-type",
        type=one_word,
        default="auto",
        help="int8, float32, float16, ..., as the engine has them (default: auto, float16 on GPUs, "
        "and on CPUs int8 of CTranslate2 and float32 of fairseq)",
    )
    engine.add_argument(
        "--workers",
        type=THREADS,
        help="batches that CTranslate2 decodes at the same time (default: one a core or GPU)",
    )
    engine.add_argument(
        "--max-tokens",
        type=COUNT,
        help="source tokens of a batch, padding included; it can change the last digits of scores "
        "(default: what suits the engine)",
    )
    engine.add_argument(
        "--cache",
        type=file_path,
        help="folder for converted teachers (default: fairseq_kd in $XDG_CACHE_HOME or ~/.cache)",
    )
    engine.add_argument(
        "--user-dir", type=one_line, help="your own plugin of fairseq, if the teacher needs it"
    )
    parser.set_defaults(run=run, check=check_flags, kept="what was decoded before is kept")


def check_flags(args: argparse.Namespace) -> Tuple[Search, Shard]:
    """The search and the shard that the flags describe.

    Raises:
        ValueError: a flag has no effect beside the others.
    """
    return search_of(args), args.shard


def run(args: argparse.Namespace) -> int:
    """Decodes one shard, and merges if it was the last."""
    search, shard = check_flags(args)
    check_apart(args.out, {"--data": args.data, "--cache": args.cache})
    _import_plugins(args.user_dir)

    from fairseq_kd.decoding.batches import length_sorted_batches
    from fairseq_kd.decoding.decode import ShardDecoder, untranslatable
    from fairseq_kd.decoding.engine_choice import choose_engine
    from fairseq_kd.decoding.hypothesis_files import WHOLE, check_cut, check_shard, shard_file
    from fairseq_kd.decoding.settings import agree_on, plan_id
    from fairseq_kd.decoding.translation_model import load_teachers, read_their_subset
    from fairseq_kd.hashes import sha256_of
    from fairseq_kd.locks import lock_beside, locked

    teachers = load_teachers(args.teacher)
    subset = read_their_subset(teachers, args.data, args.subset)
    if subset.name == "train" and subset.continuation is not None:
        print(
            f"{args.data} has {subset.continuation} too, which fairseq-train reads with train and "
            f"this does not decode; for it: fairseq-kd translate --subset {subset.continuation} "
            "... --out ANOTHER",
            file=sys.stderr,
        )
    if args.beam is not None and search.beam > args.beam:
        print(f"--beam is {search.beam}, so that --nbest {args.nbest} are found", file=sys.stderr)
    max_source = min(int(teacher.model.max_positions()[0]) for teacher in teachers)
    hashes = [sha256_of([teacher.path]) for teacher in teachers]
    engine = choose_engine(
        args.engine,
        teachers,
        hashes,
        subset,
        search,
        device=args.device,
        compute_type=args.compute_type,
        workers=args.workers,
        cache=args.cache,
    )
    max_tokens = args.max_tokens or engine.batch_tokens
    plan = {
        "subset": subset.name,
        "pair": list(subset.pair),
        "sentences": len(subset),
        **subset.hashes,
        "teacher": hashes,
        **engine.identity,
        **dataclasses.asdict(search),
        "max_tokens": max_tokens,
    }
    agree_on(plan, args.out)
    with locked(lock_beside(args.out / shard_file(shard)), f"Shard {shard} in --out {args.out}"):
        for path in (args.out / WHOLE, args.out / shard_file(shard)):
            if path.is_file():
                check_shard(path, plan_id(plan))
                print(f"{path} is there already", file=sys.stderr)
                break
        else:
            check_cut(args.out, shard)
            batches = length_sorted_batches(subset.source_lengths, max_tokens)
            decoder = ShardDecoder(subset, batches, max_source, args.out, shard, plan_id(plan))
            print(f"{engine.summary}, {len(decoder.own):,} batches", file=sys.stderr)
            progress = decoder.run(engine)
            print(
                f"{progress.done_sentences:,} sentences are in {decoder.path}; this run decoded "
                f"{progress.sentences_per_s:.1f} a second for {progress.seconds:.0f} s",
                file=sys.stderr,
            )
    left = untranslatable(subset, max_source)
    if left:
        print(
            f"{len(left):,} of {len(subset):,} sentences are empty or have more than {max_source} "
            f"tokens, and were not translated: {', '.join(map(str, left[:5]))}, ...",
            file=sys.stderr,
        )
    _merge_if_last(args.out)
    return 0


def _import_plugins(user_dir: "str | None") -> None:
    from fairseq.utils import import_user_module

    import fairseq_kd.plugin  # noqa: F401  (architectures that a teacher may have)

    if user_dir is not None:
        import_user_module(argparse.Namespace(user_dir=user_dir))


def _merge_if_last(folder: Path) -> None:
    """Merges the shards if all are finished, and have not been merged."""
    from fairseq_kd.decoding.hypothesis_files import WHOLE, missing_shards, shard_files
    from fairseq_kd.verbs.merge import merge_shards

    if (folder / WHOLE).is_file():
        return
    if shard_files(folder) and not missing_shards(folder):
        merge_shards(folder)
