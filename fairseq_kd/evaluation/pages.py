"""Pages of sections with text, tables, plots and code, as Markdown and as one HTML file."""

import html
import re
from dataclasses import dataclass, field
from typing import Dict, List, NamedTuple, Optional, Sequence, Union

from fairseq_kd.files.names import fence_around, in_markdown, in_one_line

Row = Sequence[str]
STYLE = """\
:root { color-scheme: light dark; --ground: #fff; --ink: #1c2126; --faint: #5d6772;
  --line: #d9dee3; --band: #f4f6f8; --accent: #2f6db5; --mark: #ffe4b3; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181c; --ink: #e3e8ec;
  --faint: #97a3ae; --line: #323a42; --band: #1d2329; --accent: #7db2ee; --mark: #5a4413; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 0.6rem; padding-top: 0.7rem;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: 0.6rem 0; overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: 0.8rem; margin: 1.2rem 0; }
.card { flex: 1 1 9rem; background: var(--band); border-radius: 8px; padding: 0.7rem 0.9rem; }
.card b { display: block; font-size: 1.6rem; line-height: 1.2; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.card span { color: var(--faint); font-size: 0.85rem; }
.scroll { overflow-x: auto; margin: 0.9rem 0 1.3rem; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.32rem 0.7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--ground); }
tbody tr:hover td { background: var(--band); }
.plots { display: grid; gap: 1.2rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; max-width: 40rem; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--faint); font-size: 0.85rem; }
code { font-size: 0.86em; }
pre { background: var(--band); border-radius: 8px; padding: 0.8rem 1rem; overflow-x: auto;
  font-size: 0.82rem; }
h3 { font-size: 0.95rem; margin: 0 0 0.3rem; }
article { border-top: 1px solid var(--line); padding: 0.7rem 0; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.15rem 0.9rem;
  margin: 0; font-size: 0.92rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 0.1em; }
summary { cursor: pointer; font-weight: 600; margin: 1rem 0; }
input { font: inherit; width: 100%; max-width: 30rem; padding: 0.4rem 0.6rem; color: inherit;
  background: var(--band); border: 1px solid var(--line); border-radius: 6px; }
@media (max-width: 600px) { dl { grid-template-columns: 1fr; } dt { margin-top: 0.3rem; } }
@media (max-width: 600px) { main { padding: 0.8rem 0.8rem 3rem; }
  td:first-child { max-width: 9rem; white-space: normal; } }
@media print { :root { color-scheme: light; --ground: #fff; --ink: #000; --faint: #444;
    --line: #bbb; --band: #fff; --accent: #000; --mark: #ddd; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  table { font-size: 7.5pt; } th, td { padding: 0.15rem 0.35rem; white-space: normal; }
  .scroll { overflow: visible; } figure, tr, .card { break-inside: avoid; }
  article { break-inside: avoid; } details { display: none; }
  h2 { break-after: avoid; } pre { white-space: pre-wrap; } }
"""
SEARCH_BOX = """\
<p><input type="search" aria-label="Search in all sentences" placeholder="Search"
oninput="for (const each of this.closest('details').querySelectorAll('article'))
  each.hidden = !each.textContent.toLowerCase().includes(this.value.toLowerCase())"></p>"""


@dataclass(frozen=True)
class Table:
    """A table with names in its first column, and figures in the others.

    Args:
        columns: headings.
        rows: cells as text.
    """

    columns: Row
    rows: List[Row]


@dataclass(frozen=True)
class Plot:
    """A plot.

    Args:
        name: of its file beside the Markdown page, without the suffix.
        caption: what it shows.
        svg: text and axes have the colour of the text around the plot.
        png: on white, for the Markdown page.
    """

    name: str
    caption: str
    svg: str
    png: bytes


@dataclass(frozen=True)
class Code:
    """Command lines."""

    text: str


class Span(NamedTuple):
    """A part of a text, which may be highlighted."""

    text: str
    highlighted: bool = False


@dataclass(frozen=True)
class TextVersions:
    """Versions of a text, below each other.

    Args:
        title: what they are versions of.
        versions: spans of each version by its name.
    """

    title: str
    versions: Dict[str, List[Span]]


@dataclass(frozen=True)
class Searchable:
    """TextVersions that are folded away, with a search box; only on the HTML page.

    Args:
        title: of the closed fold.
        texts: what is searched.
    """

    title: str
    texts: List[TextVersions]


Block = Union[
    str, Table, Plot, Code, TextVersions, Searchable
]  # a string is a paragraph, with `code` and *emphasis*


@dataclass
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: List[Block] = field(default_factory=list)


def count_text(count: Optional[int]) -> str:
    """A count for a table; - if it is unknown."""
    return "-" if count is None else f"{count:,}"


def markdown_table(columns: Row, rows: Sequence[Row], figures: bool = True) -> str:
    """A Markdown table that is also readable as plain text.

    Args:
        columns: headings.
        rows: cells.
        figures: whether all columns but the first are aligned right.
    """
    columns, *rows = ([_cell(text) for text in row] for row in (columns, *rows))
    widths = [max(2, *(len(row[i]) for row in (columns, *rows))) for i in range(len(columns))]

    def line(cells: Row) -> str:
        padded = [cells[0].ljust(widths[0])]
        aligned = str.rjust if figures else str.ljust
        padded += [aligned(cell, width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    end = ":" if figures else "-"
    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}{end}" for width in widths[1:])]
    return "\n".join([line(columns), line(rule), *map(line, rows)])


def _cell(text: str) -> str:
    """A text with escaped bars."""
    return re.sub(r"(\\*)\|", r"\1\1\|", in_markdown(text))


def markdown_page(title: str, sections: Sequence[Section], plots: str) -> str:
    """The page as Markdown.

    Args:
        title: its heading.
        sections: of the page; empty ones are left out.
        plots: the folder of the plots, relative to the page.
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
        return f"![{in_markdown(block.caption)}]({plots}/{block.name}.png)"
    if isinstance(block, Code):
        return code_block(block.text)
    if isinstance(block, TextVersions):
        versions = {
            name: " ".join(span.text for span in spans) for name, spans in block.versions.items()
        }
        return markdown_table((block.title, ""), list(versions.items()), figures=False)
    if isinstance(block, Searchable):
        return f"{in_markdown(block.title)}: in the HTML page."
    return in_markdown(block)


def code_block(text: str) -> str:
    """Command lines as a Markdown code block, with a fence longer than any in the text."""
    fence = fence_around(text, 3)
    lines = "\n".join(map(in_one_line, text.split("\n")))
    return f"{fence}bash\n{lines}\n{fence}"


def html_page(title: str, cards: Sequence["tuple[str, str]"], sections: Sequence[Section]) -> str:
    """The page as one HTML file that loads nothing else.

    Args:
        title: its heading.
        cards: large figures at its top, each with a description.
        sections: of the page; empty ones are left out.
    """
    shown = "".join(
        f'<div class="card"><b>{html.escape(figure)}</b><span>{html.escape(text)}</span></div>'
        for figure, text in cards
    )
    body = [f"<h1>{html.escape(title)}</h1>", f'<div class="cards">{shown}</div>']
    for section in sections:
        if section.blocks:
            body += [f"<h2>{html.escape(section.title)}</h2>"] if section.title else []
            body += _html_blocks(section.blocks)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>",
            f"<body>\n<main>\n{chr(10).join(body)}\n</main>\n</body>\n</html>\n",
        ]
    )


def _html_blocks(blocks: Sequence[Block]) -> Sequence[str]:
    """The blocks, with consecutive plots side by side."""
    lines, open_plots = [], False
    for block in blocks:
        is_plot = isinstance(block, Plot)
        if is_plot != open_plots:
            lines.append('<div class="plots">' if is_plot else "</div>")
            open_plots = is_plot
        lines.append(_html(block))
    return [*lines, "</div>"] if open_plots else lines


def _html(block: Block) -> str:
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Plot):
        caption = html.escape(block.caption)
        svg = block.svg.replace("<svg ", f'<svg role="img" aria-label="{caption}" ', 1)
        return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"
    if isinstance(block, Code):
        return f"<pre>{html.escape(block.text)}</pre>"
    if isinstance(block, TextVersions):
        return _html_texts(block)
    if isinstance(block, Searchable):
        inner = "\n".join(map(_html_texts, block.texts))
        return (
            f"<details><summary>{html.escape(block.title)}</summary>\n{SEARCH_BOX}\n{inner}\n"
            "</details>"
        )
    return f"<p>{_inline(block)}</p>"


def _html_texts(texts: TextVersions) -> str:
    versions = "".join(
        f'<dt>{html.escape(name)}</dt><dd dir="auto">{" ".join(map(_html_span, spans))}</dd>'
        for name, spans in texts.versions.items()
    )
    return f"<article><h3>{html.escape(texts.title)}</h3><dl>{versions}</dl></article>"


def _html_span(span: Span) -> str:
    text = html.escape(span.text)
    return f"<mark>{text}</mark>" if span.highlighted else text


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.columns)
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    inner = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    return f'<div class="scroll" tabindex="0">{inner}</div>'


def _inline(text: str) -> str:
    """A paragraph, in which *emphasis* and `code` are formatted as in Markdown."""
    escaped = html.escape(text)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*([\w ]+)\*", r"<em>\1</em>", escaped)
