"""Makes docs/results.md and its plot from benchmarks/comparison.csv.

usage: python benchmarks/comparison_page.py
"""

import csv
import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Dict, List, NamedTuple

from comparison import RESULTS, UNDISTILLED, WORD
from matplotlib.figure import Figure

from fairseq_kd.evaluation.pages import markdown_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEXT = Path(__file__).with_name("comparison.md")
SPEED = Path(__file__).with_name("comparison_speed.json")
TEACHER = DOCS.parent / "data" / "teacher.es-en" / "manifest.json"
STORES = Path(__file__).with_name("students.csv")
STRATEGIES = {
    UNDISTILLED: "the student alone",
    WORD: "word-level",
    "feature": "feature",
    "attention": "attention",
    "scheduled": "scheduled temperature, 4 to 1",
    "multi-teacher": "two teachers",
    "mutual": "mutual learning, two peers",
    "sequence": "sequence-level, interpolation",
    "inherit": "word-level, from the teacher's layers",
    "progressive": "progressive, three stages",
    "together": "all together",
}
INHERITING = {"inherit": 1, "progressive": 3, "together": 3}  # stages since the teacher's weights

SAME = {  # rows of other tables that the word-level student of the strategies is
    "temperature": "T-1",
    "weights": "alpha-80",
    "learning_rate": "warm-up-linear",
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

    def each(self, column: str) -> str:
        """The figure of each seed."""
        return ", ".join(f"{value:.1f}" for value in self.values(column))

    def shown(self, column: str, digits: int = 1) -> str:
        """Mean and spread (the standard deviation) over the seeds."""
        found = self.values(column)
        told = f"{mean(found):.{digits}f}"
        return f"{told} ± {stdev(found):.{digits}f}" if len(found) > 1 else told


def newest() -> Dict[str, Dict[str, Row]]:
    """The last line of each table, row and seed."""
    with RESULTS.open(encoding="utf-8", newline="") as file:
        lines = {(each["table"], each["row"], each["seed"]): each for each in csv.DictReader(file)}
    tables: Dict[str, Dict[str, Row]] = {}
    for (table, row, _), line in sorted(lines.items(), key=lambda item: int(item[0][2])):
        tables.setdefault(table, {}).setdefault(row, Row(row, [])).runs.append(line)
    return tables


def main() -> None:
    """Writes the page and the plot."""
    tables = newest()
    students = {**tables["strategies"], **tables.get("several_teachers", {})}
    teacher = tables["strategies"]["teacher"]
    parts = {
        "strategies": strategies(students, teacher),
        "ends": ends(),
        "pairs": pairs(tables),
        "gpu": at_gpu_size(tables),
        "speed": speed(),
        "store": stores(),
        "signature": teacher.runs[0]["signature"],
        "machine": f"{teacher.runs[0]['machine']}, {teacher.runs[0]['date']}",
    }
    for name in ("temperature", "unsmoothed_teacher", "weights", "learning_rate"):
        parts[name] = settings(tables.get(name, {}), name, students[WORD])
    page = TEXT.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    (DOCS / "results.md").write_text(page, encoding="utf-8")
    draw(students, teacher)


def ends() -> str:
    """The validation losses of the trainings that data/teacher.es-en holds, by updates."""
    manifest = json.loads(TEACHER.read_text(encoding="utf-8"))
    losses = [manifest[name]["validation_nll_loss_bits"] for name in ("distilled", "alone")]
    cells = [[f"{int(n):,}", *(f"{each[n]:.3f}" for each in losses)] for n in losses[0]]
    return markdown_table(["updates", "word_kd", "references alone"], cells)


def strategies(students: Dict[str, Row], teacher: Row) -> str:
    """The main table."""
    whole, alone = mean(teacher.values("BLEU")), mean(students[UNDISTILLED].values("BLEU"))
    word = min(students[WORD].values("seconds"))
    behind = updates_behind(teacher.runs[0], teacher.runs[0])
    cells = [["teacher", "100%", behind, f"{whole:.1f}", "", teacher.shown("chrF"), "100%"]]
    cells[0] += [""] * 4
    for name, told in STRATEGIES.items():
        if name not in students:
            continue
        row, first = students[name], name == UNDISTILLED
        bleu = mean(row.values("BLEU"))
        size = row.values("parameters")[0] / teacher.values("parameters")[0]
        scores = [row.shown("BLEU"), row.each("BLEU"), row.shown("chrF"), f"{bleu / whole:.0%}"]
        compared = not first and name not in INHERITING  # as many updates behind both weights
        gain = f"{bleu - alone:+.1f}" if compared else ""
        certainty = [worst_p(row, each) if compared else "" for each in ("p_undistilled", "p_word")]
        behind = updates_behind(row.runs[0], teacher.runs[0])
        cost = f"{min(row.values('seconds')) / word:.1f}"
        cells.append([told, f"{size:.0%}", behind, *scores, gain, *certainty, cost])
    columns = ["student", "parameters", "updates behind", "BLEU", "seeds", "chrF", "kept"]
    columns.append("over alone")
    return markdown_table([*columns, "p, alone", "p, word", "cost"], cells)


def updates_behind(run: Dict[str, str], teacher: Dict[str, str]) -> str:
    """The updates behind a student's weights, those of what it starts from included."""
    own, stages = int(run["updates"]), INHERITING.get(run["row"])
    return f"{own if stages is None else int(teacher['updates']) + stages * own:,}"


def worst_p(row: Row, column: str) -> str:
    """The largest p of the seeds."""
    found = row.values(column)
    return f"{max(found):.3f}" if found else ""


def settings(rows: Dict[str, Row], table: str, word: Row) -> str:
    """A table of one setting, by its values; one may be the strategies' word-level student."""
    if not rows:
        return f"Not measured yet; `benchmarks/comparison.sh {table}` does."
    kept = [Row(SAME[table], word.runs)] if table in SAME else []
    kept += [row for name, row in rows.items() if not name.startswith("teacher")]
    kept.sort(key=lambda row: [int(part) for part in re.findall(r"\d+", row.name)])
    best = max(mean(row.values("BLEU")) for row in kept)
    cells = []
    for row in kept:
        behind = round(mean(row.values("BLEU")) - best, 1) or 0.0  # no -0.0
        figures = [row.shown("BLEU"), row.each("BLEU"), f"{behind:+.1f}"]
        cells.append([label(row.name, table), *figures])
    setting = "temperature" if kept[0].name.startswith("T-") else table.replace("_", " ")
    return markdown_table([setting, "BLEU", "seeds", "to the best"], cells)


def label(name: str, table: str) -> str:
    """How a row of a setting is called on the page."""
    if table == "weights":
        alpha = float(name.partition("-")[2]) / 100
        return f"{alpha:g} / {1 - alpha:.1g}"
    if name.startswith("T-"):
        return name[2:]
    words = name.removeprefix("warm-up-").replace("-", " ")
    return f"warm-up, {words}" if name.startswith("warm-up-") else words


def pairs(tables: Dict[str, Dict[str, Row]]) -> str:
    """Teacher, word-level, progressive and undistilled students of every pair of languages."""
    chosen = {"pair-es-en": tables["strategies"]}
    chosen |= {name: rows for name, rows in sorted(tables.items()) if name.startswith("pair")}
    cells = []
    for name, rows in chosen.items():
        whole = mean(rows["teacher"].values("BLEU"))
        found = [rows[each].shown("BLEU") for each in (UNDISTILLED, WORD, "progressive")]
        ladder = mean(rows["progressive"].values("BLEU"))
        gain = mean(rows[WORD].values("BLEU")) - mean(rows[UNDISTILLED].values("BLEU"))
        kept, seeds = f"{ladder / whole:.0%}", str(len(rows[WORD].runs))
        cells.append([name[5:], f"{whole:.1f}", *found, kept, f"{gain:+.1f}", seeds])
    columns = ["pair", "teacher", "alone", "word-level", "progressive", "kept"]
    return markdown_table([*columns, "word-level over alone", "seeds"], cells)


def at_gpu_size(tables: Dict[str, Dict[str, Row]]) -> str:
    """The students of every pair that a GPU has trained."""
    found = {name: rows for name, rows in sorted(tables.items()) if name.startswith("gpu-")}
    if not found:
        return "BLEU has not been measured yet."
    return "\n\n".join(
        f"{name.partition('-')[2]}:\n\n{strategies(rows, rows['teacher'])}"
        for name, rows in found.items()
    )


def speed() -> str:
    """Size and speed of the teacher and of the student, which all strategies share."""
    if not SPEED.is_file():
        return "Not measured yet."
    measured = json.loads(SPEED.read_text(encoding="utf-8"))
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


def stores() -> str:
    """Students of stores of K words against students of the live teacher."""
    with STORES.open(encoding="utf-8", newline="") as file:
        lines = [each for each in csv.DictReader(file) if each["temperature"] == "1"]
    kept: Dict[str, List[float]] = {}
    for each in lines:
        if each["system"] == "live" or each["system"].startswith("store "):
            kept.setdefault(each["system"], []).append(float(each["BLEU"]))
    cells = [
        [name, f"{mean(found):.1f}", ", ".join(f"{x:.1f}" for x in found)]
        for name, found in sorted(kept.items(), key=lambda item: words_of(item[0]))
    ]
    return markdown_table(["knowledge", "BLEU", "seeds"], cells)


def words_of(name: str) -> float:
    """K of a store; the live teacher has all words."""
    return float(name.split()[1]) if " " in name else float("inf")


def draw(students: Dict[str, Row], teacher: Row) -> None:
    """BLEU of every strategy, each seed a dot, with the teacher's as a line."""
    names = [name for name in STRATEGIES if name in students][::-1]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.axvline(mean(teacher.values("BLEU")), color="0.4", linestyle="--", label="teacher")
    for place, name in enumerate(names):
        found = students[name].values("BLEU")
        axes.barh(place, mean(found), color="#3b6ea5", alpha=0.35)
        axes.plot(found, [place] * len(found), "o", color="#1f3f66", markersize=4)
    behind = [updates_behind(students[name].runs[0], teacher.runs[0]) for name in names]
    labels = [f"{STRATEGIES[name]} ({count})" for name, count in zip(names, behind, strict=True)]
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylabel("strategy (updates behind its weights)")
    axes.set(xlabel="BLEU")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(DOCS / "results.png", dpi=120)


if __name__ == "__main__":
    main()
