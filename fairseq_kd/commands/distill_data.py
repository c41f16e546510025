"""The command ``fairseq-kd distill-data``: makes a training set of translations."""

import argparse
import math
from typing import Any, Dict, Optional

from fairseq_kd.distilled_data.filters import FILTERS
from fairseq_kd.flag_types import COUNT, THREADS, Range, file_path, one_word, split_name

DESCRIPTION = """\
Selects and filters the translations of fairseq-kd translate, and binarises them with the
dictionaries of --data: OUT is ready for fairseq-train. OUT/text has the pairs as text with BPE,
OUT/scores.tsv every selected pair with its scores and the filter that removed it, OUT/manifest.json
the hashes, options and counts. To change thresholds, choose another --out; nothing is decoded
again."""
MIXES = ("alone", "gold", "extra")
BPE = ("subword_nmt", "sentencepiece", "wordpiece", "letter", "_EOW", "none")


def add_parser(subcommands: Any) -> None:
    """Adds the command to the command line."""
    parser = subcommands.add_parser(
        "distill-data",
        aliases=["distil-data"],
        help="select, filter and binarise translations: the student's training set",
        description=DESCRIPTION,
    )
    parser.add_argument(
        "--translations",
        required=True,
        type=file_path,
        help="the --out folder of fairseq-kd translate",
    )
    parser.add_argument(
        "--data", required=True, type=file_path, help="the data folder that was translated"
    )
    parser.add_argument("--out", required=True, type=file_path, help="folder for the training set")
    parser.add_argument(
        "--remove-bpe",
        choices=BPE,
        default="subword_nmt",
        help="how words are split; used for scores only (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=THREADS,
        help="processes that compute similarities (default: one per core)",
    )
    _add_selection(parser.add_argument_group("selection"))
    filters = parser.add_argument_group(
        "filters",
        "thresholds that a pair must meet; --max-...=inf and --min-...=-inf turn a filter off, but "
        "pairs without a word are always removed",
    )
    for each in FILTERS:
        default = "none" if each.default is None else f"{each.default:g}"
        filters.add_argument(each.flag, type=each.range, help=f"{each.help} (default: {default})")
    _add_mixing(parser.add_argument_group("mixing with gold data"))
    parser.set_defaults(run=run, check=check_flags, kept="the translations are kept")


def _add_selection(flags: Any) -> None:
    flags.add_argument(
        "--select",
        choices=("best", "nbest", "interpolation", "mbr"),
        default="best",
        help="the teacher's best hypothesis; all of them; the one nearest to the reference "
        "(arXiv:1606.07947); or the one nearest to all others, minimum Bayes risk (default: best)",
    )
    flags.add_argument(
        "--copies",
        type=COUNT,
        help="with nbest: maximal number of hypotheses per sentence (default: all)",
    )
    flags.add_argument(
        "--metric",
        choices=("bleu", "chrf"),
        help="similarity of two sentences, by sacreBLEU (default: bleu)",
    )


def _add_mixing(flags: Any) -> None:
    flags.add_argument(
        "--mix",
        choices=MIXES,
        default="alone",
        help="alone; gold: gold and distilled pairs in one training split; extra: gold as train, "
        "distilled as train1, which fairseq-train reads together (and weights by "
        "--upsample-primary) (default: alone)",
    )
    flags.add_argument(
        "--gold-subset", type=split_name, help="the gold split in --data (default: train)"
    )
    flags.add_argument(
        "--upsample-gold",
        type=Range(int, 1, 1000),
        metavar="N",
        help="with gold: N copies of it (default: 1)",
    )
    flags.add_argument(
        "--tag-distilled",
        type=one_word,
        metavar="TOKEN",
        help="with gold or extra: first token of distilled sources (default: none)",
    )
    flags.add_argument(
        "--tag-gold",
        type=one_word,
        metavar="TOKEN",
        help="with gold: first token of gold sources (default: none)",
    )


def run(args: argparse.Namespace) -> int:
    """Makes the training set, or prints that it exists."""
    check_flags(args)
    thresholds = thresholds_of(args)

    from fairseq_kd.decoding.engine_choice import cores
    from fairseq_kd.distilled_data.distilled_set import DistilledSet, MixOptions
    from fairseq_kd.distilled_data.selection import SelectionOptions

    choice = SelectionOptions(
        args.select,
        args.copies,
        args.metric or "bleu",
        args.remove_bpe,
        args.min_similarity is not None,
    )
    mix = MixOptions(
        args.mix,
        args.gold_subset or "train",
        args.upsample_gold or 1,
        args.tag_distilled,
        args.tag_gold,
    )
    workers = args.workers or cores()
    DistilledSet(args.translations, args.data, args.out, choice, thresholds, mix, workers).make()
    return 0


def thresholds_of(args: argparse.Namespace) -> Dict[str, float]:
    """The thresholds by the filters' names, without those that are off."""
    thresholds: Dict[str, float] = {}
    for each in FILTERS:
        given: Optional[float] = getattr(args, each.option)
        value = each.default if given is None else given
        if each.name == "words" and value == -math.inf:
            value = each.default  # pairs without a word are useless
        if value is not None:
            thresholds[each.name] = value
    return thresholds


def check_flags(args: argparse.Namespace) -> None:
    """Checks that every flag has an effect.

    Raises:
        ValueError: naming a flag that has none.
    """
    if args.tag_distilled is not None and args.tag_distilled == args.tag_gold:
        raise ValueError(
            f"--tag-distilled and --tag-gold must differ, but both are {args.tag_gold}."
        )
    compares = args.select in ("interpolation", "mbr") or args.min_similarity is not None
    mixed, together = args.mix != "alone", args.mix == "gold"
    for flag, value, useful, needs in (
        ("--copies", args.copies, args.select == "nbest", "--select nbest"),
        ("--metric", args.metric, compares, "--select interpolation or mbr, or --min-similarity"),
        ("--gold-subset", args.gold_subset, mixed, "--mix gold or extra"),
        ("--upsample-gold", args.upsample_gold, together, "--mix gold"),
        ("--tag-distilled", args.tag_distilled, mixed, "--mix gold or extra"),
        ("--tag-gold", args.tag_gold, together, "--mix gold"),
    ):
        if value is not None and not useful:
            raise ValueError(f"{flag} has no effect without {needs}. Add that, or leave it out.")
