"""The command ``fairseq-kd prepare``: turns parallel text into data for fairseq-train."""

from fairseq_kd.command_line import Subcommand
from fairseq_kd.distilled_data.options import PrepareOptions
from fairseq_kd.files.atomic_files import check_apart

DESCRIPTION = """\
Turns parallel text into what fairseq-train reads: sacremoses tokenises, subword-nmt learns and
applies a joint BPE, fairseq-preprocess binarises. Line N of both files of a set is a pair. Control
characters in a line become spaces, and a pair is dropped if nothing of a side is visible. Text that
BPE or SentencePiece has split already is refused.

OUT holds  text/  the sentences that were kept, as they were written: the references to score
           bpe/   their tokens, split by BPE
           codes  the BPE merges
           bin/   what fairseq-train reads"""
EPILOG = """\
examples:
  fairseq-kd prepare --text data/bible.es-en --source es --target en --out es-en
  fairseq-kd prepare --text text --source en --target de --vocabulary TEACHER --out en-de
"""


def run(options: PrepareOptions) -> int:
    """Writes the folder, or prints that it exists."""
    inputs = {"--text": options.text, "--vocabulary": options.vocabulary}
    check_apart(options.out, inputs)

    from fairseq_kd.distilled_data.prepared_text import PreparedText
    from fairseq_kd.machine import cores

    PreparedText(options, options.workers or cores()).make()
    return 0


SUBCOMMAND = Subcommand(
    PrepareOptions,
    run,
    help="turn parallel text into data for fairseq-train",
    description=DESCRIPTION,
    epilog=EPILOG,
    kept="the text is unchanged",
)
