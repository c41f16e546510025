"""Reports a ladder: table, bars, warnings, lines for a run file and fairseq-train flags."""

import shlex
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Sequence

from fairseq_kd.evaluation.pages import markdown_table
from fairseq_kd.evaluation.size import PARTS
from fairseq_kd.fairseq_flags import as_arguments
from fairseq_kd.files.atomic_files import write_new
from fairseq_kd.sizing.ladder import ladder_sizes, warnings
from fairseq_kd.sizing.teacher_structure import TeacherStructure

BAR = 40  # characters of the teacher's bar
COLUMNS = ("stage", "ratio", "layers", "width", "heads", "feed-forward", "parameters")
MOSTLY = 0.75  # of the student's parameters
FORMATS = (".png", ".svg")


class LadderReport:
    """The sizes and parameters of a ladder; ``str`` gives the whole report.

    Args:
        structure: the teacher's.
        ratios: descending from the teacher's 1.0.
        strategy: one of STRATEGIES.

    Raises:
        ValueError: two stages would be the same.
    """

    def __init__(self, structure: TeacherStructure, ratios: Sequence[float], strategy: str):
        self.structure, self.ratios, self.strategy = structure, ratios, strategy
        self.sizes = ladder_sizes(structure.size, ratios, strategy)
        between = [f"stage-{ratio * 100:.0f}" for ratio in ratios[1:-1]]
        self.names = ["teacher", *between, "student"]

    @cached_property
    def parts(self) -> List[Dict[str, int]]:
        """The parameters of each stage by part."""
        return [self.structure.teacher_parts, *map(self.structure.parts, self.sizes[1:])]

    @cached_property
    def parameters(self) -> List[int]:
        """The parameters of each stage."""
        return [sum(each.values()) for each in self.parts]

    def __str__(self) -> str:
        notes = "".join(f"Note: {each}\n" for each in self.warnings())
        blocks = [self.table(), self.bars(), notes, self.run_file(), self.training_flags()]
        return "\n\n".join(block.rstrip("\n") for block in blocks if block)

    def table(self) -> str:
        """Sizes and true parameters; a step is the ratio of the parameters before to these."""
        rows = []
        for i, (size, count) in enumerate(zip(self.sizes, self.parameters, strict=True)):
            layers = f"{size.encoder_layers}+{size.decoder_layers}"
            numbers = [str(each) for each in (size.width, size.heads, size.feed_forward)]
            share = f"{count / self.parameters[0]:.1%}"
            step = f"{self.parameters[i - 1] / count:.2f}x" if i else "-"
            rows.append([self.names[i], str(self.ratios[i]), layers, *numbers, f"{count:,}"])
            rows[-1] += [share, step]
        return markdown_table((*COLUMNS, "of the teacher's", "step"), rows)

    def bars(self) -> str:
        """The parameters as bars, in which the embeddings come last."""
        longest = max(map(len, self.names))
        lines = []
        for name, parts, count in zip(self.names, self.parts, self.parameters, strict=True):
            length = max(1, round(BAR * count / self.parameters[0]))
            embeddings = round(length * parts["embeddings"] / count)
            bar = "#" * (length - embeddings) + ":" * embeddings
            lines.append(f"{name:{longest}} {bar:{BAR}} {count / 1e6:.1f} M")
        return "\n".join([*lines, f"{'':{longest}} # encoder and decoder, : embeddings"])

    def warnings(self) -> List[str]:
        """Warnings about the ladder."""
        sentences = list(self.structure.changes)
        sentences += warnings(self.ratios, self.sizes, self.strategy, self.parameters)
        share = self.parts[-1]["embeddings"] / self.parameters[-1]
        if share > MOSTLY:
            sentences.append(
                f"{share:.0%} of the student's parameters are embeddings: a smaller vocabulary or "
                "shared embeddings would save more than fewer layers."
            )
        return sentences

    def run_file(self) -> str:
        """The ladder as lines for a run file of ``fairseq-kd progressive``."""
        return f"strategy: {self.strategy}\nladder: [{', '.join(map(str, self.ratios))}]"

    def training_flags(self) -> str:
        """The fairseq-train flags of each stage."""
        blocks = [
            f"{name}:\n  {shlex.join(as_arguments(self.structure.flags(size)))}"
            for name, size in zip(self.names[1:], self.sizes[1:], strict=True)
        ]
        return "\n".join(blocks)

    def write_chart(self, path: Path) -> None:
        """Draws the parameters of the stages by part.

        Args:
            path: ends with one of FORMATS.

        Raises:
            ValueError: another file exists at the path.
        """
        from fairseq_kd.evaluation.plots import drawn

        inches = (5.6, 1.6 + 0.4 * len(self.sizes))
        plot = drawn("ladder", "parameters of the stages", inches, self._draw)
        write_new(path, plot.png if path.suffix == ".png" else plot.svg, "--chart")

    def _draw(self, figure: Any) -> None:
        axes = figure.subplots()
        labels = [f"{name}, {ratio}" for name, ratio in zip(self.names, self.ratios, strict=True)]
        left = [0.0] * len(labels)
        for part in reversed(PARTS):
            millions = [each[part] / 1e6 for each in self.parts]
            axes.barh(labels, millions, left=left, height=0.6, label=part)
            left = [start + more for start, more in zip(left, millions, strict=True)]
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("parameters, millions")
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)
