"""The command ``fairseq-kd export``: writes a student as a CTranslate2 directory."""

import argparse
from importlib.util import find_spec
from typing import Any

from fairseq_kd.commands.evaluate import add_sacrebleu_tokenize
from fairseq_kd.commands.user_dir import add_user_dir, register_models
from fairseq_kd.flag_types import BEAM, THREADS, file_path, one_line, split_name

DESCRIPTION = """\
Converts a student for CTranslate2 and writes a folder with everything that translation needs:
weights, vocabularies, BPE codes, an example program translate.py, and a model card README.md with
BLEU and speed compared with the checkpoint, the lineage and the licences. The folder appears only
after translate.py has translated a few sentences as the model does."""
QUANTIZATIONS = ("int8", "int8_float32", "int16", "float16", "float32")


def add_parser(commands: Any) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "export",
        help="write a student as a CTranslate2 folder with codes, example program and model card",
        description=DESCRIPTION,
    )
    parser.add_argument("student", type=one_line, metavar="S.pt", help="the checkpoint")
    parser.add_argument("--out", required=True, type=file_path, help="the folder to write")
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        default="int8",
        help="type of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=file_path,
        help="the folder that fairseq-preprocess wrote (default: that of the training)",
    )
    parser.add_argument(
        "--subset",
        type=split_name,
        default="test",
        help="the split to measure on (default: %(default)s)",
    )
    parser.add_argument(
        "--codes",
        type=file_path,
        help="the BPE merges, or the model of SentencePiece (default: the file codes or "
        "sentencepiece.model beside DATA)",
    )
    parser.add_argument(
        "--bpe",
        choices=("subword_nmt", "sentencepiece", "none"),
        default="subword_nmt",
        help="how words were split (default: %(default)s)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=("moses", "none"),
        default="moses",
        help="how text was tokenised (default: %(default)s)",
    )
    add_sacrebleu_tokenize(parser)
    parser.add_argument("--beam", type=BEAM, default=5, help="beam width (default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=THREADS,
        help="threads of the measurement (default: one per core)",
    )
    parser.add_argument(
        "--license",
        type=one_line,
        default="not stated",
        help="licence of the model, for its card (default: %(default)s)",
    )
    parser.add_argument(
        "--data-license",
        type=one_line,
        default="not stated",
        help="name, origin and licence of the training data, for the card (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=file_path,
        help="folder for models converted in float32, to check the conversion (default: "
        "fairseq_kd in $XDG_CACHE_HOME or ~/.cache)",
    )
    add_user_dir(parser)
    parser.set_defaults(run=run, kept="the checkpoint is unchanged")


def run(args: argparse.Namespace) -> int:
    """Exports, and prints size, BLEU and speed."""
    register_models(args)
    from fairseq_kd.decoding.engine_choice import INSTALL, cores
    from fairseq_kd.evaluation.systems import NamedCheckpoint, load_named

    if args.bpe == "none" and args.codes is not None:
        raise ValueError("--codes has no effect with --bpe none. Leave one of the two out.")
    if find_spec("ctranslate2") is None:
        raise ValueError(f"The export needs CTranslate2, which is not installed ({INSTALL}).")
    if args.bpe == "sentencepiece" and find_spec("sentencepiece") is None:
        raise ValueError(
            "--bpe sentencepiece needs a package that is not installed (pip install sentencepiece)."
        )

    from fairseq_kd.export.card import Licences
    from fairseq_kd.export.directory import Export, ExportOptions
    from fairseq_kd.export.lineage import trained_on

    system = load_named(NamedCheckpoint("student", "student", args.student), "checkpoint")
    options = ExportOptions(
        data=args.data or trained_on(system.path),
        subset=args.subset,
        out=args.out,
        quantization=args.quantization,
        codes=args.codes,
        bpe=args.bpe,
        tokenizer=args.tokenizer,
        sacrebleu_tokenize=args.sacrebleu_tokenize,
        beam=args.beam,
        threads=args.threads or cores(),
        licences=Licences(args.license, args.data_license),
        cache=args.cache,
    )
    print(Export(system, options).write())
    return 0
