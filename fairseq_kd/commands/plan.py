"""The command ``fairseq-kd plan``."""

import argparse
from pathlib import Path
from typing import Any, List

from fairseq_kd.commands.user_dir import add_user_dir, register_models
from fairseq_kd.files.whole_files import check_apart
from fairseq_kd.flag_types import THREADS, Range, Several, file_path, one_line, shown
from fairseq_kd.sizing.ladder import FACTOR, STRATEGY

DESCRIPTION = """\
Plans the ladder of a progressive distillation, from a teacher down to a student of the size that
you ask for: a table with the true parameters of every stage, notes where a step is too steep, and
what to copy into a run file or after fairseq-train. Nothing is trained. Flags of fairseq-train for
an untrained teacher may follow after --, such as -- --share-all-embeddings."""
STRATEGIES = {
    "balanced": "layers by the ratio, width and heads by its root",
    "depth": "layers only",
    "width": "width and heads only",
    "deep-shallow": "as balanced, but the decoder loses most layers",
}
RATIO = Range(float, 0.001, 1, below=True)
BUDGET = Range(float, 1e-6, 1e12)


def add_parser(subparsers: Any) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "plan",
        help="plan the stages from a teacher down to a small student",
        description=DESCRIPTION,
        usage="fairseq-kd plan (--teacher T.pt | --arch A (--words N | --data BIN)) TARGET [flags] "
        "[-- model flags]",
    )
    teacher = parser.add_argument_group("the teacher").add_mutually_exclusive_group(required=True)
    teacher.add_argument("--teacher", type=one_line, metavar="T.pt", help="its checkpoint")
    teacher.add_argument(
        "--arch", type=one_line, metavar="A", help="its architecture, if it is not trained yet"
    )
    vocabulary = parser.add_argument_group(
        "the vocabulary of --arch"
    ).add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--words",
        type=Several(Range(int, 5, 100_000_000), 2),
        metavar="N[,M]",
        help="entries of both dictionaries, or of source and target",
    )
    vocabulary.add_argument(
        "--data", type=file_path, metavar="BIN", help="a folder with dict.LANGUAGE.txt"
    )
    _add_targets(parser.add_argument_group("TARGET: how small the student gets, one of"))
    _add_shape(parser.add_argument_group("the ladder"))
    add_user_dir(parser)
    parser.add_argument("model_flags", nargs="*", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def _add_targets(group: Any) -> None:
    targets = group.add_mutually_exclusive_group(required=True)
    targets.add_argument(
        "--target",
        type=RATIO,
        metavar="0.25",
        help="its ratio r in the strategy's formulas",
    )
    targets.add_argument(
        "--ladder",
        type=Several(Range(float, 0.001, 1), 100),
        metavar="1.0,0.75,0.5,0.25",
        help="the ratios of all stages, the student's last",
    )
    targets.add_argument(
        "--parameters", type=parameters, metavar="10M", help="at most so many parameters"
    )
    targets.add_argument(
        "--size-mb",
        type=BUDGET,
        metavar="20",
        help="at most so many megabytes on disk, converted for CTranslate2 in int8",
    )
    targets.add_argument(
        "--latency-ms",
        type=BUDGET,
        metavar="15",
        help="at most so many milliseconds for a sentence of 20 tokens on this machine, translated "
        "alone and greedily by CTranslate2 in int8",
    )


def parameters(text: str) -> int:
    """Parses a number of parameters, such as 10M.

    Raises:
        argparse.ArgumentTypeError: it is not a number.
    """
    from fairseq_kd.sizing.budgets import count_of

    try:
        return count_of(text)
    except ValueError:
        message = f"it must be a number such as 600000 or 10M, but is {shown(text)}"
        raise argparse.ArgumentTypeError(message) from None


def _add_shape(group: Any) -> None:
    listed = "; ".join(f"{name}: {meaning}" for name, meaning in STRATEGIES.items())
    group.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default=STRATEGY,
        help=f"what shrinks. {listed} (default: %(default)s)",
    )
    group.add_argument(
        "--factor",
        type=RATIO,
        help=f"from the ratio of a stage to that of the next (default: {FACTOR})",
    )
    group.add_argument(
        "--threads", type=THREADS, help="threads that --latency-ms measures on (default: 1)"
    )
    group.add_argument(
        "--chart", type=file_path, metavar="FILE.svg", help="draw the ladder, as .svg or .png"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the ladder."""
    _refuse_without_effect(args)
    from fairseq_kd.sizing.report import FORMATS, LadderReport

    if args.chart is not None:
        from fairseq_kd.evaluation.plots import check_matplotlib

        if args.chart.suffix not in FORMATS:
            raise ValueError(f"--chart must end with {' or '.join(FORMATS)}, but is {args.chart}.")
        check_matplotlib()
        check_apart(args.chart, {"--data": args.data}, "--chart")
    structure = _structure(args)
    report = LadderReport(structure, _ratios(args, structure), args.strategy)
    print(report)
    if args.chart is not None:
        report.write_chart(args.chart)
    return 0


def _refuse_without_effect(args: argparse.Namespace) -> None:
    given = [name for name in ("words", "data") if getattr(args, name) is not None]
    for useless, flag, where in (
        (args.teacher and given, f"--{''.join(given)}", "with --teacher, which has its own"),
        (args.teacher and args.model_flags, "What follows --", "with --teacher, which is built"),
        (args.ladder and args.factor, "--factor", "with --ladder, which names every stage"),
        (args.latency_ms is None and args.threads, "--threads", "without --latency-ms"),
    ):
        if useless:
            raise ValueError(f"{flag} has no effect {where}. Leave it out.")
    if args.arch and not given:
        raise ValueError(
            "--arch needs --words N or --data BIN, since embeddings are a part of every stage."
        )


def _structure(args: argparse.Namespace) -> Any:
    register_models(args)
    from fairseq_kd.sizing.teacher_structure import TeacherStructure

    if args.teacher is not None:
        return TeacherStructure.of_checkpoint(args.teacher)
    sizes = args.words or _dictionary_sizes(args.data)
    return TeacherStructure.of_arch(args.arch, sizes[0], sizes[-1], args.model_flags)


def _dictionary_sizes(data: Path) -> List[int]:
    from fairseq.data.data_utils import infer_language_pair

    from fairseq_kd.dictionaries import read_dictionary

    pair = infer_language_pair(str(data)) if data.is_dir() else (None, None)
    files = [data / f"dict.{language}.txt" for language in pair]
    if not all(file.is_file() for file in files):
        raise FileNotFoundError(
            f"--data {data} is not what fairseq-preprocess wrote: it needs a set such as "
            "train.de-en.de.bin and both dictionaries. Give that folder, or --words N."
        )
    return [len(read_dictionary(file, distinct=False)) for file in files]


def _ratios(args: argparse.Namespace, structure: Any) -> List[float]:
    """The ratios of the ladder that the flags describe."""
    from fairseq_kd.sizing.budgets import ladder_to, ladder_within
    from fairseq_kd.sizing.ladder import buildable, checked_ladder, ratios_to

    factor = FACTOR if args.factor is None else args.factor
    if args.ladder is not None:
        return checked_ladder(args.ladder)
    if args.target is not None:
        return buildable(structure.size, ratios_to(args.target, factor), args.strategy)
    if args.parameters is not None:
        return ladder_within(structure, args.parameters, args.strategy, factor, "--parameters")
    return ladder_to(structure, _measured_budget(args, structure), args.strategy, factor)


def _measured_budget(args: argparse.Namespace, structure: Any) -> Any:
    from fairseq_kd.decoding.engine_choice import INSTALL

    flag = "--latency-ms" if args.size_mb is None else "--size-mb"
    try:
        import ctranslate2  # noqa: F401
    except ImportError:
        message = f"{flag} needs CTranslate2, which is not installed ({INSTALL})."
        raise ValueError(message) from None
    from fairseq_kd.sizing.budgets import latency_budget, size_budget

    if args.size_mb is not None:
        return size_budget(structure, args.size_mb)
    return latency_budget(structure, args.latency_ms, args.threads or 1)
