"""The figures of an evaluation as tables."""

import shlex
from typing import Any, Dict, List, Optional

from fairseq_kd.evaluation.document import Table, count_text
from fairseq_kd.evaluation.scores import METRICS, SIGNIFICANT_P, TESTABLE
from fairseq_kd.evaluation.size import PARTS
from fairseq_kd.evaluation.variants import FAIRSEQ, INT8

Figures = Dict[str, Any]
NOT_KNOWN = "-"
MIB = 2**20


def overview(measured: Figures) -> Table:
    """What it comes to: one row a system, by the figures that a reader asks for first."""
    rows = [_overview_row(measured, each, each["name"], FAIRSEQ) for each in measured["systems"]]
    for each in _with_int8(measured):
        rows.append(_overview_row(measured, each, f"{each['name']}, int8", INT8))
    columns = ("system", "parameters", "of the teacher's", "updates", "updates behind", "BLEU")
    speeds = ("sentences/s", "speed, same engine", "speed, to fairseq")
    return Table((*columns, "kept", "chrF", *speeds), rows)


def _overview_row(measured: Figures, system: Figures, name: str, engine: str) -> List[str]:
    """Of a system under a name of its scores, as fast as an engine is."""
    speeds = (measured["speed"] or {}).get("systems", {})
    score, teacher = measured["quality"]["scores"][name], measured["systems"][0]
    return [
        name,
        f"{_total(system):,}",
        f"{_total(system) / _total(teacher):.0%}",
        f"{system['updates']:,}",
        count_text(system["updates_behind"]),
        f"{score['BLEU']['score']:.1f}",
        kept(measured, name, "BLEU"),
        f"{score['chrF2']['score']:.1f}",
        *_speed_cells(
            _batch_32(speeds, system["name"], engine),
            *(_batch_32(speeds, teacher["name"], each) for each in (engine, FAIRSEQ)),
        ),
    ]


def _speed_cells(speed: Optional[float], *teacher: Optional[float]) -> List[str]:
    """A speed, and how many times that of the teacher in several engines it is."""
    if speed is None:
        return [NOT_KNOWN] * (1 + len(teacher))
    return [f"{speed:.1f}", *(f"{speed / each:.1f}x" if each else NOT_KNOWN for each in teacher)]


def _batch_32(speeds: Figures, name: str, engine: str) -> Optional[float]:
    found = speeds.get(name, {}).get(engine)
    return None if found is None else found["batch_32"]["sentences_per_s"]


def _with_int8(measured: Figures) -> List[Figures]:
    names = measured["quality"]["scores"]
    return [each for each in measured["systems"] if f"{each['name']}, int8" in names]


def _total(system: Figures) -> int:
    return sum(system["parameters"].values())


def kept(measured: Figures, name: str, metric: str) -> str:
    """A system's score as a share of the teacher's."""
    scores = measured["quality"]["scores"]
    teacher = scores[measured["systems"][0]["name"]][metric]["score"]
    return f"{scores[name][metric]['score'] / teacher:.0%}" if teacher > 0 else NOT_KNOWN


def quality(measured: Figures) -> Table:
    """Scores, with half their 95 % interval if the set can be tested, and the share kept."""
    quality = measured["quality"]
    comet = quality["comet"]
    rows = [
        [
            name,
            *(_with_interval(by[metric], testable(measured)) for metric in METRICS),
            kept(measured, name, "BLEU"),
            kept(measured, name, "chrF2"),
            *([f"{comet[name]:.4f}"] if comet else []),
        ]
        for name, by in quality["scores"].items()
    ]
    columns = ("system", "BLEU", "chrF", "TER", "BLEU kept", "chrF kept")
    return Table((*columns, "COMET") if comet else columns, rows)


def _with_interval(found: Figures, sure: bool) -> str:
    return f"{found['score']:.1f}" + (f" ± {found['ci']:.1f}" if sure else "")


def significance(measured: Figures, base: str) -> Optional[Table]:
    """The differences to one system, with p-values if the set can be tested."""
    rows = [
        [name, *(_difference(measured, name, base, metric, by[metric]) for metric in METRICS)]
        for name, by in measured["quality"]["p"][base].items()
        if by
    ]
    return Table((f"against {base}", "BLEU", "chrF", "TER"), rows) if rows else None


def testable(measured: Figures) -> bool:
    """Whether the set has sentences enough for the paired bootstrap."""
    return measured["made"]["sentences"] >= TESTABLE


def _difference(measured: Figures, name: str, base: str, metric: str, p: float) -> str:
    scores = measured["quality"]["scores"]
    more = scores[name][metric]["score"] - scores[base][metric]["score"]
    if not testable(measured):
        return f"{more:+.1f}"
    star = "*" if p < SIGNIFICANT_P else ""
    return f"{more:+.1f}{star} (p = {p:.3f})"


def by_bins(measured: Figures, which: str, heading: str) -> Table:
    """BLEU of every system on each bin."""
    bins = measured["quality"][which]
    names = list(measured["quality"]["scores"])
    rows = [
        [f"{each['label']} ({each['sentences']})", *(f"{each['bleu'][name]:.1f}" for name in names)]
        for each in bins
    ]
    return Table((heading, *names), rows)


def behaviour(measured: Figures) -> Table:
    """How translations go wrong, and the agreement with the teacher."""
    quality = measured["quality"]
    rows = [
        [
            name,
            *(f"{by[key]:.1%}" for key in ("empty", "copied", "repeating")),
            f"{by['length_ratio']:.2f}",
            f"{quality['agreement'][name]:.1%}" if name in quality["agreement"] else NOT_KNOWN,
        ]
        for name, by in quality["behaviour"].items()
    ]
    columns = ("system", "empty", "copied", "repeating", "length ratio", "agreement")
    return Table(columns, rows)


def size(measured: Figures) -> Table:
    """Parameters by part, and bytes on disk."""
    teacher = _total(measured["systems"][0])
    rows = [
        [
            system["name"],
            *(f"{system['parameters'][part]:,}" for part in PARTS),
            f"{_total(system):,}",
            f"{teacher / _total(system):.2f}x",
            mib(system["checkpoint_bytes"]),
            mib(system["float32_bytes"]),
            mib(system["int8_bytes"]),
        ]
        for system in measured["systems"]
    ]
    columns = ("system", *PARTS, "parameters", "compression", "checkpoint")
    return Table((*columns, "CTranslate2 float32", "CTranslate2 int8"), rows)


def memory(measured: Figures) -> List[Table]:
    """Peaks in inference by engine, and in training."""
    figures = measured["memory"]
    inference = [
        [f"{name}, {engine}", *(mib(found and found[key]) for key in ("weights", "peak"))]
        for name, by in figures["inference"].items()
        for engine, found in by.items()
    ]
    training = [
        [name, mib(by["alone"]), mib(by.get("distilled"))]
        for name, by in figures["training"].items()
    ]
    return [
        Table(("translating", "loaded", "peak"), inference),
        Table(("training", "alone, peak", "distilled from the teacher, peak"), training),
    ]


def mib(size_bytes: Optional[int]) -> str:
    """Bytes for reading."""
    return NOT_KNOWN if size_bytes is None else f"{size_bytes / MIB:,.1f} MiB"


def speed(measured: Figures) -> Table:
    """Latency and throughput of every system in every engine."""
    speeds = measured["speed"]["systems"]
    teacher = measured["systems"][0]["name"]
    rows = []
    for name, by_engine in speeds.items():
        for engine, found in by_engine.items():
            row = [f"{name}, {engine}", f"{found['median_ms']:.1f}", f"{found['p95_ms']:.1f}"]
            for batch in ("batch_32", "batch_128"):
                row += [f"{found[batch][key]:,.0f}" for key in ("sentences_per_s", "tokens_per_s")]
            teachers = (_batch_32(speeds, teacher, each) for each in (engine, FAIRSEQ))
            row += _speed_cells(_batch_32(speeds, name, engine), *teachers)[1:]
            rows.append(row)
    columns = ("translating", "median ms", "p95 ms", "sentences/s, 32", "tokens/s, 32")
    columns += ("sentences/s, 128", "tokens/s, 128", "speed, same engine", "speed, to fairseq")
    return Table(columns, rows)


def wrapped(command: str) -> str:
    """A command line with one option a line, ready to be copied; as it is if a quote stays open."""
    lines: List[str] = []
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    for word in words:
        if word.startswith("--") or not lines:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join(lines)
