"""The command ``fairseq-kd evaluate``: compares students with their teacher and controls."""

import argparse
import sys
from typing import Any, List

from fairseq_kd.commands.user_dir import add_user_dir, register_models
from fairseq_kd.decoding.search import LENPEN
from fairseq_kd.flag_types import BEAM, COUNT, THREADS, Range, file_path, one_line, split_name

DESCRIPTION = """\
Compares students with their teacher, and with students of the same size that were trained without
distillation (controls): quality by sacreBLEU with paired bootstrap, error types, size, memory, and
speed in fairseq and in CTranslate2, all systems in turns. Writes report.html, report.md, every
translation as plain text, and evaluation.json with all figures to OUT, where it replaces an earlier
report. Killed? Run the same command again: finished translations are kept."""
TOKENIZERS = (  # of sacreBLEU
    *("13a", "char", "flores101", "flores200", "intl", "ja-mecab", "ko-mecab", "none", "spm"),
    "zh",
)
BPE = ("subword_nmt", "sentencepiece", "wordpiece", "letter", "_EOW", "none")


def add_parser(commands: Any) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "evaluate",
        help="compare students with their teacher: quality, size, memory, speed; write a report",
        description=DESCRIPTION,
    )
    parser.add_argument(
        "--teacher",
        required=True,
        type=one_line,
        metavar="T.pt",
        help="the checkpoint of the teacher",
    )
    parser.add_argument(
        "--student",
        required=True,
        action="append",
        type=one_line,
        metavar="[NAME=]S.pt",
        help="the checkpoint of a student, and its name in the report (default: student); may be "
        "repeated",
    )
    parser.add_argument(
        "--control",
        action="append",
        type=one_line,
        metavar="[NAME=]C.pt",
        help="the checkpoint of a student of the same size that was trained without distillation; "
        "may be repeated (default: none)",
    )
    parser.add_argument(
        "--data", required=True, type=file_path, help="the folder that fairseq-preprocess wrote"
    )
    parser.add_argument(
        "--subset", type=split_name, default="test", help="which split (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, type=file_path, help="folder for the report")
    add_user_dir(parser)
    _add_text(parser.add_argument_group("text and search"))
    _add_measuring(parser.add_argument_group("measuring"))
    parser.set_defaults(run=run, check=check_flags, kept="finished translations are kept")


def _add_text(flags: Any) -> None:
    flags.add_argument(
        "--reference",
        type=file_path,
        help="file of plain references (default: text/SUBSET.LANG beside DATA, where "
        "scripts/prepare.sh puts it, else the binarised references, detokenised)",
    )
    flags.add_argument(
        "--remove-bpe",
        choices=BPE,
        default="subword_nmt",
        help="how words were split (default: %(default)s)",
    )
    flags.add_argument(
        "--tokenizer",
        choices=("moses", "none"),
        default="moses",
        help="how text was tokenised, as in fairseq-generate (default: %(default)s)",
    )
    add_sacrebleu_tokenize(flags)
    flags.add_argument(
        "--beam",
        type=BEAM,
        default=5,
        help="beam width of every system (default: %(default)s)",
    )
    flags.add_argument(
        "--lenpen",
        type=LENPEN,
        default=1.0,
        help="length penalty: < 1 favours shorter translations (default: %(default)s)",
    )
    flags.add_argument(
        "--bootstrap",
        type=Range(int, 100, 1_000_000),
        default=1000,
        metavar="N",
        help="resamples of the paired bootstrap (default: %(default)s)",
    )
    flags.add_argument(
        "--comet", type=file_path, metavar="MODEL.ckpt", help="also score with this COMET model"
    )


def add_sacrebleu_tokenize(flags: Any) -> None:
    """Adds the flag ``--sacrebleu-tokenize``."""
    flags.add_argument(
        "--sacrebleu-tokenize",
        choices=TOKENIZERS,
        metavar="NAME",
        help="the tokenizer of BLEU, one of %(choices)s (default: sacreBLEU's for the target "
        "language: zh for Chinese, ja-mecab for Japanese, ko-mecab for Korean, else 13a)",
    )


def _add_measuring(flags: Any) -> None:
    flags.add_argument(
        "--threads",
        type=THREADS,
        help="threads of every measurement but latency (default: one per core)",
    )
    flags.add_argument(
        "--latency-threads",
        type=THREADS,
        default=1,
        metavar="THREADS",
        help="threads for single sentences; small models gain nothing from several "
        "(default: %(default)s)",
    )
    flags.add_argument(
        "--rounds",
        type=Range(int, 0, 1000),
        default=3,
        help="rounds, of which the median is reported; 0: do not measure speed "
        "(default: %(default)s)",
    )
    flags.add_argument(
        "--latency-sentences",
        type=COUNT,
        default=32,
        metavar="N",
        help="sentences of all lengths to translate one by one (default: %(default)s)",
    )
    flags.add_argument(
        "--batch-sentences",
        type=COUNT,
        default=128,
        metavar="N",
        help="sentences to translate in batches of 32 and of 128 (default: %(default)s)",
    )
    flags.add_argument("--no-memory", action="store_true", help="do not measure memory")
    flags.add_argument(
        "--cache",
        type=file_path,
        help="folder for models converted for CTranslate2 (default: fairseq_kd in "
        "$XDG_CACHE_HOME or ~/.cache)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes the report and prints its first table."""
    check_flags(args)
    register_models(args)
    from fairseq_kd.decoding.engine_choice import cores
    from fairseq_kd.decoding.search import Search
    from fairseq_kd.evaluation.evaluation import Evaluation, EvaluationOptions
    from fairseq_kd.evaluation.plots import check_matplotlib
    from fairseq_kd.evaluation.report import check_out, write_report
    from fairseq_kd.files.locks import locked

    check_matplotlib()
    check_out(args.out, args.data)
    options = EvaluationOptions(
        systems=_systems(args),
        data=args.data,
        subset=args.subset,
        out=args.out,
        reference=args.reference,
        remove_bpe=args.remove_bpe,
        tokenizer=args.tokenizer,
        sacrebleu_tokenize=args.sacrebleu_tokenize,
        search=Search(beam=args.beam, lenpen=args.lenpen),
        samples=args.bootstrap,
        comet=args.comet,
        threads=args.threads or cores(),
        latency_threads=args.latency_threads,
        rounds=args.rounds,
        alone=args.latency_sentences,
        together=args.batch_sentences,
        memory=not args.no_memory,
        cache=args.cache,
    )
    evaluation = Evaluation(options)
    with locked(args.out / ".evaluate.lock", f"--out {args.out}"):
        print(write_report(args.out, evaluation.run()))
    print(f"{args.out / 'report.html'} has all figures and plots", file=sys.stderr)
    return 0


def check_flags(args: argparse.Namespace) -> None:
    """Checks the flags.

    Raises:
        FileNotFoundError, ValueError: a file does not exist, or a name is not allowed.
    """
    if args.comet is not None:
        from fairseq_kd.evaluation.scores import check_comet

        check_comet(args.comet)
    if args.reference is not None and not args.reference.is_file():
        raise FileNotFoundError(
            f"--reference {args.reference} does not exist. Give the plain text of the references."
        )
    _systems(args)


def _systems(args: argparse.Namespace) -> List[Any]:
    from fairseq_kd.evaluation.systems import NamedCheckpoint

    flags = {"teacher": [args.teacher], "student": args.student, "control": args.control or []}
    return [NamedCheckpoint.parse(role, each) for role, given in flags.items() for each in given]
