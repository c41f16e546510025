"""The command ``fairseq-kd export``: writes a student as a CTranslate2 directory."""

from fairseq_kd.command_line import Subcommand
from fairseq_kd.export.options import ExportOptions

DESCRIPTION = """\
Converts a student for CTranslate2 and writes a folder with everything that translation needs:
weights, vocabularies, BPE codes, an example program translate.py, and a model card README.md with
BLEU and speed compared with the checkpoint, the lineage and the licences. The folder appears only
after translate.py has translated a few sentences as the model does."""


def run(options: ExportOptions) -> int:
    """Exports, and prints size, BLEU and speed."""
    from fairseq_kd.export.student import Export
    from fairseq_kd.plugin import import_user_dir

    import_user_dir(options.user_dir)
    print(Export(options).write())
    return 0


SUBCOMMAND = Subcommand(
    ExportOptions,
    run,
    help="write a student as a CTranslate2 folder with codes, example program and model card",
    description=DESCRIPTION,
    kept="the checkpoint is unchanged",
)
