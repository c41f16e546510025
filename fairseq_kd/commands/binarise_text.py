"""The command ``fairseq-kd binarise-text``: binarises monolingual source text."""

from fairseq_kd.command_line import Subcommand
from fairseq_kd.distilled_data.options import BinariseTextOptions
from fairseq_kd.files.atomic_files import check_apart

DESCRIPTION = """\
Binarises monolingual text in the source language with the dictionaries of --data. OUT is a data
folder whose training set has sources without references, for fairseq-kd translate,
import-translations and distill-data; its other sets are those of --data. Sentence N is line N of
the text. Tokens that the dictionary lacks become the unknown token; their share is printed."""
EPILOG = """\
example:
  fairseq-kd binarise-text --data data-bin --text news.de --out news
  fairseq-kd translate --teacher teacher.pt --data news --out news-translations
  fairseq-kd distill-data --translations news-translations --data news --gold-data data-bin \\
      --mix gold --out distilled
"""


def run(options: BinariseTextOptions) -> int:
    """Writes the folder, or prints that it exists."""
    check_apart(options.out, {"--data": options.data, "--text": options.text})

    from fairseq_kd.decoding.subset import language_pair_of
    from fairseq_kd.distilled_data.source_text import SourceText
    from fairseq_kd.machine import cores

    SourceText(options, language_pair_of(options.data), options.workers or cores()).make()
    return 0


SUBCOMMAND = Subcommand(
    BinariseTextOptions,
    run,
    help="binarise monolingual source text, to be translated",
    description=DESCRIPTION,
    epilog=EPILOG,
    kept="the text is unchanged",
)
