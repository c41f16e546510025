"""The report's plots, drawn with matplotlib as SVG for the HTML page and PNG for Markdown."""

import io
import os
import re
import sys
from importlib import metadata
from typing import Any, Callable, List, Optional, Sequence, Tuple

from fairseq_kd.evaluation.pages import Plot
from fairseq_kd.evaluation.results import (
    FAIRSEQ,
    FAIRSEQ_GPU,
    FLOAT16_GPU,
    FLOAT32,
    IN_INT8,
    INT8,
    INT8_GPU,
    BinScores,
    EvaluationResult,
    TrainingCurves,
    int8_name,
)
from fairseq_kd.evaluation.systems import slug

INSTALL = "pip install matplotlib"
PLAIN_SETTINGS = 3, 11  # the first version that reads its settings as data
INK = "#010203"  # replaced by the colour of the text in the HTML page
# visible on white and on black
COLOURS = (
    "#3b78c2",
    "#d9822b",
    "#3a9d5d",
    "#c2487a",
    "#8f6fc9",
    "#7d8791",
)
MARKERS = {FAIRSEQ: "o", FLOAT32: "s", INT8: "^"}
MARKERS |= {FAIRSEQ_GPU: "P", FLOAT16_GPU: "D", INT8_GPU: "v"}
Draw = Callable[[Any], None]
Point = Tuple[str, str, float, float]  # system, engine, x, BLEU


def check_matplotlib() -> None:
    """Checks that plots can be drawn; to be called before matplotlib is imported.

    Raises:
        ValueError: matplotlib is not installed, or would run code of a file in the current folder.
    """
    try:
        version = metadata.version("matplotlib")
        as_code = tuple(map(int, version.split(".")[:2])) < PLAIN_SETTINGS
        if as_code and os.path.exists("matplotlibrc") and "matplotlib" not in sys.modules:
            raise ValueError(
                f"matplotlib {version} would run code in the file matplotlibrc of the current "
                "folder. Move that file away, or update: pip install 'matplotlib>=3.11'."
            )
        import matplotlib  # noqa: F401
    except ImportError:
        message = f"The report's plots need matplotlib, which is not installed ({INSTALL})."
        raise ValueError(message) from None


def drawn(name: str, caption: str, size: Sequence[float], draw: Draw) -> Plot:
    """Draws a plot in both formats.

    Args:
        name: of its file.
        caption: what it shows.
        size: width and height in inches.
        draw: draws on a matplotlib figure.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style |= {"axes.edgecolor": INK, "axes.grid": True, "grid.alpha": 0.25, "grid.color": "#808080"}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    style |= {"font.family": "sans-serif", "font.size": 10, "svg.fonttype": "none"}
    style |= {"text.usetex": False}  # which a user's matplotlibrc may set
    style |= {"svg.hashsalt": name, "axes.prop_cycle": matplotlib.cycler(color=COLOURS)}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=tuple(size), layout="constrained")
        draw(figure)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(png, format="png", dpi=130, facecolor="white")
    return Plot(name, caption, _for_page(svg.getvalue(), name), png.getvalue())


def _for_page(svg: str, name: str) -> str:
    """The <svg> element, in the colour of the text around it, with ids unique in the page."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)


def front(result: EvaluationResult, against: str, metric: str = "BLEU") -> Optional[Plot]:
    """A metric over speed or size, with the Pareto front as a line; None if speed is unknown.

    Args:
        result: of the evaluation.
        against: ``speed`` (sentences per second in batches of 32) or ``size`` (parameters).
        metric: BLEU, or one of ``--scorer``.
    """
    points = (_speed_points if against == "speed" else _size_points)(result, metric)
    if not points:
        return None

    def draw(figure: Any) -> None:
        """A point for each system and engine, and the front through the best."""
        axes = figure.subplots()
        best = pareto([(x, y) for _, _, x, y in points], against == "speed")
        axes.plot(*zip(*best, strict=True), color="#808080", linewidth=1, linestyle="--", zorder=1)
        names = list(dict.fromkeys(name for name, *_ in points))
        for name, engine, x, y in points:
            colour = COLOURS[names.index(name) % len(COLOURS)]
            axes.scatter([x], [y], s=55, color=colour, marker=MARKERS[engine], zorder=2)
        _legend(figure, names, {engine for _, engine, *_ in points}, against)
        axes.set(ylabel=metric, xscale="log")
        labels = {"speed": "sentences per second, batches of 32", "size": "parameters"}
        axes.set_xlabel(labels[against])
        axes.margins(0.12)
        _plain_ticks(axes, [x for _, _, x, _ in points])

    what = {"speed": "sentences per second", "size": "parameters"}[against]
    name = f"front-{against}" + (f"-{metric}" if metric != "BLEU" else "")
    return drawn(name, f"{metric} over {what}; the line is the Pareto front", (5.6, 4), draw)


def pareto(points: Sequence["tuple[float, float]"], more: bool) -> List["tuple[float, float]"]:
    """The Pareto front: the points that no other one equals or exceeds in both x and y.

    Args:
        points: x and y of each; a larger y is better.
        more: whether a larger x is better; else a smaller one is.
    """
    kept, highest = [], float("-inf")
    for x, y in sorted(points, key=lambda each: (-each[0] if more else each[0], -each[1])):
        if y > highest:
            kept.append((x, y))
            highest = y
    return sorted(kept)


def _speed_points(result: EvaluationResult, metric: str) -> List[Point]:
    points = []
    for name, by_engine in (result.speed.systems if result.speed else {}).items():
        for engine, speed in by_engine.items():
            scored = int8_name(name) if engine in IN_INT8 else name
            if scored in result.quality.scores:
                x = speed.batch_32.sentences_per_s
                points.append((name, engine, x, result.score(scored, metric)))
    return points


def _size_points(result: EvaluationResult, metric: str) -> List[Point]:
    return [
        (each.name, FAIRSEQ, float(each.total_parameters), result.score(each.name, metric))
        for each in result.systems
    ]


def _legend(figure: Any, names: List[str], engines: "set[str]", against: str) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", color=COLOURS[i % len(COLOURS)])
        for i in range(len(names))
    ]
    if against == "speed":
        shown = [each for each in MARKERS if each in engines]
        handles += [
            Line2D([], [], marker=MARKERS[each], linestyle="", color="#808080") for each in shown
        ]
        names = [*names, *shown]
    _legend_of_names(figure, handles, names)


def _legend_of_names(figure: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend below the axes, in which matplotlib interprets no $ and no leading _ of a name."""
    numbers = [str(i) for i in range(len(names))]
    legend = figure.legend(handles, numbers, loc="outside lower center", ncols=2, fontsize=9)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _plain_ticks(axes: Any, values: Sequence[float]) -> None:
    """Puts ticks at the values, except at values too close to another one."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    kept: List[float] = []
    reach = max(values) / min(values)
    for value in sorted(values):
        if not kept or value / kept[-1] > max(1.1, reach**0.14):
            kept.append(value)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.1f} M"
    return f"{value / 1e3:.0f} k" if value >= 1e4 else f"{value:,.0f}"


def by_bins(bins: Sequence[BinScores], name: str, heading: str) -> Plot:
    """BLEU of every system over bins of sentences.

    Args:
        bins: at least one.
        name: of the plot's file.
        heading: what the bins are of.
    """

    def draw(figure: Any) -> None:
        """A line of BLEU over the bins for each system."""
        axes = figure.subplots()
        labels, systems = [each.label for each in bins], list(bins[0].bleu)
        for system in systems:
            dashed = "--" if system.endswith(", int8") else "-"
            heights = [each.bleu[system] for each in bins]
            axes.plot(labels, heights, marker="o", markersize=4, linestyle=dashed)
        axes.set(ylabel="BLEU")
        axes.set_ylim(bottom=0)
        _legend_of_names(figure, axes.lines, systems)

    return drawn(name, f"BLEU by {heading}", (5.6, 3.8), draw)


def training(name: str, curves: TrainingCurves) -> Optional[Plot]:
    """A system's losses, and below them its temperature and the like; None without two updates."""
    running, valid = curves.training, curves.validation
    if len(running.get("update", ())) < 2:
        return None
    losses = [key for key in running if key.endswith("loss")]
    others = [key for key in ("temperature", "agreement", "teacher_entropy") if key in running]

    def draw(figure: Any) -> None:
        """A panel for the losses, and one for each other figure."""
        panels = figure.subplots(1 + len(others), 1, sharex=True, squeeze=False)[:, 0]
        for i, key in enumerate(losses):
            colour = COLOURS[i % len(COLOURS)]
            panels[0].plot(running["update"], running[key], color=colour, linewidth=1, label=key)
            if key in valid:
                panels[0].plot(
                    *(valid["update"], valid[key], "o"),
                    **{"color": colour, "markersize": 5, "label": f"{key}, validation"},
                )
        panels[0].set(ylabel="bits per token", yscale="log")
        panels[0].legend(fontsize=8, ncols=2)
        units = {"agreement": "agreement, %", "teacher_entropy": "teacher's\nentropy, bits"}
        for axes, key in zip(panels[1:], others, strict=True):
            axes.plot(running["update"], running[key], color=COLOURS[0], linewidth=1)
            axes.set_ylabel(units.get(key, key))
        panels[-1].set_xlabel("updates")

    height = 2.8 + 1.1 * len(others)
    return drawn(f"training-{slug(name)}", f"training of {name}", (5.6, height), draw)
