"""A page of sections as data, and as Markdown."""

import re
from dataclasses import dataclass, field
from typing import List, Optional, Sequence, Union

from fairseq_kd.names import fence_around, in_markdown

Row = Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table whose first column names things, and whose others are figures.

    Args:
        columns: their headings.
        rows: cells as they are shown.
    """

    columns: Row
    rows: List[Row]


@dataclass(frozen=True)
class Plot:
    """A drawing.

    Args:
        name: of its file beside the Markdown page, without the ending.
        says: what it shows, for those who cannot see it.
        svg: the drawing; its text and axes have the colour of the text around it.
        png: the same on white, for the Markdown page.
    """

    name: str
    says: str
    svg: str
    png: bytes


@dataclass(frozen=True)
class Code:
    """Command lines to copy."""

    text: str


Block = Union[str, Table, Plot, Code]  # a plain string is a paragraph; `code` stands in backticks


@dataclass
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: List[Block] = field(default_factory=list)


def count_text(count: Optional[int]) -> str:
    """A count as tables show it; - where it is not known."""
    return "-" if count is None else f"{count:,}"


def markdown_table(columns: Row, rows: Sequence[Row]) -> str:
    """A table that reads well as plain text too: numbers stand to the right."""
    columns, *rows = ([_cell(text) for text in row] for row in (columns, *rows))
    widths = [max(2, *(len(row[i]) for row in (columns, *rows))) for i in range(len(columns))]

    def line(cells: Row) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([line(columns), line(rule), *map(line, rows)])


def _cell(text: str) -> str:
    """A text in which no bar ends a cell."""
    return re.sub(r"(\\*)\|", r"\1\1\|", in_markdown(text))


def markdown_page(title: str, sections: Sequence[Section], plots: str) -> str:
    """The page as Markdown.

    Args:
        title: its heading.
        sections: what it holds; an empty one is left out.
        plots: the folder of the drawings, relative to the page.
    """
    lines = [f"# {in_markdown(title)}", ""]
    for section in sections:
        if section.blocks:
            lines += [f"## {in_markdown(section.title)}", ""] if section.title else []
            for block in section.blocks:
                lines += [_markdown(block, plots), ""]
    return "\n".join(lines)


def _markdown(block: Block, plots: str) -> str:
    if isinstance(block, Table):
        return markdown_table(block.columns, block.rows)
    if isinstance(block, Plot):
        return f"![{in_markdown(block.says)}]({plots}/{block.name}.png)"
    if isinstance(block, Code):
        return code_block(block.text)
    return in_markdown(block)


def code_block(text: str) -> str:
    """Command lines as a block of Markdown, whatever backticks they hold."""
    fence = fence_around(text, 3)
    return f"{fence}bash\n{text}\n{fence}"
