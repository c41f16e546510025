"""The command ``fairseq-kd plan``: plans the ladder from a teacher down to a small student."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

from fairseq_kd.command_line import Group, Options, Subcommand, user_dir_field
from fairseq_kd.files.atomic_files import check_apart
from fairseq_kd.flag_types import (
    THREADS,
    Range,
    Several,
    file_path,
    number_field,
    one_line,
    option_field,
    shown,
)
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
    "deep-shallow": "as balanced, but most layers are removed from the decoder",
}
RATIO = Range(float, 0.001, 1, below=True)
BUDGET = Range(float, 1e-6, 1e12)
TEACHER = Group("the teacher", exclusive=True, required=True)
VOCABULARY = Group("the vocabulary of --arch", exclusive=True)
TARGET = Group("TARGET: size of the student (one of)", exclusive=True, required=True)
LADDER = Group("the ladder")


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


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """The teacher, the size of the student, and the strategy of the ladder."""

    COMMAND = "plan"
    teacher: Optional[str] = option_field(
        None, "its checkpoint", read=one_line, metavar="T.pt", group=TEACHER
    )
    arch: Optional[str] = option_field(
        None,
        "the architecture of a teacher that is not trained yet",
        read=one_line,
        metavar="A",
        group=TEACHER,
    )
    vocab_size: Optional[Sequence[int]] = number_field(
        None,
        Several(Range(int, 5, 10_000_000), 2),
        "entries of both dictionaries, or of source and target",
        metavar="N[,M]",
        group=VOCABULARY,
    )
    data: Optional[Path] = option_field(
        None, "a folder with dict.LANGUAGE.txt", read=file_path, metavar="BIN", group=VOCABULARY
    )
    target: Optional[float] = number_field(
        None, RATIO, "its ratio r in the strategy's formulas", metavar="0.25", group=TARGET
    )
    ladder: Optional[Sequence[float]] = number_field(
        None,
        Several(Range(float, 0.001, 1), 100),
        "the ratios of all stages, from the first to the student's",
        metavar="1.0,0.75,0.5,0.25",
        group=TARGET,
    )
    parameters: Optional[int] = option_field(
        None, "largest number of parameters", read=parameters, metavar="10M", group=TARGET
    )
    size_mb: Optional[float] = number_field(
        None,
        BUDGET,
        "largest size on disk in megabytes, after conversion for CTranslate2 in int8",
        metavar="20",
        group=TARGET,
    )
    latency_ms: Optional[float] = number_field(
        None,
        BUDGET,
        "largest time in milliseconds for one sentence of 20 tokens on this machine, translated "
        "greedily by CTranslate2 in int8",
        metavar="15",
        group=TARGET,
    )
    strategy: str = option_field(
        STRATEGY,
        f"how the sizes shrink. {'; '.join(map(': '.join, STRATEGIES.items()))} (default: "
        "%(default)s)",
        STRATEGIES,
        group=LADDER,
    )
    factor: Optional[float] = number_field(
        None,
        RATIO,
        f"from the ratio of a stage to that of the next (default: {FACTOR})",
        group=LADDER,
    )
    threads: Optional[int] = number_field(
        None, THREADS, "threads that --latency-ms measures on (default: 1)", group=LADDER
    )
    chart: Optional[Path] = option_field(
        None, "draw the ladder, as .svg or .png", read=file_path, metavar="FILE.svg", group=LADDER
    )
    user_dir: Optional[str] = user_dir_field()
    model_flags: Tuple[str, ...] = option_field((), argparse.SUPPRESS, positional=True, nargs="*")

    def check(self) -> None:
        """Checks that every flag has an effect.

        Raises:
            ValueError: naming one that has none, or that is missing.
        """
        given = [name for name in ("vocab_size", "data") if getattr(self, name) is not None]
        for useless, flag, where in (
            (
                self.teacher and given,
                f"--{''.join(given).replace('_', '-')}",
                "with --teacher, whose dictionaries are used",
            ),
            (
                self.teacher and self.model_flags,
                "What follows --",
                "with --teacher, whose architecture is known",
            ),
            (self.ladder and self.factor, "--factor", "with --ladder, which names every stage"),
            (self.latency_ms is None and self.threads, "--threads", "without --latency-ms"),
        ):
            if useless:
                raise ValueError(f"{flag} has no effect {where}. Leave it out.")
        if self.arch and not given:
            raise ValueError(
                "--arch needs --vocab-size N or --data BIN, since embeddings are a part of every "
                "stage."
            )


def run(options: PlanOptions) -> int:
    """Prints the ladder."""
    from fairseq_kd.sizing.report import FORMATS, LadderReport

    if options.chart is not None:
        from fairseq_kd.evaluation.plots import check_matplotlib

        if options.chart.suffix not in FORMATS:
            raise ValueError(
                f"--chart must end with {' or '.join(FORMATS)}, but is {options.chart}."
            )
        check_matplotlib()
        check_apart(options.chart, {"--data": options.data}, "--chart")
    structure = _structure(options)
    report = LadderReport(structure, _ratios(options, structure), options.strategy)
    print(report)
    if options.chart is not None:
        report.write_chart(options.chart)
    return 0


def _structure(options: PlanOptions) -> Any:
    from fairseq_kd.plugin import import_user_dir
    from fairseq_kd.sizing.teacher_structure import TeacherStructure

    import_user_dir(options.user_dir)
    if options.teacher is not None:
        return TeacherStructure.of_checkpoint(options.teacher)
    sizes = options.vocab_size or _dictionary_sizes(options.data)
    return TeacherStructure.of_arch(options.arch, sizes[0], sizes[-1], options.model_flags)


def _dictionary_sizes(data: Path) -> List[int]:
    from fairseq.data.data_utils import infer_language_pair

    from fairseq_kd.dictionaries import read_dictionary

    pair = infer_language_pair(str(data)) if data.is_dir() else (None, None)
    files = [data / f"dict.{language}.txt" for language in pair]
    if not all(file.is_file() for file in files):
        raise FileNotFoundError(
            f"--data {data} is not what fairseq-preprocess wrote: it needs a set such as "
            "train.de-en.de.bin and both dictionaries. Give that folder, or --vocab-size N."
        )
    return [len(read_dictionary(file, distinct=False)) for file in files]


def _ratios(options: PlanOptions, structure: Any) -> List[float]:
    """The ratios of the ladder that the flags describe."""
    from fairseq_kd.sizing.budgets import ladder_to, ladder_within
    from fairseq_kd.sizing.ladder import buildable, checked_ladder, ratios_to

    factor = FACTOR if options.factor is None else options.factor
    if options.ladder is not None:
        return checked_ladder(options.ladder)
    if options.target is not None:
        return buildable(structure.size, ratios_to(options.target, factor), options.strategy)
    if options.parameters is not None:
        return ladder_within(
            structure, options.parameters, options.strategy, factor, "--parameters"
        )
    return ladder_to(structure, _measured_budget(options, structure), options.strategy, factor)


def _measured_budget(options: PlanOptions, structure: Any) -> Any:
    from fairseq_kd.decoding.engine_choice import INSTALL

    flag = "--latency-ms" if options.size_mb is None else "--size-mb"
    try:
        import ctranslate2  # noqa: F401
    except ImportError:
        message = f"{flag} needs CTranslate2, which is not installed ({INSTALL})."
        raise ValueError(message) from None
    from fairseq_kd.sizing.budgets import latency_budget, size_budget

    if options.size_mb is not None:
        return size_budget(structure, options.size_mb)
    return latency_budget(structure, options.latency_ms, options.threads or 1)


SUBCOMMAND = Subcommand(
    PlanOptions,
    run,
    help="plan the stages from a teacher down to a small student",
    description=DESCRIPTION,
    usage="fairseq-kd plan (--teacher T.pt | --arch A (--vocab-size N | --data BIN)) TARGET "
    "[flags] [-- model flags]",
)
