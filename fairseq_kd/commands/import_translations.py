"""The command ``fairseq-kd import-translations``: imports the translations of another system."""

from fairseq_kd.command_line import Subcommand
from fairseq_kd.decoding.options import ImportTranslationsOptions
from fairseq_kd.files.atomic_files import check_apart

DESCRIPTION = """\
Imports the translations of a set by any other system, as text: an online service, a large
language model, a model of Hugging Face or CTranslate2, Moses. They are tokenised, split and looked
up as the data were, and OUT is as fairseq-kd translate leaves it, for fairseq-kd distill-data.
Translations that do not belong to the sentences of the set are refused: another number of lines,
other sources, another language, lines out of step with the references. Tokens that the dictionary
lacks become the unknown token; their share is printed."""
EPILOG = """\
example:
  fairseq-kd import-translations --data data-bin --hypotheses train.en --out translations
  fairseq-kd distill-data --data data-bin --translations translations --mix gold --out distilled

The text to translate is the one that was binarised: fairseq-kd prepare keeps it as text/train.LANG
beside the data.
"""


def run(options: ImportTranslationsOptions) -> int:
    """Writes the folder, or prints that it exists."""
    check_apart(options.out, {"--data": options.data, "--hypotheses": options.hypotheses})

    from fairseq_kd.decoding.external_translations import Import
    from fairseq_kd.decoding.subset import language_pair_of
    from fairseq_kd.machine import cores

    Import(options, language_pair_of(options.data), options.workers or cores()).run()
    return 0


SUBCOMMAND = Subcommand(
    ImportTranslationsOptions,
    run,
    help="import the translations of another system, for distill-data",
    description=DESCRIPTION,
    epilog=EPILOG,
    kept="the file of translations is unchanged",
)
