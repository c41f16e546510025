"""Writes the report of an evaluation, as one HTML page and as Markdown, from its results."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, List, Optional, Set

from fairseq_kd.decoding.decode import DECODING_FILE
from fairseq_kd.decoding.hypothesis_files import WHOLE
from fairseq_kd.evaluation import plots, tables
from fairseq_kd.evaluation.pages import (
    Block,
    Code,
    Plot,
    Searchable,
    Section,
    html_page,
    markdown_page,
    markdown_table,
)
from fairseq_kd.evaluation.results import (
    IN_INT8,
    METRICS,
    TESTABLE,
    EvaluationResult,
    Setup,
    SpeedResult,
    SystemResult,
    compared_controls,
    fairest_control,
    fairseq_on,
)
from fairseq_kd.evaluation.side_by_side import largest_losses, side_by_side
from fairseq_kd.files.atomic_files import atomic_write, check_apart, check_no_link, make_folder
from fairseq_kd.files.json_files import read_json
from fairseq_kd.files.names import as_code

TITLE = "Evaluation of the distillation"
PLOTS, RESULTS = "plots", "evaluation.json"
FOLDERS = (PLOTS, "translations", "decoded")
WRITTEN = (RESULTS, "report.md", "report.html", *FOLDERS)
DECODED = re.compile(r".+-[0-9a-f]{16}")  # a folder with the translations of a system
NAME = r"[\w.-]*\w[\w.-]*"
REPLACEABLE = re.compile(
    rf"{PLOTS}/{NAME}\.png|translations/{NAME}\.txt|"
    rf"decoded/{NAME}/({re.escape(WHOLE)}|{re.escape(DECODING_FILE)})"
)
_DEVICE = {"cpu": "CPU", "cuda": "GPU"}
IDLE = 0.1  # largest drift between rounds on a machine without other load


def write_report(out: Path, result: EvaluationResult) -> str:
    """Writes ``evaluation.json``, ``report.html``, ``report.md`` and the plots of the latter.

    Files of an earlier evaluation in the folder that are not part of this one are removed.

    Args:
        out: the folder.
        result: what ``Evaluation.run`` returned.

    Returns:
        The first table, for a terminal.
    """
    make_folder(out)
    files, earlier = result.files, _replaceable_files(out)
    _write_result(out, result, {*files, *earlier})  # before anything is drawn
    page = sections(result)
    drawn = [block for each in page for block in each.blocks if isinstance(block, Plot)]
    plots_by_file = {f"{PLOTS}/{plot.name}.png": plot for plot in drawn}
    files = [*files, *plots_by_file]
    _write_result(out, result, {*files, *earlier})  # lists every file, should the process be killed
    with atomic_write(out / "report.md") as file:
        file.write(markdown_page(TITLE, page, PLOTS))
    with atomic_write(out / "report.html") as file:
        file.write(html_page(TITLE, cards(result), page))
    make_folder(out / PLOTS)
    for name, plot in plots_by_file.items():
        with atomic_write(out / name, "wb") as file:
            file.write(plot.png)
    for name in set(earlier) - set(files):
        (out / name).unlink(missing_ok=True)
        if name.startswith("decoded/"):
            with suppress(OSError):  # the folder has other files
                (out / name).parent.rmdir()
    _write_result(out, result, set(files))
    table = tables.overview(result)
    return markdown_table(table.columns, table.rows)


def _write_result(out: Path, result: EvaluationResult, files: Set[str]) -> None:
    with atomic_write(out / RESULTS) as file:
        json.dump({**result.to_json(), "files": sorted(files)}, file, indent=1)


def _replaceable_files(out: Path) -> List[str]:
    """The files that an earlier evaluation wrote into the folder, of kinds that may be removed."""
    try:
        content = read_json(out / RESULTS, object, "")
    except (OSError, ValueError):  # missing, or written by another program
        return []
    names = content.get("files", []) if isinstance(content, dict) else []
    return [name for name in names if isinstance(name, str) and REPLACEABLE.fullmatch(name)]


def check_out(out: Path, data: Path) -> None:
    """Checks that a report in this folder replaces nothing but an earlier report.

    Args:
        out: the folder; other files may be in it.
        data: the folder of the data.

    Raises:
        ValueError: another program wrote a file or folder with a name of the report's, or a folder
            of the report is a link.
    """
    check_apart(out, {"--data": data})
    for folder in (*(out / name for name in FOLDERS), *(out / "decoded").glob("*")):
        check_no_link(folder)
    if _has_evaluation(out):
        return
    for name in WRITTEN:
        if os.path.lexists(out / name):
            raise ValueError(
                f"--out {out} holds {name}, which was not made by an evaluation. Move it, or "
                "choose another folder."
            )


def _has_evaluation(out: Path) -> bool:
    """Whether an evaluation was finished or started in a folder."""
    try:
        content = read_json(out / RESULTS, object, "")
        return isinstance(content, dict) and content.keys() >= {"made", "systems", "quality"}
    except FileNotFoundError:
        names = os.listdir(out / "decoded") if (out / "decoded").is_dir() else []
        later = [name for name in WRITTEN[:4] if os.path.lexists(out / name)]
        return bool(names) and all(map(DECODED.fullmatch, names)) and not later
    except (OSError, ValueError):
        return False


def sections(result: EvaluationResult) -> List[Section]:
    """The sections of the report."""
    parts = (_summary, _quality, _ratings, _bins, _error_rates, _translations, _size, _speed)
    return [part(result) for part in (*parts, _memory, _deployment, _training, _commands)]


def cards(result: EvaluationResult) -> List["tuple[str, str]"]:
    """A few figures of the last student's gains, each with a description."""
    student, teacher = result.with_role("student")[-1], result.teacher
    name = student.name
    shown = [(tables.score_kept(result, name), f"of the teacher's BLEU kept by {name}")]
    for control in compared_controls(result, student):
        gain = result.score(name) - result.score(control.name)
        shown.append((f"{gain:+.1f}", f"BLEU over {control.name}, {_updates(control, student)}"))
    share = student.total_parameters / teacher.total_parameters
    shown.append((f"{share:.0%}", "of the teacher's parameters"))
    int8 = result.measured_engine(name, IN_INT8)
    for engine, engines in ((int8, "both in int8"), (fairseq_on(int8), "int8 against fairseq")):
        faster = tables.speed_up(result, name, int8, engine)
        if faster is not None:
            shown.append((f"{faster:.1f}x", f"the teacher's speed, {engines}, batches of 32"))
    return shown


def _updates(control: SystemResult, student: SystemResult) -> str:
    """The number of updates behind the weights of a control, compared with the student's."""
    counts = control.updates_behind, student.updates_behind
    if None in counts:
        unknown = student.name if counts[1] is None else control.name
        return f"with an unknown total number of updates of {unknown}"
    if counts[0] == counts[1]:
        return f"with the same total number of updates ({counts[0]:,})"
    return f"with {counts[0]:,} updates in total, while {student.name} has {counts[1]:,}"


def _summary(result: EvaluationResult) -> Section:
    made = result.made
    text = (
        f"{made.sentences:,} sentences of {made.subset}, {'-'.join(made.pair)}. "
        "*updates* are those of a system's own training; *updates behind* also count those of the "
        "weights that its training started from (- if unknown): only systems with equal numbers "
        "show what distillation gained. *kept* is the share of the teacher's BLEU. *speed* is the "
        "number of sentences per second over the teacher's, in batches of 32: int8 in CTranslate2, "
        f"all others in fairseq, on {_devices(made, made.threads)}. It is given against the "
        "teacher in the same engine and type, and against the teacher in fairseq, which adds the "
        "gain from the engine."
    )
    drawn = ["BLEU", *(name for name in result.quality.signatures if name not in METRICS)]
    fronts = [
        block
        for metric in drawn
        for against in ("speed", "size")
        for block in _drawn(plots.front, result, against, metric)
    ]
    where = f"{made.machine}; {made.date}, fairseq_kd {made.version}, {made.versions}."
    return Section("", [text, tables.overview(result), *fronts, where])


def _quality(result: EvaluationResult) -> Section:
    quality, made = result.quality, result.made
    signatures = "; ".join(f"{name} {as_code(each)}" for name, each in quality.signatures.items())
    blocks: List[Block] = [
        f"By sacreBLEU on detokenised text, beam {made.beam}, with half the 95 % interval. "
        f"References: {made.references}. For TER, less is better.",
        tables.quality(result),
    ]
    test = f", and its p-value by paired bootstrap ({made.samples:,} resamples); * where p < 0.05."
    if not result.testable:
        test = f": with fewer than {TESTABLE} sentences, it cannot be tested for significance."
    student = result.with_role("student")[-1]
    for base in result.systems:
        table = tables.significance(result, base.name) if base.name in quality.p else None
        if table is not None:
            updates = f", {_updates(base, student)}" if base.role == "control" else ""
            blocks += [f"Difference to {base.name}{updates}{test}", table]
    return Section("Quality", [*blocks, signatures])


def _ratings(result: EvaluationResult) -> Section:
    rated, student = result.ratings, result.with_role("student")[-1].name
    if rated is None:
        return Section("Human ratings")
    text = (
        f"{rated.raters} {'rater' if rated.raters == 1 else 'raters'}, {rated.sentences:,} "
        "sentences, systems shuffled and without names. Fluency and adequacy from 1 to 5; "
        "*preferred*: share of the sentences with a preferred translation where it was this one. "
        f"*p*: sign test of the difference in fluency plus adequacy from {student}."
    )
    return Section("Human ratings", [text, tables.ratings(rated)])


def _bins(result: EvaluationResult) -> Section:
    by_length, by_rare = result.quality.by_length, result.quality.by_rare
    return Section(
        "Where quality is lost",
        [
            "BLEU by number of words of the source, and by the share of its words that are rare: "
            "split by BPE, or unknown. In brackets, the number of sentences.",
            tables.by_bins(by_length, "source"),
            tables.by_bins(by_rare, "source"),
            *_drawn(plots.by_bins, by_length, "by-length", "words of the source"),
            *_drawn(plots.by_bins, by_rare, "by-rare", "share of rare words"),
        ],
    )


def _error_rates(result: EvaluationResult) -> Section:
    return Section(
        "Error types",
        [
            "*copied*: translations that equal their source; *repeating*: translations that repeat "
            "four words; *length ratio*: words of the translations per word of the references; "
            "*agreement*: share of reference tokens for which system and teacher have the same "
            "most probable token; *detached*: translations for which at least one of five other "
            "references is as near, by chrF, as their own; *memorised*: translations of at "
            "least four words that are target sentences of the training set and not the "
            "reference (- without --training).",
            tables.error_rates(result),
        ],
    )


def _translations(result: EvaluationResult) -> Section:
    """Sentences of which the student's translation is much worse or better than another one."""
    student, teacher, sentences = result.with_role("student")[-1], result.teacher, result.sentences
    if not sentences:
        return Section("Translations")
    blocks: List[Block] = [
        "In brackets, the chrF of the sentence; words that the reference does not have there are "
        "highlighted."
    ]
    control = fairest_control(result, student)
    pairs = [("loses most", teacher.name, student.name)]
    pairs += [("gains most", student.name, control.name)] if control is not None else []
    for kind, better, worse in pairs:
        other = better if worse == student.name else worse
        listed = largest_losses(sentences, worse, better)
        if listed:
            blocks.append(f"Where {student.name} {kind}, compared with {other}:")
            blocks += [side_by_side(each, (student.name, other)) for each in listed]
    part = "All" if len(sentences) == result.made.sentences else "Evenly spread"
    every = [side_by_side(each) for each in sentences]
    return Section(
        "Translations", [*blocks, Searchable(f"{part} {len(sentences):,} sentences", every)]
    )


def _size(result: EvaluationResult) -> Section:
    text = "Parameters; shared ones count once. A checkpoint also has the state of the optimizer."
    refusals = [f"{each.name}: {each.refusal}." for each in result.systems if each.refusal]
    return Section("Size", [text, tables.size(result), *refusals])


def _speed(result: EvaluationResult) -> Section:
    if result.speed is None:
        return Section("Speed")
    made, speed = result.made, result.speed
    text = (
        f"Latency: {speed.alone} sentences, one by one, on {_devices(made, made.latency_threads)}; "
        f"median and 95th percentile. Throughput: {speed.together} sentences in batches of 32 and "
        f"of 128, on {_devices(made, made.threads)}. Measured after a warm-up, all systems in "
        f"turns; the median of the rounds. {_drift(speed)}"
    )
    return Section("Speed", [text, tables.speed(result)])


def _drift(speed: SpeedResult) -> str:
    """Whether the machine was idle, as far as the rounds show."""
    if speed.rounds < 2:
        return "One round cannot show whether the machine was idle."
    drift = max(each.drift for by in speed.systems.values() for each in by.values())
    text = f"The slowest round of a system took {drift:.0%} longer than its fastest"
    if drift <= IDLE:
        return f"{text}: the machine was idle."
    return (
        f"{text}: the machine was not idle. The systems, which took turns, can be compared with "
        "one another, but not with another report."
    )


def _memory(result: EvaluationResult) -> Section:
    if result.memory is None:
        return Section("Memory")
    text = (
        "Of translating a batch of 32, and of one update with Adam on a batch of 1,000 tokens: "
        "what is loaded (the weights; for CTranslate2, the memory of its process after loading), "
        "and the peak of the work, including what is loaded. Each was measured in a process of "
        f"its own; training on the {_DEVICE[result.memory.trained_on]}. Memory of a GPU is that of "
        "the whole device."
    )
    return Section("Memory", [text, *tables.memory(result.memory)])


def _deployment(result: EvaluationResult) -> Section:
    text = (
        "Latency is that of this machine; a phone is slower. *smaller* is the teacher's number of "
        "parameters over the student's."
    )
    students = result.with_role("student")
    blocks = [part(result, each) for each in students for part in (tables.gains, tables.targets)]
    return Section("Deployment", [text, *filter(None, blocks)])


def _training(result: EvaluationResult) -> Section:
    curves = {name: each for name, each in result.training.items() if each}
    drawn = [block for name, each in curves.items() for block in _drawn(plots.training, name, each)]
    text = (
        "Lines: training; dots: validation. Losses in bits per token, each term as the log has "
        "it; nll_loss is the student's own."
    )
    return Section("Training", [text, *drawn] if drawn else [])


def _commands(result: EvaluationResult) -> Section:
    blocks: List[Block] = []
    for name, curves in result.training.items():
        if curves and curves.command:
            blocks += [f"{name}:", Code(tables.wrapped(curves.command))]
    return Section("Commands", blocks)


def _drawn(plot: Callable[..., Optional[Plot]], *args: Any) -> List[Block]:
    """A plot, nothing if there is none, or a sentence if drawing fails.

    The report is written in each case.
    """
    try:
        return [each for each in [plot(*args)] if each is not None]
    except Exception as error:  # those of matplotlib have no common class
        return [f"A plot could not be drawn ({' '.join(str(error).split())})."]


def _devices(made: Setup, threads: int) -> str:
    """The devices of a measurement."""
    cpu = "one thread" if threads == 1 else f"{threads} threads"
    names = {"cpu": f"{cpu} of the CPU", "cuda": "one GPU"}
    return " and on ".join(names[each] for each in made.measured_on)
