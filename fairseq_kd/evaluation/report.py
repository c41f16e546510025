"""The table that says what was gained, as a Markdown page with the training curves."""

import datetime
import os
import platform
import shlex
from importlib import metadata
from pathlib import Path
from typing import List, Sequence

from sacrebleu.metrics import BLEU, CHRF

from fairseq_kd import __version__
from fairseq_kd.evaluation.system import System
from fairseq_kd.whole_files import written_whole

COLUMNS = (
    "system",
    "parameters",
    "of the teacher's",
    "updates",
    "BLEU",
    "kept",
    "chrF",
    "sentences/s",
    "speed",
)


def write_report(out: Path, systems: Sequence[System], references: List[str]) -> str:
    """Writes the page, and ``curves.png`` beside it.

    Args:
        out: the Markdown file.
        systems: first the teacher, which the others are held to.
        references: the test set's reference translations, as they were written.

    Returns:
        The table alone, for a terminal.

    Raises:
        ValueError: a system has another number of translations than there are references.
    """
    for system in systems:
        if len(system.hypotheses) != len(references):
            raise ValueError(
                f"{system.name} has {len(system.hypotheses)} translations, but the reference has "
                f"{len(references)} lines. Translate the set that the reference belongs to."
            )
    bleu, chrf = BLEU(), CHRF()
    rows = score_rows(systems, references, bleu, chrf)
    table = markdown_table(COLUMNS, rows)
    page = [
        "# What the distillation gained",
        "",
        f"{len(references)} test sentences. *kept* is the share of the teacher's BLEU; *speed* is "
        "the teacher's time to translate them, divided by the system's.",
        "",
        table,
        "",
        f"BLEU `{bleu.get_signature()}`, chrF `{chrf.get_signature()}`.",
        f"Speed by `fairseq-generate`, one run each, on {machine()}.",
        f"{datetime.date.today()}, fairseq_kd {__version__}, {versions()}.",
        "",
    ]
    if draw_curves(out.parent / "curves.png", systems):
        page += ["## Training", "", "![validation loss over updates](curves.png)", ""]
    page += ["## Commands", ""]
    for system in systems:
        page += [f"{system.name}:", "", "```bash", wrapped(system.command), "```", ""]
    with written_whole(out) as file:
        file.write("\n".join(page))
    return table


def score_rows(
    systems: Sequence[System], references: List[str], bleu: BLEU, chrf: CHRF
) -> List[List[str]]:
    """One row of the table for each system."""
    scores = [bleu.corpus_score(system.hypotheses, [references]).score for system in systems]
    teacher, teacher_bleu = systems[0], scores[0]
    return [
        [
            system.name,
            f"{system.parameters:,}",
            f"{system.parameters / teacher.parameters:.0%}",
            f"{system.updates:,}",
            f"{score:.1f}",
            f"{score / teacher_bleu:.0%}" if teacher_bleu > 0 else "-",
            f"{chrf.corpus_score(system.hypotheses, [references]).score:.1f}",
            f"{system.sentences_per_s:.1f}",
            f"{system.sentences_per_s / teacher.sentences_per_s:.1f}x",
        ]
        for system, score in zip(systems, scores, strict=True)
    ]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as plain text too: numbers stand to the right."""
    widths = [max(2, *(len(row[i]) for row in (columns, *rows))) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([line(columns), line(rule), *map(line, rows)])


def draw_curves(path: Path, systems: Sequence[System]) -> bool:
    """Draws the validation losses over the updates; False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for system in systems:
        updates = [update for update, _ in system.validation]
        nll_losses = [nll_loss for _, nll_loss in system.validation]
        axes.plot(updates, nll_losses, marker="o", markersize=3, label=system.name)
    axes.set(xlabel="updates", ylabel="validation nll_loss (bits per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    return True


def machine() -> str:
    """The processor and the number of cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {processor()}"


def processor() -> str:
    """The processor's name, as Linux tells it, else its kind."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> str:
    """The versions that can change a number."""
    names = ("torch", "fairseq", "fairseq-fixed", "sacrebleu")
    installed = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return ", ".join(f"{name} {installed[name]}" for name in names if name in installed)


def wrapped(command: str) -> str:
    """A command line with one option a line, ready to be copied."""
    lines: List[str] = []
    for word in shlex.split(command):
        if word.startswith("--") or not lines:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join(lines)
