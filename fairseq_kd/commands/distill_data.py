"""The command ``fairseq-kd distill-data``: makes a training set of translations."""

from fairseq_kd.command_line import Subcommand
from fairseq_kd.distilled_data.options import DistillDataOptions

DESCRIPTION = """\
Selects and filters the translations of fairseq-kd translate, and binarises them with the
dictionaries of --data: OUT is ready for fairseq-train. OUT/text has the pairs as text with BPE,
OUT/scores.tsv every selected pair with its scores and the filter that removed it, OUT/manifest.json
the hashes, options and counts. To change thresholds, choose another --out; nothing is decoded
again."""


def run(options: DistillDataOptions) -> int:
    """Makes the training set, or prints that it exists."""
    from fairseq_kd.distilled_data.distilled_set import DistilledSet, MixOptions
    from fairseq_kd.distilled_data.selection import SelectionOptions
    from fairseq_kd.machine import cores

    choice = SelectionOptions(
        options.select,
        options.copies,
        options.metric or "bleu",
        options.remove_bpe,
        options.min_similarity is not None,
    )
    mix = MixOptions(
        options.mix,
        options.gold_subset or "train",
        options.upsample_gold or 1,
        options.tag_distilled,
        options.tag_gold,
        options.gold_data,
    )
    workers = options.workers or cores()
    folders = (options.translations, options.data, options.out)
    thresholds = options.thresholds()
    DistilledSet(*folders, choice, thresholds, mix, workers, options.scores).make()
    return 0


SUBCOMMAND = Subcommand(
    DistillDataOptions,
    run,
    help="select, filter and binarise translations: the student's training set",
    description=DESCRIPTION,
    aliases=["distil-data"],
    kept="the translations are kept",
)
