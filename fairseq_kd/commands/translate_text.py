"""The command ``fairseq-kd translate-text``: translates plain text with a model of CTranslate2."""

from fairseq_kd.command_line import Subcommand
from fairseq_kd.decoding.options import TranslateTextOptions
from fairseq_kd.files.atomic_files import check_apart

DESCRIPTION = """\
Translates plain text with a teacher that is not a fairseq model, converted for CTranslate2:
OPUS-MT, M2M-100, NLLB and others. The model's own SentencePiece model splits the text, and joins
the translations. OUT/translations.jsonl has the hypotheses of each line, best first, with their
scores, for fairseq-kd import-translations --format jsonl. After a kill the same command resumes."""
EPILOG = """\
examples:
  ct2-transformers-converter --model Helsinki-NLP/opus-mt-es-en --output_dir opus \\
      --copy_files source.spm target.spm
  fairseq-kd translate-text --ct2-model opus --text es-en/text/train.es --nbest 5 --out opus-train
  fairseq-kd import-translations --data es-en/bin --hypotheses opus-train/translations.jsonl \\
      --format jsonl --out translations

  ct2-transformers-converter --model facebook/nllb-200-distilled-600M --output_dir nllb \\
      --copy_files sentencepiece.bpe.model
  fairseq-kd translate-text --ct2-model nllb --source-prefix spa_Latn --target-prefix eng_Latn \\
      --text es-en/text/train.es --out nllb-train
"""


def run(options: TranslateTextOptions) -> int:
    """Writes the folder, or prints that it exists."""
    inputs = {"--ct2-model": options.ct2_model, "--text": options.text}
    check_apart(options.out, inputs)

    from fairseq_kd.decoding.external_model import ExternalModel
    from fairseq_kd.machine import cores

    ExternalModel(options, options.workers or cores()).make()
    return 0


SUBCOMMAND = Subcommand(
    TranslateTextOptions,
    run,
    help="translate plain text with a model of CTranslate2, such as NLLB",
    description=DESCRIPTION,
    epilog=EPILOG,
    kept="the text is unchanged",
)
