"""The ladder of a run: the names, ratios and sizes of its stages, which its layout needs."""

import functools
import re
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple

from fairseq_kd.fairseq_flags import Flags
from fairseq_kd.pipeline.fit_check import dictionaries_of
from fairseq_kd.pipeline.follower import SNAKEMAKE_LOG
from fairseq_kd.pipeline.layout import CONTROLS, STUDENT, TEACHER, Layout
from fairseq_kd.pipeline.run_file import RunFile, Stage
from fairseq_kd.pipeline.settings_check import check_effects
from fairseq_kd.pipeline.status import DRIVER, LOGS, REPLACED, STEPS
from fairseq_kd.pipeline.training_check import check_training_command
from fairseq_kd.sizing.ladder import (
    FACTOR,
    STRATEGY,
    buildable,
    checked_ladder,
    ladder_sizes,
    ratios_to,
)

RESERVED = (  # names of folders in a run, which no stage may have
    *(TEACHER, *CONTROLS, STEPS, REPLACED, "data", LOGS, "evaluation"),
    *(DRIVER, Path(SNAKEMAKE_LOG).stem),  # of which there are files among those of the steps
    *("decoded", "translations", "plots"),  # of the evaluation
)
OF_SHARD = re.compile(r".+-[0-9]+-of-[0-9]+")


def lay_out(run: RunFile) -> Layout:
    """Lays out the steps of a run.

    Raises:
        FileNotFoundError: something that the run needs is missing.
        ValueError: a name is given twice, or a setting has no effect.
    """
    layout = Layout(run)
    structure = functools.cache(lambda: _structure(run, layout))
    stages = _stages(run, layout, structure)
    check_effects(run, stages, layout.teachers)
    layout.add_ladder(stages, _sizes(run, layout, stages, structure))
    return layout


def import_own_plugin(layout: Layout) -> None:
    """Imports the ``user-dir`` of a run, so that its models are known in this process."""
    if layout.own_user_dir:
        from fairseq_kd.plugin import import_user_dir  # imports torch

        import_user_dir(layout.own_user_dir)


def _stages(run: RunFile, layout: Layout, structure: Callable[[], Any]) -> List[Stage]:
    """The stages below the teacher, with their names.

    Args:
        run: the run file.
        layout: of its text and its teachers.
        structure: returns the structure of the teacher.
    """
    stages = run.ladder
    if stages is None:
        stages = [Stage("", ratio, None, {}) for ratio in _ratios(run, layout, structure)]
    if stages[0].ratio == 1:  # the teacher itself
        if stages[0].name or stages[0].settings:
            raise ValueError(
                f"{run.path}: the first entry of the ladder has the ratio 1, which is the teacher "
                "itself, so its other keys have no effect. Leave them out."
            )
        stages = stages[1:]
    if not stages:
        raise ValueError(
            f"{run.path}: the ladder has no stage below the teacher. Add one, such as 0.5."
        )
    named = [_named(stage, i == len(stages) - 1) for i, stage in enumerate(stages)]
    _check_names(run, [*layout.models, *(stage.name for stage in named)])
    return named


def _ratios(run: RunFile, layout: Layout, structure: Callable[[], Any]) -> List[float]:
    """The ratios of the ladder that ``target`` or ``parameters`` implies."""
    from fairseq_kd.sizing.budgets import ladder_within  # imports torch

    strategy, factor = run.get("strategy", STRATEGY), run.get("factor", FACTOR)
    if "target" in run.other:
        return buildable(structure().size, ratios_to(run.other["target"], factor), strategy)
    if None in structure().vocab_sizes:
        prepare = shlex.join(layout.corpus.step.command.argv()) if layout.corpus.step else ""
        raise ValueError(
            f"{run.path}: parameters cannot be counted before the text is prepared. Run {prepare} "
            "first, or set target instead."
        )
    limit = run.other["parameters"]
    return ladder_within(structure(), limit, strategy, factor, f"{run.path}: parameters")


def _sizes(
    run: RunFile, layout: Layout, stages: List[Stage], structure: Callable[[], Any]
) -> List[Flags]:
    """For each stage the flags that make fairseq-train build its size."""
    ratios = [stage.ratio for stage in stages if stage.ratio is not None]
    by_ratio: Iterator[Flags] = iter([])
    if ratios:
        whole = structure()
        ladder = checked_ladder(list(dict.fromkeys(ratios)))  # some stages may have equal sizes
        sizes = ladder_sizes(whole.size, ladder, run.get("strategy", STRATEGY))
        flags = {ratio: whole.flags(size) for ratio, size in zip(ladder, sizes, strict=True)}
        by_ratio = iter([flags[ratio] for ratio in ratios])
    return [layout.arch_flags(stage.arch) if stage.arch else next(by_ratio) for stage in stages]


def _named(stage: Stage, last: bool) -> Stage:
    name = stage.name or (STUDENT if last else "")
    if not name:
        name = f"stage-{stage.ratio * 100:.0f}" if stage.ratio is not None else stage.arch or ""
    return Stage(name, stage.ratio, stage.arch, stage.settings)


def _check_names(run: RunFile, names: List[str]) -> None:
    for name in names:
        if OF_SHARD.fullmatch(name):
            raise ValueError(
                f"{run.path}: a stage is called {name}, which is also the name of a shard of a "
                "step. Give it another name."
            )
        if names.count(name) > 1 or (name in RESERVED and name != TEACHER):
            raise ValueError(
                f"{run.path}: a stage is called {name}, which is also the name of another part of "
                "the run. Give it another name."
            )


def _structure(run: RunFile, layout: Layout) -> Any:
    """The structure of the first teacher."""
    from fairseq_kd.sizing.teacher_structure import TeacherStructure

    import_own_plugin(layout)
    if isinstance(run.teacher, list):
        return TeacherStructure.of_checkpoint(run.teacher[0], f"{run.path}: the teacher")
    command = next(step.command for step in layout.steps if step.name == TEACHER)
    args = Namespace(**check_training_command(command))
    return TeacherStructure(
        args, _vocab_sizes(layout), f"{run.path}: the teacher {run.teacher['arch']}"
    )


def _vocab_sizes(layout: Layout) -> Tuple[Optional[int], Optional[int]]:
    """The sizes of the dictionaries; None while the text is not prepared."""
    dictionaries = dictionaries_of(layout)
    return (len(dictionaries[0]), len(dictionaries[1])) if dictionaries else (None, None)
