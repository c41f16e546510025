"""From a run file to its plan: sizes looked up, steps laid out, every training command tried."""

import functools
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from fairseq_kd import __version__
from fairseq_kd.hashes import sha256_of
from fairseq_kd.progressive.layout import ONE_STEP, STUDENT, TEACHER, UNDISTILLED, Layout
from fairseq_kd.progressive.run_file import INHERIT, RunFile, Rung, read_run
from fairseq_kd.progressive.state import HASHES, FileHashes
from fairseq_kd.progressive.steps import FILE, Plan, read_plan, write_plan
from fairseq_kd.progressive.training_command import check_training_command

STRATEGY, FACTOR = "balanced", 0.7
RESERVED = (TEACHER, UNDISTILLED, ONE_STEP, "data", "evaluation", "logs", "steps", "replaced")


def plan_run(path: Path, changes: Sequence[str] = ()) -> Plan:
    """The plan of a run file; it is laid out anew if the file, its teacher or its data changed.

    Args:
        path: of the file.
        changes: ``KEY=VALUE`` over what it says.

    Raises:
        FileNotFoundError, ValueError: the file is wrong, or describes what cannot be built.
    """
    run = read_run(path, changes)
    made_from = {**_made_from(run), "changes": list(changes)}
    kept = run.folder / FILE
    if kept.is_file():
        plan = read_plan(kept)
        if plan.made_from == made_from:
            return plan
    layout = Layout(run)
    blueprint = functools.cache(lambda: _blueprint(run, layout))
    rungs = _rungs(run, blueprint)
    layout.add_ladder(rungs, _sizes(run, layout, rungs, blueprint))
    _try_trainings(run, layout, rungs)
    plan = Plan(str(run.folder), made_from, run.get("seed", 1), layout.steps)
    write_plan(plan)
    return plan


def _made_from(run: RunFile) -> Dict[str, Any]:
    hashes = FileHashes(run.folder / HASHES)
    given = run.teacher if isinstance(run.teacher, list) else []
    data = Path(run.data) if isinstance(run.data, str) else None
    return {
        "file": str(run.path),
        "sha256": sha256_of([run.path]),
        "version": __version__,
        "started in": str(Path.cwd()),
        "teachers": {path: hashes.of(path) for path in given if Path(path).is_file()},
        "data": sorted(path.name for path in data.iterdir()) if data and data.is_dir() else [],
    }


def _rungs(run: RunFile, blueprint: Callable[[], Any]) -> List[Rung]:
    """The rungs below the teacher, with their names.

    Args:
        run: the run file.
        blueprint: looks up what the teacher is made of.
    """
    rungs = run.ladder
    if rungs is None:
        from fairseq_kd.progressive.budget import ladder_within
        from fairseq_kd.progressive.ladder import ratios_to

        strategy, factor = run.get("strategy", STRATEGY), run.get("factor", FACTOR)
        if "target" in run.other:
            ratios = ratios_to(run.other["target"], factor)
        else:
            ratios = ladder_within(blueprint(), run.other["parameters"], strategy, factor)
        rungs = [Rung("", ratio, None, {}) for ratio in ratios]
    if rungs[0].ratio == 1:  # the teacher itself
        rungs = rungs[1:]
    if not rungs:
        raise ValueError(f"{run.path}: the ladder has no rung below the teacher. Add one, as 0.5.")
    named = [_named(rung, i == len(rungs) - 1) for i, rung in enumerate(rungs)]
    _check_names(run, named)
    return named


def _sizes(
    run: RunFile, layout: Layout, rungs: List[Rung], blueprint: Callable[[], Any]
) -> List[List[str]]:
    """For each rung the flags that make fairseq-train build its size."""
    ratios = [rung.ratio for rung in rungs if rung.ratio is not None]
    by_ratio: Iterator[List[str]] = iter([])
    if ratios:
        from fairseq_kd.progressive import ladder

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


def _check_names(run: RunFile, rungs: List[Rung]) -> None:
    names = [rung.name for rung in rungs]
    for name in names:
        if name in RESERVED or names.count(name) > 1:
            raise ValueError(
                f"{run.path}: a rung is called {name}, as is another part of the run. Give it "
                "another name."
            )


def _blueprint(run: RunFile, layout: Layout) -> Any:
    """What the first teacher is made of."""
    from fairseq_kd.progressive.blueprint import Blueprint

    if isinstance(run.teacher, list):
        return Blueprint.of_checkpoint(run.teacher[0])
    command = next(step.commands[0] for step in layout.steps if step.name == TEACHER)
    args = Namespace(**check_training_command(command))
    return Blueprint(args, _words(layout), f"{run.path}: the teacher {run.teacher['arch']}")


def _words(layout: Layout) -> Tuple[Optional[int], Optional[int]]:
    """The sizes of the dictionaries; None while the text is not prepared."""
    from fairseq.data import Dictionary

    files = [Path(layout.data) / f"dict.{language}.txt" for language in layout.pair]
    if not all(path.is_file() for path in files):
        return None, None
    source, target = (len(Dictionary.load(str(path))) for path in files)
    return source, target


def _try_trainings(run: RunFile, layout: Layout, rungs: List[Rung]) -> None:
    """Refuses now what fairseq-train or ``inherit`` would refuse when its turn comes."""
    sizes: Dict[str, Dict[str, Any]] = {}
    for step in layout.steps:
        if step.kind == "train":
            sizes[step.name] = check_training_command(step.commands[0])
    for rung in rungs:
        settings = {**run.each, **rung.settings}
        if settings["start"] == INHERIT:
            _check_start(run, rung.name, sizes)


def _check_start(run: RunFile, name: str, sizes: Dict[str, Dict[str, Any]]) -> None:
    """A student starts from a teacher that is at least as large in every way but depth."""
    names = list(sizes)
    before = names[names.index(name) - 1] if names.index(name) else None
    if before is None:  # a teacher that was given: rungs by ratio always fit
        return
    for side in ("encoder", "decoder"):
        for what in ("embed_dim", "attention_heads", "ffn_embed_dim"):
            ours, theirs = (sizes[each][f"{side}_{what}"] for each in (name, before))
            if ours > theirs:
                raise ValueError(
                    f"{run.path}: {name} cannot start from the layers of {before}: its {side} has "
                    f"{what.replace('_', ' ')} {ours}, and that of {before} {theirs}. Say start: "
                    "cold, or choose smaller sizes."
                )
