"""The command ``fairseq-kd inherit``: writes a student checkpoint from a teacher's layers."""

from fairseq_kd.command_line import Subcommand, teacher_pair
from fairseq_kd.inheritance.options import MAX_TOKENS, SENTENCES, SUBSET, InheritOptions

DESCRIPTION = """\
Writes a checkpoint to start a student from, by fairseq-train --finetune-from-model: the teacher's
first and last layers and others evenly between, or those that you name. A narrower student gets the
most important heads and feed-forward units, by their weights. With --importance data they, and the
layers, are chosen by what they contribute on sentences. What is not a size (sharing of embeddings,
activation function and so on) is taken from the teacher; flags of fairseq-train for the model may
follow after --, such as -- --encoder-layers 4."""


def run(options: InheritOptions) -> int:
    """Writes the checkpoint and prints what was copied from where."""
    from fairseq_kd.inheritance.importance_data import ImportanceData
    from fairseq_kd.inheritance.student_checkpoint import write_student
    from fairseq_kd.plugin import import_user_dir
    from fairseq_kd.teachers.languages import Languages

    import_user_dir(options.user_dir)
    layers = {"encoder": options.encoder_layers, "decoder": options.decoder_layers}
    flags = list(options.model_flags)
    pair = teacher_pair(options)
    languages, data = Languages(pair, pair), None
    if options.importance == "data":
        data = ImportanceData(
            options.data,
            options.subset or SUBSET,
            options.sentences or SENTENCES,
            options.max_tokens or MAX_TOKENS,
        )
        languages = data.languages(pair)
    made = write_student(options.teacher, options.arch, options.out, layers, flags, languages, data)
    print(made)
    return 0


SUBCOMMAND = Subcommand(
    InheritOptions,
    run,
    help="write a student checkpoint that starts from a teacher's layers",
    description=DESCRIPTION,
    usage="fairseq-kd inherit --teacher T.pt --arch A --out S.pt [flags] [-- model flags]",
    kept="the teacher is unchanged",
)
