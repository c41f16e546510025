"""The tables of the report, made from the results of an evaluation."""

import shlex
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from fairseq_kd.evaluation.pages import Table, count_text
from fairseq_kd.evaluation.results import (
    BY_FAIRSEQ,
    IN_INT8,
    METRICS,
    BinScores,
    EvaluationResult,
    MemoryResult,
    RatingResult,
    Score,
    SystemResult,
    fairseq_on,
    int8_name,
)
from fairseq_kd.evaluation.scores import SIGNIFICANT_P
from fairseq_kd.evaluation.size import PARTS

UNKNOWN = "-"
MIB = 2**20
SPEED_UPS = ("speed, same engine", "speed, to fairseq")


def overview(result: EvaluationResult) -> Table:
    """The most important figures, with one row per system and int8 student."""
    rows = [_overview_row(result, each, each.name, BY_FAIRSEQ) for each in result.systems]
    rows += [
        _overview_row(result, each, int8_name(each.name), IN_INT8)
        for each in result.systems
        if int8_name(each.name) in result.quality.scores
    ]
    columns = ("system", "parameters", "of the teacher's", "updates", "updates behind", "BLEU")
    return Table((*columns, "kept", "chrF", "sentences/s", *SPEED_UPS), rows)


def _overview_row(
    result: EvaluationResult, system: SystemResult, name: str, engines: Sequence[str]
) -> List[str]:
    """The row of a system, by its name among the scores and the engines of its speed."""
    engine = result.measured_engine(system.name, engines)
    speed = result.sentences_per_s(system.name, engine)
    return [
        name,
        f"{system.total_parameters:,}",
        f"{system.total_parameters / result.teacher.total_parameters:.0%}",
        f"{system.updates:,}",
        count_text(system.updates_behind),
        f"{result.score(name):.1f}",
        score_kept(result, name),
        f"{result.score(name, 'chrF2'):.1f}",
        UNKNOWN if speed is None else f"{speed:.1f}",
        *_speed_ups(result, system.name, engine),
    ]


def _speed_ups(result: EvaluationResult, name: str, engine: str) -> List[str]:
    """The throughput over the teacher's in the same engine, and over the teacher's in fairseq."""
    ratios = (speed_up(result, name, engine, each) for each in (engine, fairseq_on(engine)))
    return [UNKNOWN if ratio is None else f"{ratio:.1f}x" for ratio in ratios]


def speed_up(
    result: EvaluationResult, name: str, engine: str, teacher_engine: str
) -> Optional[float]:
    """A system's throughput in batches of 32 over the teacher's; None if one was not measured."""
    speed = result.sentences_per_s(name, engine)
    teacher = result.sentences_per_s(result.teacher.name, teacher_engine)
    return speed / teacher if speed is not None and teacher else None


def score_kept(result: EvaluationResult, name: str, metric: str = "BLEU") -> str:
    """A system's score as a percentage of the teacher's."""
    share = result.score_kept(name, metric)
    return UNKNOWN if share is None else f"{share:.0%}"


def quality(result: EvaluationResult) -> Table:
    """Scores, half their 95 % intervals if the set can be tested, and shares of the teacher's."""
    comet = result.quality.comet
    rows = [
        [
            name,
            *(_with_interval(scores[metric], metric, result.testable) for metric in METRICS),
            score_kept(result, name),
            score_kept(result, name, "chrF2"),
            *(_with_interval(scores[each], each, result.testable) for each in _external(result)),
            *([f"{comet[name]:.4f}"] if comet else []),
        ]
        for name, scores in result.quality.scores.items()
    ]
    columns = ("system", "BLEU", "chrF", "TER", "BLEU kept", "chrF kept", *_external(result))
    return Table((*columns, "COMET") if comet else columns, rows)


def _external(result: EvaluationResult) -> List[str]:
    """The metrics of ``--scorer``."""
    return [metric for metric in result.quality.signatures if metric not in METRICS]


def _digits(metric: str) -> int:
    """Decimals to show: sacreBLEU's metrics go to 100, and most others to 1."""
    return 1 if metric in METRICS else 4


def _with_interval(score: Score, metric: str, testable: bool) -> str:
    digits = _digits(metric)
    return f"{score.score:.{digits}f}" + (f" ± {score.ci:.{digits}f}" if testable else "")


def significance(result: EvaluationResult, base: str) -> Optional[Table]:
    """Differences to a baseline, with p-values if the set can be tested."""
    metrics = [*METRICS, *_external(result)]
    rows = [
        [name, *(_difference(result, name, base, metric, p[metric]) for metric in metrics)]
        for name, p in result.quality.p[base].items()
        if p
    ]
    columns = (f"against {base}", "BLEU", "chrF", "TER", *_external(result))
    return Table(columns, rows) if rows else None


def _difference(result: EvaluationResult, name: str, base: str, metric: str, p: float) -> str:
    difference = result.score(name, metric) - result.score(base, metric)
    shown = f"{difference:+.{_digits(metric)}f}"
    if not result.testable:
        return shown
    star = "*" if p < SIGNIFICANT_P else ""
    return f"{shown}{star} (p = {p:.3f})"


def by_bins(bins: Sequence[BinScores], heading: str) -> Table:
    """BLEU of every system on each bin."""
    names = list(bins[0].bleu)
    rows = [
        [f"{each.label} ({each.sentences})", *(f"{each.bleu[name]:.1f}" for name in names)]
        for each in bins
    ]
    return Table((heading, *names), rows)


def error_rates(result: EvaluationResult) -> Table:
    """Error rates, and the agreement with the teacher."""
    agreement = result.quality.agreement
    shares = ("empty", "copied", "repeating", "detached", "memorised")
    rows = [
        [
            name,
            *(_share(getattr(rates, share)) for share in shares),
            f"{rates.length_ratio:.2f}",
            _share(agreement.get(name)),
        ]
        for name, rates in result.quality.behaviour.items()
    ]
    return Table(("system", *shares, "length ratio", "agreement"), rows)


def _share(share: Optional[float]) -> str:
    return UNKNOWN if share is None else f"{share:.1%}"


def ratings(rated: RatingResult) -> Table:
    """Means of human ratings by system."""
    rows = [
        [
            name,
            f"{each.ratings:,}",
            *(UNKNOWN if mean is None else f"{mean:.2f}" for mean in (each.fluency, each.adequacy)),
            _share(each.preferred),
            UNKNOWN if each.p is None else f"{each.p:.3f}",
        ]
        for name, each in rated.systems.items()
    ]
    return Table(("system", "ratings", "fluency", "adequacy", "preferred", "p"), rows)


def size(result: EvaluationResult) -> Table:
    """Parameters by part, and bytes on disk."""
    teacher = result.teacher.total_parameters
    rows = [
        [
            system.name,
            *(f"{system.parameters[part]:,}" for part in PARTS),
            f"{system.total_parameters:,}",
            f"{teacher / system.total_parameters:.2f}x",
            mib(system.checkpoint_bytes),
            mib(system.float32_bytes),
            mib(system.int8_bytes),
        ]
        for system in result.systems
    ]
    columns = ("system", *PARTS, "parameters", "compression", "checkpoint")
    return Table((*columns, "CTranslate2 float32", "CTranslate2 int8"), rows)


def memory(memory: MemoryResult) -> Tuple[Table, Table]:
    """Peak memory of translating by system and engine, and of training."""
    inference = [
        [f"{name}, {engine}", mib(use and use.weights), mib(use and use.peak)]
        for name, by_engine in memory.inference.items()
        for engine, use in by_engine.items()
    ]
    training = [
        [name, mib(each.alone), mib(each.distilled)] for name, each in memory.training.items()
    ]
    return (
        Table(("translating", "loaded", "peak"), inference),
        Table(("training", "alone, peak", "distilled from the teacher, peak"), training),
    )


def mib(size_bytes: Optional[int]) -> str:
    """Bytes in MiB."""
    return UNKNOWN if size_bytes is None else f"{size_bytes / MIB:,.1f} MiB"


def speed(result: EvaluationResult) -> Table:
    """Latency and throughput of every system in every engine."""
    rows = []
    for name, by_engine in (result.speed.systems if result.speed else {}).items():
        for engine, each in by_engine.items():
            row = [f"{name}, {engine}", f"{each.median_ms:.1f}", f"{each.p95_ms:.1f}"]
            for batch in (each.batch_32, each.batch_128):
                row += [f"{batch.sentences_per_s:,.0f}", f"{batch.tokens_per_s:,.0f}"]
            rows.append([*row, *_speed_ups(result, name, engine)])
    columns = ("translating", "median ms", "p95 ms", "sentences/s, 32", "tokens/s, 32")
    return Table((*columns, "sentences/s, 128", "tokens/s, 128", *SPEED_UPS), rows)


@dataclass(frozen=True)
class Target:
    """A deployment target.

    Args:
        name: of it.
        smaller: required ratio of the teacher's parameters to the student's.
        latency_ms: maximum per sentence; None if latency does not matter.
    """

    name: str
    smaller: Tuple[float, float]
    latency_ms: Optional[float]


TARGETS = (
    Target("phone", (3, 4), 100),
    Target("edge", (2, 3), 50),
    Target("cloud", (1.5, 2), 20),
    Target("offline", (4, 5), None),
)


def targets(result: EvaluationResult, student: SystemResult) -> Optional[Table]:
    """A student compared with each deployment target; None if speed was not measured."""
    if result.speed is None:
        return None
    engine, fastest = min(
        result.speed.systems[student.name].items(), key=lambda each: each[1].p95_ms
    )
    smaller = result.teacher.total_parameters / student.total_parameters
    p95_ms = fastest.p95_ms
    rows = [
        [
            target.name,
            f"{target.smaller[0]:g}-{target.smaller[1]:g}x",
            f"{smaller:.1f}x {_mark(smaller >= target.smaller[0])}",
            "any" if target.latency_ms is None else f"< {target.latency_ms:g} ms",
            f"{p95_ms:.1f} ms"
            + ("" if target.latency_ms is None else f" {_mark(p95_ms < target.latency_ms)}"),
        ]
        for target in TARGETS
    ]
    columns = ("target", "smaller, required", "measured", "latency, required")
    return Table((*columns, f"measured ({engine}, p95)"), rows)


def gains(result: EvaluationResult, student: SystemResult) -> Table:
    """A student's gains, compared with those that a distillation should reach."""
    fewer = 1 - student.total_parameters / result.teacher.total_parameters
    engine = result.measured_engine(student.name, BY_FAIRSEQ)
    faster = speed_up(result, student.name, engine, engine)
    memory_saved, kept = _memory_saved(result, student), result.score_kept(student.name)
    measured = (
        ("parameters saved", "60-80 %", 0.6, fewer, "{:.1%}"),
        ("faster (batch 32, fairseq)", "2-4x", 2.0, faster, "{:.1f}x"),
        ("memory saved (translating, fairseq)", "50-70 %", 0.5, memory_saved, "{:.1%}"),
        ("BLEU kept", "85-95 %", 0.85, kept, "{:.1%}"),
    )
    rows = [
        [gain, expected, f"{template.format(value)} {_mark(value >= minimum)}"]
        for gain, expected, minimum, value, template in measured
        if value is not None
    ]
    return Table(("gain", "expected", student.name), rows)


def _memory_saved(result: EvaluationResult, student: SystemResult) -> Optional[float]:
    inference = result.memory.inference if result.memory else {}
    for engine in BY_FAIRSEQ:
        uses = [inference.get(each.name, {}).get(engine) for each in (result.teacher, student)]
        if all(uses):
            return 1 - uses[1].peak / uses[0].peak
    return None


def _mark(reached: bool) -> str:
    return "✓" if reached else "✗"


def wrapped(command: str) -> str:
    """A command line with one option per line; unchanged if it has an open quote."""
    lines: List[str] = []
    try:
        arguments = shlex.split(command)
    except ValueError:
        return command
    for argument in arguments:
        if argument.startswith("--") or not lines:
            lines.append(shlex.quote(argument))
        else:
            lines[-1] += f" {shlex.quote(argument)}"
    return " \\\n    ".join(lines)
