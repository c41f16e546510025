"""What a student must be for a phone, the edge, the cloud or offline use, and what it is."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from fairseq_kd.evaluation.document import Table
from fairseq_kd.evaluation.variants import FAIRSEQ, INT8

Figures = Dict[str, Any]


@dataclass(frozen=True)
class Use:
    """A place where students run.

    Args:
        name: of it.
        smaller: how many times fewer parameters than the teacher, from and to.
        latency_ms: that a sentence may take at most; None where nobody waits.
    """

    name: str
    smaller: "tuple[float, float]"
    latency_ms: Optional[float]


USES = (
    Use("phone", (3, 4), 100),
    Use("edge", (2, 3), 50),
    Use("cloud", (1.5, 2), 20),
    Use("offline", (4, 5), None),
)


@dataclass(frozen=True)
class Goal:
    """What a distillation is expected to gain at least.

    Args:
        name: of the quantity.
        asked: the range, in words.
        least: that is enough, as a number.
    """

    name: str
    asked: str
    least: float


FEWER = Goal("parameters saved", "60-80 %", 0.60)
FASTER = Goal("faster (batch 32, fairseq)", "2-4x", 2.0)
LESS_MEMORY = Goal("memory saved (translating, fairseq)", "50-70 %", 0.50)
KEPT = Goal("BLEU kept", "85-95 %", 0.85)


def uses(measured: Figures, student: Figures) -> Optional[Table]:
    """A student beside each use; None without a measurement of speed.

    Args:
        measured: the evaluation's figures.
        student: its entry among the systems.
    """
    if measured["speed"] is None:
        return None
    fastest = min(
        measured["speed"]["systems"][student["name"]].items(), key=lambda each: each[1]["p95_ms"]
    )
    engine, speed = fastest
    smaller = _parameters(measured["systems"][0]) / _parameters(student)
    rows = [
        [
            use.name,
            f"{use.smaller[0]:g}-{use.smaller[1]:g}x",
            f"{smaller:.1f}x {_mark(smaller >= use.smaller[0])}",
            "any" if use.latency_ms is None else f"< {use.latency_ms:g} ms",
            f"{speed['p95_ms']:.1f} ms"
            + ("" if use.latency_ms is None else f" {_mark(speed['p95_ms'] < use.latency_ms)}"),
        ]
        for use in USES
    ]
    return Table(("use", "smaller, asked", "is", "latency, asked", f"is ({engine}, p95)"), rows)


def goals(measured: Figures, student: Figures) -> Table:
    """A student beside what a distillation is expected to gain."""
    rows = []
    for goal, value in (
        (FEWER, 1 - _parameters(student) / _parameters(measured["systems"][0])),
        (FASTER, _speed_up(measured, student)),
        (LESS_MEMORY, _memory_saved(measured, student)),
        (KEPT, _kept(measured, student["name"])),
    ):
        if value is not None:
            shown = f"{value:.1f}x" if goal is FASTER else f"{value:.1%}"
            rows.append([goal.name, goal.asked, f"{shown} {_mark(value >= goal.least)}"])
    return Table(("gain", "expected", student["name"]), rows)


def students(measured: Figures) -> List[Figures]:
    """The entries of the students."""
    return [system for system in measured["systems"] if system["role"] == "student"]


def _mark(met: bool) -> str:
    return "✓" if met else "✗"


def _parameters(system: Figures) -> int:
    return sum(system["parameters"].values())


def _speed_up(measured: Figures, student: Figures) -> Optional[float]:
    if measured["speed"] is None:
        return None
    speeds = measured["speed"]["systems"]
    theirs, ours = (
        speeds[name][FAIRSEQ]["batch_32"]["sentences_per_s"]
        for name in (measured["systems"][0]["name"], student["name"])
    )
    return ours / theirs


def _memory_saved(measured: Figures, student: Figures) -> Optional[float]:
    inference = (measured["memory"] or {}).get("inference", {})
    peaks = [
        (inference.get(name, {}).get(FAIRSEQ) or {}).get("peak")
        for name in (measured["systems"][0]["name"], student["name"])
    ]
    return None if None in peaks else 1 - peaks[1] / peaks[0]


def _kept(measured: Figures, name: str) -> Optional[float]:
    scores = measured["quality"]["scores"]
    teacher = scores[measured["systems"][0]["name"]]["BLEU"]["score"]
    return scores[name]["BLEU"]["score"] / teacher if teacher > 0 else None


def int8_speed_up(measured: Figures, student: Figures, engine: str) -> Optional[float]:
    """How many times faster the int8 student is than the teacher in an engine, at batch 32."""
    if measured["speed"] is None:
        return None
    speeds = measured["speed"]["systems"]
    ours = speeds[student["name"]].get(INT8)
    theirs = speeds[measured["systems"][0]["name"]].get(engine)
    if ours is None or theirs is None:
        return None
    return ours["batch_32"]["sentences_per_s"] / theirs["batch_32"]["sentences_per_s"]
