"""The report's plots, drawn by matplotlib once for the page and once for the Markdown."""

import io
import re
from typing import Any, Callable, Dict, List, Optional, Sequence

from fairseq_kd.evaluation.document import Plot
from fairseq_kd.evaluation.systems import slug
from fairseq_kd.evaluation.variants import FAIRSEQ, FLOAT32, INT8

INSTALL = "pip install matplotlib"
INK = "#010203"  # what has the colour of the text in the page
COLOURS = ("#3b78c2", "#d9822b", "#3a9d5d", "#c2487a", "#8f6fc9", "#7d8791")  # seen on both grounds
MARKERS = {FAIRSEQ: "o", FLOAT32: "s", INT8: "^"}
Figures = Dict[str, Any]
Draw = Callable[[Any], None]


def check_matplotlib() -> None:
    """Refuses to begin what could not be drawn.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        told = f"The report's plots need matplotlib, which is not installed ({INSTALL})."
        raise ValueError(told) from None


def drawn(name: str, says: str, size: Sequence[float], draw: Draw) -> Plot:
    """A plot in both forms.

    Args:
        name: of its file.
        says: what it shows.
        size: width and height in inches.
        draw: puts it on a figure.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style |= {"axes.edgecolor": INK, "axes.grid": True, "grid.alpha": 0.25, "grid.color": "#808080"}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    style |= {"font.family": "sans-serif", "font.size": 10, "svg.fonttype": "none"}
    style |= {"text.usetex": False}  # as a user's matplotlibrc may have it
    style |= {"svg.hashsalt": name, "axes.prop_cycle": matplotlib.cycler(color=COLOURS)}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=tuple(size), layout="constrained")
        draw(figure)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(png, format="png", dpi=130, facecolor="white")
    return Plot(name, says, _for_page(svg.getvalue(), name), png.getvalue())


def _for_page(svg: str, name: str) -> str:
    """The drawing alone, in the colour of the text around it, with ids of its own."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)


def front(measured: Figures, against: str) -> Optional[Plot]:
    """BLEU over speed or size; a line joins the systems that nothing beats in both.

    Args:
        measured: the evaluation's figures.
        against: ``speed`` (sentences a second in batches of 32) or ``size`` (parameters).
    """
    points = _speed_points(measured) if against == "speed" else _size_points(measured)
    if not points:
        return None

    def draw(figure: Any) -> None:
        """Draws the points and the line."""
        axes = figure.subplots()
        better = max if against == "speed" else min
        best = pareto([(x, y) for _, _, x, y in points], better is max)
        axes.plot(*zip(*best, strict=True), color="#808080", linewidth=1, linestyle="--", zorder=1)
        names = list(dict.fromkeys(name for name, *_ in points))
        for name, engine, x, y in points:
            colour = COLOURS[names.index(name) % len(COLOURS)]
            axes.scatter([x], [y], s=55, color=colour, marker=MARKERS[engine], zorder=2)
        _legend(figure, axes, names, {engine for _, engine, *_ in points}, against)
        axes.set(ylabel="BLEU", xscale="log")
        labels = {"speed": "sentences a second, batches of 32", "size": "parameters"}
        axes.set_xlabel(labels[against])
        axes.margins(0.12)
        _plain_ticks(axes, [x for _, _, x, _ in points])

    says = {"speed": "BLEU over sentences a second", "size": "BLEU over parameters"}[against]
    return drawn(f"front-{against}", f"{says}; a line joins what nothing beats", (5.6, 4), draw)


def pareto(points: Sequence["tuple[float, float]"], more: bool) -> List["tuple[float, float]"]:
    """The points that no other one beats in both: in height, and in x, of which more is better.

    Args:
        points: x and y of each.
        more: whether more of x is better, too; else less is.
    """
    kept, highest = [], float("-inf")
    for x, y in sorted(points, key=lambda each: (-each[0] if more else each[0], -each[1])):
        if y > highest:
            kept.append((x, y))
            highest = y
    return sorted(kept)


def _speed_points(measured: Figures) -> List["tuple[str, str, float, float]"]:
    speeds = (measured["speed"] or {}).get("systems", {})
    scores = measured["quality"]["scores"]
    found = []
    for name, by_engine in speeds.items():
        for engine, speed in by_engine.items():
            row = f"{name}, int8" if engine == INT8 else name
            if row in scores:
                bleu = scores[row]["BLEU"]["score"]
                found.append((name, engine, speed["batch_32"]["sentences_per_s"], bleu))
    return found


def _size_points(measured: Figures) -> List["tuple[str, str, float, float]"]:
    scores = measured["quality"]["scores"]
    return [
        (
            system["name"],
            FAIRSEQ,
            float(sum(system["parameters"].values())),
            scores[system["name"]]["BLEU"]["score"],
        )
        for system in measured["systems"]
    ]


def _legend(figure: Any, axes: Any, names: List[str], engines: "set[str]", against: str) -> None:
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
    """A legend below, in which names are plain text: a $ begins no formula, a _ hides no line."""
    numbers = [str(i) for i in range(len(names))]
    legend = figure.legend(handles, numbers, loc="outside lower center", ncols=2, fontsize=9)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _plain_ticks(axes: Any, values: Sequence[float]) -> None:
    """Labels the values themselves, as far as they do not stand too close."""
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


def by_bins(measured: Figures, which: str, heading: str) -> Plot:
    """BLEU of every system over the bins."""
    bins = measured["quality"][which]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        labels = [each["label"] for each in bins]
        for name in measured["quality"]["scores"]:
            dashed = "--" if name.endswith(", int8") else "-"
            heights = [each["bleu"][name] for each in bins]
            axes.plot(labels, heights, marker="o", markersize=4, linestyle=dashed)
        axes.set(ylabel="BLEU")
        axes.set_ylim(bottom=0)
        _legend_of_names(figure, axes.lines, list(measured["quality"]["scores"]))

    return drawn(which.replace("_", "-"), f"BLEU by {heading}", (5.6, 3.8), draw)


def training(name: str, trained: Figures) -> Optional[Plot]:
    """The curves of a stage: its losses, and below them what steers the distillation."""
    running, valid = trained["training"], trained["validation"]
    if len(running.get("update", ())) < 2:
        return None
    losses = [key for key in running if key.endswith("loss")]
    steering = [key for key in ("temperature", "agreement", "teacher_entropy") if key in running]

    def draw(figure: Any) -> None:
        """Draws the losses in the first panel, and a panel for each figure that steers."""
        panels = figure.subplots(1 + len(steering), 1, sharex=True, squeeze=False)[:, 0]
        for i, key in enumerate(losses):
            colour = COLOURS[i % len(COLOURS)]
            panels[0].plot(running["update"], running[key], color=colour, linewidth=1, label=key)
            if key in valid:
                panels[0].plot(
                    *(valid["update"], valid[key], "o"),
                    **{"color": colour, "markersize": 5, "label": f"{key}, validation"},
                )
        panels[0].set(ylabel="bits a token", yscale="log")
        panels[0].legend(fontsize=8, ncols=2)
        units = {"agreement": "agreement, %", "teacher_entropy": "teacher's\nentropy, bits"}
        for axes, key in zip(panels[1:], steering, strict=True):
            axes.plot(running["update"], running[key], color=COLOURS[0], linewidth=1)
            axes.set_ylabel(units.get(key, key))
        panels[-1].set_xlabel("updates")

    height = 2.8 + 1.1 * len(steering)
    return drawn(f"training-{slug(name)}", f"training of {name}", (5.6, height), draw)
