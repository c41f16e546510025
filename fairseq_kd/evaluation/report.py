"""The report of an evaluation: what was gained, how it was measured, and how to repeat it."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Union

from fairseq_kd.evaluation import deployment, plots, tables
from fairseq_kd.evaluation.document import Code, Plot, Section, markdown_page, markdown_table
from fairseq_kd.evaluation.page import html_page
from fairseq_kd.evaluation.scores import TESTABLE
from fairseq_kd.evaluation.tables import Figures
from fairseq_kd.evaluation.variants import FAIRSEQ, INT8
from fairseq_kd.json_files import read_json
from fairseq_kd.sequence.shards import WHOLE
from fairseq_kd.whole_files import check_apart, check_no_link, make_folder, written_whole

TITLE = "What the distillation gained"
PLOTS, FIGURES = "plots", "evaluation.json"
FOLDERS = (PLOTS, "translations", "decoded")
WRITTEN = (FIGURES, "report.md", "report.html", *FOLDERS)
DECODED = re.compile(r".+-[0-9a-f]{16}")  # a folder of the translations of a system
NAME = r"[\w.-]*\w[\w.-]*"
REPLACEABLE = re.compile(
    rf"{PLOTS}/{NAME}\.png|translations/{NAME}\.txt|decoded/{NAME}/{re.escape(WHOLE)}"
)
QUIET = 0.1  # the drift between rounds of a machine that does nothing else


def write_report(out: Path, measured: Figures) -> str:
    """Writes ``evaluation.json``, ``report.html``, ``report.md`` and the drawings of the latter.

    What an earlier evaluation wrote into the folder and this one did not is removed.

    Args:
        out: the folder.
        measured: what ``Evaluation.run`` returned.

    Returns:
        The first table, for a terminal.
    """
    make_folder(out)
    files, earlier = measured["files"], _replaceable_files(out)
    _write_figures(out, measured, {*files, *earlier})  # before anything is drawn
    page = sections(measured)
    drawn = [block for each in page for block in each.blocks if isinstance(block, Plot)]
    plots_of = {f"{PLOTS}/{plot.name}.png": plot for plot in drawn}
    files = [*files, *plots_of]
    _write_figures(out, measured, {*files, *earlier})  # a kill must lose no name of them
    with written_whole(out / "report.md") as file:
        file.write(markdown_page(TITLE, page, PLOTS))
    with written_whole(out / "report.html") as file:
        file.write(html_page(TITLE, cards(measured), page))
    make_folder(out / PLOTS)
    for name, plot in plots_of.items():
        with written_whole(out / name, "wb") as file:
            file.write(plot.png)
    for name in set(earlier) - set(files):
        (out / name).unlink(missing_ok=True)
        if name.startswith("decoded/"):
            with suppress(OSError):  # something else lies in it
                (out / name).parent.rmdir()
    _write_figures(out, measured, set(files))
    table = tables.overview(measured)
    return markdown_table(table.columns, table.rows)


def _write_figures(out: Path, measured: Figures, files: Set[str]) -> None:
    with written_whole(out / FIGURES) as file:
        json.dump({**measured, "files": sorted(files)}, file, indent=1)


def _replaceable_files(out: Path) -> List[str]:
    """What an earlier evaluation wrote into the folder under names that a later one may not use."""
    try:
        found = read_json(out / FIGURES, object, "")
    except (OSError, ValueError):  # there is none, or it is somebody else's
        return []
    names = found.get("files", []) if isinstance(found, dict) else []
    return [name for name in names if isinstance(name, str) and REPLACEABLE.fullmatch(name)]


def check_out(out: Path, data: Path) -> None:
    """Refuses a folder for the report in which something else than an evaluation would be replaced.

    Args:
        out: the folder; other files may be in it.
        data: what is evaluated on.

    Raises:
        ValueError: something is in the place of a file of the report, or a folder of it is a link
            to elsewhere.
    """
    check_apart(out, {"--data": data})
    for folder in (*(out / name for name in FOLDERS), *(out / "decoded").glob("*")):
        check_no_link(folder)
    if _is_evaluations(out):
        return
    for name in WRITTEN:
        if os.path.lexists(out / name):
            raise ValueError(
                f"--out {out} holds {name}, which no evaluation made. Move it, or choose another."
            )


def _is_evaluations(out: Path) -> bool:
    """Whether an evaluation was written into a folder, or was begun there."""
    try:
        figures = read_json(out / FIGURES, object, "")
        return isinstance(figures, dict) and figures.keys() >= {"made", "systems", "quality"}
    except FileNotFoundError:
        names = os.listdir(out / "decoded") if (out / "decoded").is_dir() else []
        later = [name for name in WRITTEN[:4] if os.path.lexists(out / name)]
        return bool(names) and all(map(DECODED.fullmatch, names)) and not later
    except (OSError, ValueError):
        return False


def sections(measured: Figures) -> List[Section]:
    """The sections of the report."""
    found = [_summary(measured), _quality(measured), _bins(measured), _behaviour(measured)]
    found += [_size(measured), _speed(measured), _memory(measured), _deployment(measured)]
    return [*found, _training(measured), _commands(measured)]


def cards(measured: Figures) -> List["tuple[str, str]"]:
    """The last student's gains in a few figures, each with what it is."""
    student = deployment.students(measured)[-1]
    name, teacher = student["name"], measured["systems"][0]
    scores = measured["quality"]["scores"]
    found = [(tables.kept(measured, name, "BLEU"), f"of the teacher's BLEU kept by {name}")]
    control = fairest_control(measured, student)
    if control is not None:
        more = scores[name]["BLEU"]["score"] - scores[control["name"]]["BLEU"]["score"]
        found.append((f"{more:+.1f}", f"BLEU over {control['name']}, {_updates(control, student)}"))
    fewer = sum(student["parameters"].values()) / sum(teacher["parameters"].values())
    found.append((f"{fewer:.0%}", "of the teacher's parameters"))
    for engine, both in ((INT8, "both in int8"), (FAIRSEQ, "int8 against fairseq")):
        faster = deployment.int8_speed_up(measured, student, engine)
        if faster is not None:
            found.append((f"{faster:.1f}x", f"the teacher's speed, {both}, batches of 32"))
    return found


def fairest_control(measured: Figures, student: Figures) -> Optional[Figures]:
    """The control that a student's gain is told against, if there is one.

    Of those with at least as many updates behind their weights as the student the best; else the
    one with the most.
    """
    controls = [each for each in measured["systems"] if each["role"] == "control"]
    scores = measured["quality"]["scores"]
    fair = [each for each in controls if is_fair(each, student)]
    if fair:
        return max(fair, key=lambda each: scores[each["name"]]["BLEU"]["score"])
    return max(controls, key=lambda each: each["updates_behind"] or 0, default=None)


def is_fair(control: Figures, student: Figures) -> bool:
    """Whether a control is known to have at least as many updates behind its weights."""
    counts = [each["updates_behind"] for each in (control, student)]
    return None not in counts and counts[0] >= counts[1]


def _updates(control: Figures, student: Figures) -> str:
    """How many updates stand behind the weights of a control, and of the student beside it."""
    counts = [each["updates_behind"] for each in (control, student)]
    if None in counts:
        unknown = student["name"] if counts[1] is None else control["name"]
        return f"with an unknown number of updates behind the weights of {unknown}"
    if counts[0] == counts[1]:
        return f"with as many updates behind its weights ({counts[0]:,})"
    theirs = f"where {student['name']} has {counts[1]:,}"
    return f"with {counts[0]:,} updates behind its weights, {theirs}"


def _summary(measured: Figures) -> Section:
    made = measured["made"]
    text = (
        f"{made['sentences']:,} sentences of {made['subset']}, {'-'.join(made['pair'])}. "
        "*updates* are those of a system's own training; *updates behind* also count those of the "
        "weights that it started from (- where that is not known): only systems that are equal "
        "there show what distillation gained. *kept* is the share of the teacher's BLEU. *speed* "
        "is how many times more sentences a second a system translates than the teacher, in "
        "batches of 32: int8 in CTranslate2, all others in fairseq, on "
        f"{_threads(made['threads'])}; once against the teacher in the same engine and type, once "
        "against the teacher in fairseq, which adds what the engine gains."
    )
    fronts = (_drawn(plots.front, measured, each) for each in ("speed", "size"))
    where = f"{made['machine']}; {made['date']}, fairseq_kd {made['version']}, {made['versions']}."
    drawn = [plot for plot in fronts if plot is not None]
    return Section("", [text, tables.overview(measured), *drawn, where])


def _quality(measured: Figures) -> Section:
    quality, made = measured["quality"], measured["made"]
    signatures = "; ".join(f"{name} `{each}`" for name, each in quality["signatures"].items())
    blocks = [
        f"By sacreBLEU on detokenised text, beam {made['beam']}, with half the 95 % interval. "
        f"References: {made['references']}. Of TER, less is better.",
        tables.quality(measured),
    ]
    tested = (
        f", and its p-value by paired bootstrap ({made['samples']:,} resamples); * where p < 0.05."
    )
    if not tables.testable(measured):
        tested = f": of fewer than {TESTABLE} sentences, it cannot be tested for significance."
    student = deployment.students(measured)[-1]
    for base in measured["systems"]:
        table = base["name"] in quality["p"] and tables.significance(measured, base["name"])
        if table:
            fair = f", {_updates(base, student)}" if base["role"] == "control" else ""
            blocks += [f"Difference to {base['name']}{fair}{tested}", table]
    return Section("Quality", [*blocks, signatures])


def _bins(measured: Figures) -> Section:
    return Section(
        "Where quality is lost",
        [
            "BLEU by words of the source, and by the share of its words that are rare: split by "
            "BPE, or unknown. In brackets, sentences.",
            tables.by_bins(measured, "by_length", "source"),
            tables.by_bins(measured, "by_rare", "source"),
            _drawn(plots.by_bins, measured, "by_length", "words of the source"),
            _drawn(plots.by_bins, measured, "by_rare", "share of rare words"),
        ],
    )


def _behaviour(measured: Figures) -> Section:
    return Section(
        "How translations go wrong",
        [
            "*copied*: translations that are their source; *repeating*: those in which four words "
            "come again; *length ratio*: words for one of the reference; *agreement*: tokens of "
            "the reference for which the likeliest word is the teacher's.",
            tables.behaviour(measured),
        ],
    )


def _size(measured: Figures) -> Section:
    blocks: List[Any] = [
        "Parameters; what is shared counts once. A checkpoint also holds the optimiser's state.",
        tables.size(measured),
    ]
    for system in measured["systems"]:
        if system["refusal"]:
            blocks.append(f"{system['name']}: {system['refusal']}.")
    return Section("Size", blocks)


def _speed(measured: Figures) -> Section:
    if measured["speed"] is None:
        return Section("Speed")
    made, speed = measured["made"], measured["speed"]
    return Section(
        "Speed",
        [
            f"Latency: {speed['alone']} sentences, one by one, on "
            f"{_threads(made['latency_threads'])}; median and 95th percentile. Throughput: "
            f"{speed['together']} sentences in batches of 32 and of 128, on "
            f"{_threads(made['threads'])}. Warmed up, all systems in turns, the median of the "
            f"rounds. {_steadiness(speed)}",
            tables.speed(measured),
        ],
    )


def _steadiness(speed: Figures) -> str:
    """Whether the machine was quiet, as far as the rounds can tell."""
    if speed["rounds"] < 2:
        return "One round cannot tell whether the machine was quiet."
    drift = max(each["drift"] for by in speed["systems"].values() for each in by.values())
    told = f"The slowest round of a system took {drift:.0%} longer than its fastest"
    if drift <= QUIET:
        return f"{told}: the machine was quiet."
    return (
        f"{told}: the machine was not quiet. The systems, which took turns, can be compared with "
        "one another, but not with another report."
    )


def _memory(measured: Figures) -> Section:
    if measured["memory"] is None:
        return Section("Memory")
    inference, training = tables.memory(measured)
    return Section(
        "Memory",
        [
            "Translating a batch of 32, and one update of a batch of 1,000 tokens with Adam: "
            "what is loaded (the weights; of CTranslate2, what its process holds then), "
            "and with it what the work adds at its peak, each in a process of its own.",
            inference,
            training,
        ],
    )


def _deployment(measured: Figures) -> Section:
    blocks: List[Any] = []
    for student in deployment.students(measured):
        blocks.append(deployment.goals(measured, student))
        uses = deployment.uses(measured, student)
        if uses is not None:
            blocks.append(uses)
    if blocks:
        blocks.insert(
            0,
            "Latency is that of this machine; a phone is slower. *smaller* is in parameters, "
            "against the teacher.",
        )
    return Section("In use", blocks)


def _training(measured: Figures) -> Section:
    trained: Dict[str, Any] = measured["training"]
    drawn = [_drawn(plots.training, name, each) for name, each in trained.items() if each]
    kept = [plot for plot in drawn if plot is not None]
    if not kept:
        return Section("Training")
    told = (
        "Lines: the running training; dots: validation. Losses in bits a token, each term as its "
        "log has it; nll_loss is the student's own."
    )
    return Section("Training", [told, *kept])


def _commands(measured: Figures) -> Section:
    blocks: List[Any] = []
    trained: Dict[str, Any] = measured["training"]
    for name, training in trained.items():
        if training and training["command"]:
            blocks += [f"{name}:", Code(tables.wrapped(training["command"]))]
    return Section("Commands", blocks)


def _drawn(plot: Callable[..., Optional[Plot]], *args: Any) -> Union[Plot, str, None]:
    """A plot, or a sentence where it fails: no figure is lost for want of its picture."""
    try:
        return plot(*args)
    except Exception as error:  # matplotlib's are of many kinds
        return f"A plot could not be drawn ({' '.join(str(error).split())})."


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"
