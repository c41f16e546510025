"""Makes docs/results.md and its plot from benchmarks/comparison.csv and benchmarks/curves.csv.

usage: python benchmarks/comparison_page.py
"""

import csv
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Dict, List, NamedTuple

from comparison import CURVES, RESULTS, UNDISTILLED, WORD
from matplotlib.figure import Figure

from fairseq_kd.evaluation.pages import markdown_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEXT = Path(__file__).with_name("comparison.md")
SPEED = Path(__file__).with_name("comparison_speed.json")
TEACHER = DOCS.parent / "data" / "teacher.es-en" / "manifest.json"
CONVERGED = "converged"
STUDENTS = {  # the rows of benchmarks/comparison/converged.yaml, as the page calls them
    UNDISTILLED: "the student alone",
    WORD: "word-level, T = 1",
    "word-2": "word-level, T = 2",
    "word-4": "word-level, T = 4",
    "inherit": "word-level, T = 1, from the teacher's layers",
    "feature": "feature",
    "attention": "attention",
    "mutual": "mutual learning, two peers",
    "sequence": "sequence-level, interpolation",
    "sequence-mixed": "sequence-level, mixed with the references",
    "word-translations": "word-level, on the translations",
    "word-mixed": "word-level, on both",
    "word-longer": "word-level, 2,000 updates more",
    "word-own": "the same, on its own translations",
}


class Row(NamedTuple):
    """The runs of one row of a table, one a seed.

    Args:
        name: of the row.
        runs: lines of the CSV, in the order of the seeds.
    """

    name: str
    runs: List[Dict[str, str]]

    def values(self, column: str) -> List[float]:
        """The figures of a column that are there."""
        return [float(run[column]) for run in self.runs if run[column]]

    def shown(self, column: str, digits: int = 1) -> str:
        """Mean and spread (the standard deviation) over the seeds."""
        found = self.values(column)
        text = f"{mean(found):.{digits}f}"
        return f"{text} ± {stdev(found):.{digits}f}" if len(set(found)) > 1 else text


def newest() -> Dict[str, Dict[str, Row]]:
    """The last line of each table, row and seed."""
    with RESULTS.open(encoding="utf-8", newline="") as file:
        lines = {(each["table"], each["row"], each["seed"]): each for each in csv.DictReader(file)}
    tables: Dict[str, Dict[str, Row]] = {}
    for (table, row, _), line in sorted(lines.items(), key=lambda item: int(item[0][2])):
        tables.setdefault(table, {}).setdefault(row, Row(row, [])).runs.append(line)
    return tables


def curves() -> Dict[str, Dict[int, float]]:
    """Validation losses of the converged students of the first seed: row, updates, bits a token."""
    losses: Dict[str, Dict[int, float]] = {}
    with CURVES.open(encoding="utf-8", newline="") as file:
        for each in csv.DictReader(file):
            if (each["table"], each["seed"]) == (CONVERGED, "1"):
                losses.setdefault(each["row"], {})[int(each["updates"])] = float(each["nll_loss"])
    return losses


def main() -> None:
    """Writes the page and the plot."""
    rows, losses = newest()[CONVERGED], curves()
    teacher = rows["teacher"]
    parts = {
        "students": students(rows),
        "curves": losses_by_updates(losses),
        "ends": ends(),
        "speed": speed(),
        "signature": teacher.runs[0]["signature"],
        "machine": f"{teacher.runs[0]['machine']}, {teacher.runs[0]['date']}",
    }
    page = TEXT.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    (DOCS / "results.md").write_text(page, encoding="utf-8")
    draw(losses)


def students(rows: Dict[str, Row]) -> str:
    """The main table."""
    teacher, alone = rows["teacher"], rows[UNDISTILLED]
    whole = mean(teacher.values("BLEU"))
    cells = []
    for name, called in {"teacher": "teacher", **STUDENTS}.items():
        if name not in rows:
            continue
        row = rows[name]
        bleu, behind = mean(row.values("BLEU")), row.runs[0]["behind"]
        size = row.values("parameters")[0] / teacher.values("parameters")[0]
        figures = [f"{size:.0%}", f"{int(behind):,}", row.shown("BLEU"), row.shown("chrF")]
        fair = name != UNDISTILLED and behind == alone.runs[0]["behind"]
        gain = f"{bleu - mean(alone.values('BLEU')):+.1f}" if fair else ""
        tested = row.values("p_undistilled") if fair else []
        p = f"{max(tested):.3f}" if tested else ""
        cells.append([called, *figures, f"{bleu / whole:.0%}", gain, p])
    columns = ["model", "parameters", "updates behind", "BLEU", "chrF", "kept", "over alone", "p"]
    return markdown_table(columns, cells)


def losses_by_updates(losses: Dict[str, Dict[int, float]]) -> str:
    """Validation losses of every student, by thousands of updates."""
    names = [name for name in STUDENTS if name in losses]
    marks = [mark for mark in losses[UNDISTILLED] if mark % 1000 == 0]
    cells = [[STUDENTS[name], *(f"{losses[name][mark]:.3f}" for mark in marks)] for name in names]
    return markdown_table(["updates", *(f"{mark:,}" for mark in marks)], cells)


def ends() -> str:
    """The validation losses of the trainings that data/teacher.es-en holds, by updates."""
    manifest = json.loads(TEACHER.read_text(encoding="utf-8"))
    losses = [manifest[name]["validation_nll_loss_bits"] for name in ("distilled", "alone")]
    cells = [[f"{int(n):,}", *(f"{each[n]:.3f}" for each in losses)] for n in losses[0]]
    return markdown_table(["updates", "word_kd", "references alone"], cells)


def speed() -> str:
    """Size and speed of a teacher and of a student of 21 % of its parameters."""
    measured = json.loads(SPEED.read_text(encoding="utf-8"))  # a part of an evaluation.json
    cells = []
    for each in measured["systems"]:
        parameters = sum(each["parameters"].values())
        for engine, found in measured["speed"]["systems"][each["name"]].items():
            cells.append([each["name"], engine, f"{parameters:,}", *speed_cells(found)])
    columns = ["model", "engine", "parameters", "ms a sentence, median", "p95", "sentences/s, 32"]
    return markdown_table(columns, cells)


def speed_cells(found: Dict[str, Any]) -> List[str]:
    """Latency and throughput of one engine."""
    batch = found["batch_32"]["sentences_per_s"]
    return [f"{found['median_ms']:.1f}", f"{found['p95_ms']:.1f}", f"{batch:.0f}"]


def draw(losses: Dict[str, Dict[int, float]]) -> None:
    """The validation losses of the students, by updates."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in (name for name in STUDENTS if name in losses):
        line = {"color": "0.3", "linestyle": "--"} if name == UNDISTILLED else {}
        axes.plot(list(losses[name]), list(losses[name].values()), label=STUDENTS[name], **line)
    axes.set(xlabel="updates of its own", ylabel="validation nll_loss, bits a token")
    axes.set_ylim(top=5)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(DOCS / "results.png", dpi=120)


if __name__ == "__main__":
    main()
