"""The verb ``fairseq-kd evaluate``."""

import argparse
import sys
from typing import Any

from fairseq_kd.evaluation.bleu_tokenizer import HELP, TOKENIZERS
from fairseq_kd.flag_types import BEAM, COUNT, THREADS, Range, file_path, one_line, split_name
from fairseq_kd.sequence.search import LENPEN

DESCRIPTION = """\
Measures a student against its teacher, and against the same student trained without distillation (a
control): quality by sacreBLEU with paired bootstrap, how translations go wrong, size, memory, and
speed in fairseq and in CTranslate2, all systems in turns. OUT gets report.html, report.md, every
translation as plain text, and evaluation.json with all figures; of an earlier report in OUT nothing
is left. Killed? Run the same command again: what was translated is kept."""
BPE = ("subword_nmt", "sentencepiece", "wordpiece", "letter", "_EOW", "none")


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "evaluate",
        help="measure students against their teacher: quality, size, memory, speed; the report",
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
        help="the checkpoint of a student, and what to call it (default: student); may be repeated",
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
    _add_text(parser.add_argument_group("text and search"))
    _add_measuring(parser.add_argument_group("measuring"))
    parser.set_defaults(run=run, check=options_of, kept="what was translated is kept")


def _add_text(flags: Any) -> None:
    flags.add_argument(
        "--reference",
        type=file_path,
        help="the references as plain text (default: text/SUBSET.LANG beside DATA, where "
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
        help="what undoes the tokenisation, as in fairseq-generate (default: %(default)s)",
    )
    flags.add_argument("--sacrebleu-tokenize", choices=TOKENIZERS, metavar="NAME", help=HELP)
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
        "--comet", type=file_path, metavar="MODEL.ckpt", help="score by this COMET model, too"
    )


def _add_measuring(flags: Any) -> None:
    flags.add_argument(
        "--threads",
        type=THREADS,
        help="threads of every measurement but latency (default: one a core)",
    )
    flags.add_argument(
        "--latency-threads",
        type=THREADS,
        default=1,
        metavar="THREADS",
        help="threads that work on one sentence alone; small models gain nothing by several "
        "(default: %(default)s)",
    )
    flags.add_argument(
        "--rounds",
        type=Range(int, 0, 1000),
        default=3,
        help="rounds, of which the median counts; 0: speed is not measured (default: %(default)s)",
    )
    flags.add_argument(
        "--latency-sentences",
        type=COUNT,
        default=32,
        metavar="N",
        help="sentences that are translated one by one, of all lengths (default: %(default)s)",
    )
    flags.add_argument(
        "--batch-sentences",
        type=COUNT,
        default=128,
        metavar="N",
        help="sentences that are translated in batches of 32 and of 128 (default: %(default)s)",
    )
    flags.add_argument("--no-memory", action="store_true", help="memory is not measured")
    flags.add_argument(
        "--cache",
        type=file_path,
        help="folder for models converted for CTranslate2 (default: fairseq_kd in "
        "$XDG_CACHE_HOME or ~/.cache)",
    )


def run(args: argparse.Namespace) -> int:
    """Measures, writes the report and prints its first table."""
    options = options_of(args)
    from fairseq_kd import plugin  # noqa: F401  (architectures that a system may have)
    from fairseq_kd.evaluation.evaluation import Evaluation
    from fairseq_kd.evaluation.plots import check_matplotlib
    from fairseq_kd.evaluation.report import check_out, write_report
    from fairseq_kd.locks import locked

    check_matplotlib()
    check_out(options.out, options.data)
    evaluation = Evaluation(options)
    with locked(options.out / ".evaluate.lock", f"--out {options.out}"):
        print(write_report(options.out, evaluation.run()))
    print(f"{options.out / 'report.html'} has all figures, and plots", file=sys.stderr)
    return 0


def options_of(args: argparse.Namespace) -> Any:
    """What the flags ask for.

    Raises:
        ValueError: a name or a checkpoint is none.
    """
    from fairseq_kd.evaluation.comet_score import check_comet
    from fairseq_kd.evaluation.options import Options
    from fairseq_kd.evaluation.systems import Named
    from fairseq_kd.sequence.engines import cores
    from fairseq_kd.sequence.search import Search

    if args.comet is not None:
        check_comet(args.comet)
    if args.reference is not None and not args.reference.is_file():
        raise FileNotFoundError(
            f"--reference {args.reference} does not exist. Give the plain text of the references."
        )
    systems = [Named.parse("teacher", args.teacher)]
    systems += [Named.parse("student", each) for each in args.student]
    systems += [Named.parse("control", each) for each in args.control or []]
    return Options(
        systems=systems,
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
