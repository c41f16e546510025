"""From a run file to its plan: sizes looked up, steps laid out, every command tried."""

import functools
import os
import re
import shlex
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from fairseq_kd import __version__
from fairseq_kd.hashes import sha256_of
from fairseq_kd.json_files import read_json
from fairseq_kd.locks import locked
from fairseq_kd.pipeline.data_check import check_fit, dictionaries_of
from fairseq_kd.pipeline.effects import check_effects
from fairseq_kd.pipeline.layout import CONTROLS, STUDENT, TEACHER, Layout
from fairseq_kd.pipeline.run_file import RunFile, Rung, read_run
from fairseq_kd.pipeline.starts import check_starts
from fairseq_kd.pipeline.state import (
    FORM,
    HASHES,
    RECIPE,
    REPLACED,
    STEPS,
    FileHashes,
    replaced_by,
)
from fairseq_kd.pipeline.training_check import check_training_command, complaint_told
from fairseq_kd.pipeline.workflow import FILE, LOCK, Plan, Step, read_plan, write_plan
from fairseq_kd.whole_files import check_apart, check_no_link

STRATEGY, FACTOR = "balanced", 0.7
RESERVED = (  # folders of a run that are no rung's
    *(TEACHER, *CONTROLS, STEPS, REPLACED, "data", "logs", "evaluation"),
    *("decoded", "translations", "plots"),  # of the evaluation
)
OF_SHARD = re.compile(r".+-[0-9]+-of-[0-9]+")
WRITTEN = (  # files and folders of a run, beside those of its steps
    *(STEPS, REPLACED, "logs", "history.md", "history.html", "report.md", "report.html"),
    *("evaluation.json", "decoded", "translations", "plots", HASHES),
)


def plan_run(path: Path, verbs: ArgumentParser, changes: Sequence[str] = ()) -> Plan:
    """The plan of a run file, by which alone its commands run.

    It is laid out each time, for ``plan.json`` in the folder of the run may be somebody else's. It
    only says what was checked: the commands are tried again if the file, its teacher or its data
    changed, or if that says something else.

    Args:
        path: of the file.
        verbs: the command line of fairseq-kd, by which the commands of the run are tried.
        changes: ``KEY=VALUE`` over what it says.

    Raises:
        FileNotFoundError: something that the file names is missing.
        ValueError: the file is wrong, or describes what cannot be built; or it has changed while a
            driver works by the plan that there is.
    """
    run = read_run(path, changes)
    kept = _kept_plan(run)
    made_from = {**_made_from(run), "changes": list(changes)}
    layout = lay_out(run)
    plan = Plan(str(run.folder), made_from, run.get("seed", 1), layout.steps)
    _check_apart(run, layout, plan)
    if kept is None and not _was_begun(run.folder):
        _refuse_what_is_there(run, [step.folder for step in layout.steps if step.folder])
    if plan != kept:
        check_steps(run, layout, verbs)
        with locked(run.folder / LOCK, str(run.folder)):
            write_plan(plan)
    return plan


def _kept_plan(run: RunFile) -> Optional[Plan]:
    """The plan in the folder of a run, in which there may be other files; None if there is none.

    Raises:
        ValueError: naming what is in the way.
    """
    check_apart(run.folder, folders_read(run), "run:")
    for name in WRITTEN:
        check_no_link(run.folder / name)
    if run.folder.exists() and not run.folder.is_dir():
        raise ValueError(f"run: {run.folder} must be a folder, but is a file. Give another path.")
    try:
        return read_plan(run.folder / FILE)
    except FileNotFoundError:
        there = WRITTEN
    except (OSError, ValueError, TypeError, KeyError):
        there = (FILE,)
    if not _was_begun(run.folder):
        _refuse_what_is_there(run, [str(run.folder / name) for name in there])
    return None


def _was_begun(folder: Path) -> bool:
    """Whether steps of a run were begun in a folder, by their records there."""
    for path in sorted((folder / STEPS).glob("*.json")):
        with suppress(OSError, ValueError):
            read_json(path, RECIPE if path.name.endswith(".recipe.json") else FORM, "")
            return True
    return False


def _refuse_what_is_there(run: RunFile, paths: Sequence[str]) -> None:
    """Refuses a new run in whose folder something has the name of what it would write."""
    for path in paths:
        if os.path.lexists(path):
            raise ValueError(
                f"run: {run.folder} holds {os.path.relpath(path, run.folder)}, which no run made. "
                "Move that away, or give another folder."
            )


def _check_apart(run: RunFile, layout: Layout, plan: Plan) -> None:
    """Refuses a run that reads from what one of its steps fills, and would move aside.

    Raises:
        ValueError: naming the step and the file.
    """
    read = {path: None for step in plan.steps for path in step.reads}
    read.update(dict.fromkeys([str(run.path), layout.user_dir, *folders_read(run).values()]))
    within = {
        place: path
        for path in filter(None, read)
        for start in (Path(os.path.abspath(path)), Path(os.path.realpath(path)))
        for place in (start, *start.parents)
    }
    for step in plan.steps:
        for own in replaced_by(plan, step):
            path = within.get(Path(os.path.abspath(own)), within.get(Path(os.path.realpath(own))))
            if path is not None:
                raise ValueError(
                    f"run: {run.folder} has {path} in {own}, which the step {step.name} makes, "
                    "but the run reads it. Choose another folder for the run."
                )


def folders_read(run: RunFile) -> Dict[str, Optional[str]]:
    """The folder of the text or the data of a run, by the key that names it."""
    return {"data:": run.data if isinstance(run.data, str) else run.data.get("text")}


def lay_out(run: RunFile) -> Layout:
    """The steps of a run.

    Raises:
        FileNotFoundError: something that the run needs is missing.
        ValueError: a name is taken, or a setting is without effect.
    """
    layout = Layout(run)
    blueprint = functools.cache(lambda: _blueprint(run, layout))
    rungs = _rungs(run, layout, blueprint)
    check_effects(run, rungs, layout.teachers)
    layout.add_ladder(rungs, _sizes(run, layout, rungs, blueprint))
    return layout


def check_steps(run: RunFile, layout: Layout, verbs: ArgumentParser) -> None:
    """Tries every command of a run.

    Args:
        run: the run file.
        layout: of its steps.
        verbs: the command line of fairseq-kd.

    Raises:
        FileNotFoundError: something that the run needs is missing.
        ValueError: fairseq or one of our verbs would refuse a command when its turn comes.
    """
    trainings: Dict[str, Dict[str, Any]] = {}
    for step in layout.steps:
        if step.kind == "train":
            trainings[step.name] = check_training_command(step.commands[0])
        elif step.kind != "prepare":
            _check_verb(run, step, verbs)
    check_starts(run.path, layout.steps, trainings)
    check_fit(run, layout, trainings)


def _made_from(run: RunFile) -> Dict[str, Any]:
    hashes = FileHashes(run.folder / HASHES)
    given = run.teacher if isinstance(run.teacher, list) else []
    data = Path(run.data) if isinstance(run.data, str) else None
    files = sorted(data.iterdir()) if data and data.is_dir() else []
    words = [path for path in files if path.name.startswith("dict.")]
    sets = [path for path in files if path.suffix == ".idx"]
    return {
        "file": str(run.path),
        "sha256": sha256_of([run.path]),
        "version": __version__,
        "started in": str(Path.cwd()),
        "teachers": {path: hashes.of(path) for path in given if Path(path).is_file()},
        "data": [path.name for path in files],
        "dictionaries": [sha256_of([path]) for path in words],
        "sizes": {path.name: hashes.of(str(path)) for path in sets},
    }


def _rungs(run: RunFile, layout: Layout, blueprint: Callable[[], Any]) -> List[Rung]:
    """The rungs below the teacher, with their names.

    Args:
        run: the run file.
        layout: of its text and its teachers.
        blueprint: looks up what the teacher is made of.
    """
    rungs = run.ladder
    if rungs is None:
        rungs = [Rung("", ratio, None, {}) for ratio in _ratios(run, layout, blueprint)]
    if rungs[0].ratio == 1:  # the teacher itself
        rungs = rungs[1:]
    if not rungs:
        raise ValueError(f"{run.path}: the ladder has no rung below the teacher. Add one, as 0.5.")
    named = [_named(rung, i == len(rungs) - 1) for i, rung in enumerate(rungs)]
    _check_names(run, [*layout.models, *(rung.name for rung in named)])
    return named


def _ratios(run: RunFile, layout: Layout, blueprint: Callable[[], Any]) -> List[float]:
    """The ladder that ``target`` or ``parameters`` asks for."""
    from fairseq_kd.sizing.budgets import ladder_within
    from fairseq_kd.sizing.ladder import buildable, ratios_to

    strategy, factor = run.get("strategy", STRATEGY), run.get("factor", FACTOR)
    if "target" in run.other:
        return buildable(blueprint().size, ratios_to(run.other["target"], factor), strategy)
    if None in blueprint().words:
        prepare = shlex.join(layout.corpus.step.commands[0]) if layout.corpus.step else ""
        raise ValueError(
            f"{run.path}: parameters cannot be counted before the text is prepared. Run {prepare} "
            "first, or say target instead."
        )
    limit = run.other["parameters"]
    return ladder_within(blueprint(), limit, strategy, factor, f"{run.path}: parameters")


def _sizes(
    run: RunFile, layout: Layout, rungs: List[Rung], blueprint: Callable[[], Any]
) -> List[List[str]]:
    """For each rung the flags that make fairseq-train build its size."""
    ratios = [rung.ratio for rung in rungs if rung.ratio is not None]
    by_ratio: Iterator[List[str]] = iter([])
    if ratios:
        from fairseq_kd.sizing import ladder

        whole = blueprint()
        strategy = run.get("strategy", STRATEGY)
        sizes = ladder.rungs(whole.size, ladder.checked_ladder(ratios), strategy)
        by_ratio = iter([whole.flags(size) for size in sizes[-len(ratios) :]])
    return [layout.arch_flags(rung.arch) if rung.arch else next(by_ratio) for rung in rungs]


def _named(rung: Rung, last: bool) -> Rung:
    name = rung.name or (STUDENT if last else "")
    if not name:
        name = f"rung-{rung.ratio * 100:.0f}" if rung.ratio is not None else rung.arch or ""
    return Rung(name, rung.ratio, rung.arch, rung.settings)


def _check_names(run: RunFile, names: List[str]) -> None:
    for name in names:
        if OF_SHARD.fullmatch(name):
            raise ValueError(
                f"{run.path}: a rung is called {name}, as the shards of a step are. Give it "
                "another name."
            )
        if names.count(name) > 1 or (name in RESERVED and name != TEACHER):
            raise ValueError(
                f"{run.path}: a rung is called {name}, as is another part of the run. Give it "
                "another name."
            )


def _blueprint(run: RunFile, layout: Layout) -> Any:
    """What the first teacher is made of."""
    from fairseq_kd.sizing.structure import Blueprint

    if isinstance(run.teacher, list):
        return Blueprint.of_checkpoint(run.teacher[0], f"{run.path}: the teacher")
    command = next(step.commands[0] for step in layout.steps if step.name == TEACHER)
    args = Namespace(**check_training_command(command))
    return Blueprint(args, _words(layout), f"{run.path}: the teacher {run.teacher['arch']}")


def _words(layout: Layout) -> Tuple[Optional[int], Optional[int]]:
    """The sizes of the dictionaries; None while the text is not prepared."""
    dictionaries = dictionaries_of(layout)
    return (len(dictionaries[0]), len(dictionaries[1])) if dictionaries else (None, None)


def _check_verb(run: RunFile, step: Step, verbs: ArgumentParser) -> None:
    """Refuses a command of ours whose flags are none, are out of range or have no effect.

    Raises:
        ValueError: naming the step.
    """
    for command in step.commands:
        refused = f"{run.path}: fairseq-kd {command[1]} does not understand the step {step.name}"
        with complaint_told(refused, command):
            args = verbs.parse_args(command[1:])
        try:
            if hasattr(args, "check"):
                args.check(args)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{run.path}: the step {step.name} is refused: {error}") from None
