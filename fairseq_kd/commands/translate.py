"""The command ``fairseq-kd translate``: decodes a binarised set with its teacher."""

import sys

from fairseq_kd.command_line import Subcommand, teacher_pair
from fairseq_kd.decoding.options import TranslateOptions
from fairseq_kd.files.atomic_files import check_apart

DESCRIPTION = """\
Decodes a set that fairseq-preprocess binarised, as training data for a student. Tokens stay as
binarised: nothing is detokenised and BPE is kept. OUT/hypotheses.txt has the translations in the
order of the set, in the format of the H- lines of fairseq-generate. Killed? Run the same command
again: it continues. Then make the training set by fairseq-kd distill-data."""


def run(options: TranslateOptions) -> int:
    """Decodes one shard, and merges the shards if it was the last."""
    check_apart(options.out, {"--data": options.data, "--cache": options.cache})

    from fairseq_kd.decoding.decode import decode, max_source, merge_if_last, untranslatable
    from fairseq_kd.decoding.engine_choice import choose_engine
    from fairseq_kd.decoding.translation_model import load_checkpoints, read_subset_for
    from fairseq_kd.plugin import import_user_dir
    from fairseq_kd.teachers.languages import Languages

    import_user_dir(options.user_dir)
    search = options.search
    languages = Languages.of_data(options.data, teacher_pair(options))
    teachers = load_checkpoints(options.teacher, languages)
    subset = read_subset_for(teachers, options.data, options.subset)
    if subset.name == "train" and subset.continuation is not None:
        print(
            f"{options.data} also has {subset.continuation}, which fairseq-train reads with train "
            f"and this command does not decode. For it: fairseq-kd translate "
            f"--subset {subset.continuation} ... --out ANOTHER",
            file=sys.stderr,
        )
    if options.beam is not None and search.beam > options.beam:
        print(
            f"--beam is {search.beam}, so that --nbest {options.nbest} are found", file=sys.stderr
        )
    engine = choose_engine(
        options.engine,
        teachers,
        subset,
        search,
        device=options.device,
        compute_type=options.compute_type,
        workers=options.workers,
        cache=options.cache,
    )
    path, progress = decode(
        teachers, subset, engine, options.out, options.shard, options.max_tokens
    )
    if progress is None:
        print(f"{path} already exists", file=sys.stderr)
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
    merge_if_last(options.out)
    return 0


SUBCOMMAND = Subcommand(
    TranslateOptions,
    run,
    help="decode a binarised set with a teacher, in shards if wanted",
    description=DESCRIPTION,
    kept="earlier translations are kept",
)
