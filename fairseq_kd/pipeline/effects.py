"""Refuses what a run file asks for in vain: a setting without effect hides a mistake."""

from typing import Any, Collection, Dict, Iterator, Mapping, Sequence, Tuple

from fairseq_kd.pipeline.run_file import COLD, STAGE_DEFAULTS, RunFile, Rung
from fairseq_kd.pipeline.training_command import PLAIN, SIZES, TEACHERLESS

DISTILLING = ("alpha", "beta", "temperature", "knowledge", "learns-from")
OWN_KEYS = {  # flags that the run sets, and what sets them
    "arch": "arch or ratio",
    "source-lang": "data",
    "target-lang": "data",
    "distributed-world-size": "gpus",
    "save-dir": "run",
    "user-dir": "user-dir",
    "seed": "seed",
}
STAGE_KEYS = {  # those of a rung only
    "criterion": "criterion",
    "finetune-from-model": "start",
    "kd-teacher": "learns-from",
}
SECTION_KEYS = {  # by section, flags of our commands that the run sets, and what sets them
    "evaluate": {
        **{"data": "data", "out": "run", "teacher": "teacher"},
        **{"student": "ladder", "control": "controls"},
    },
    "translate": {
        **{"teacher": "teacher", "data": "data", "out": "run", "shard": "shards"},
        "subset": "distilled",
    },
    "distill-data": {"translations": "run", "data": "data", "out": "run"},
}


def check_effects(run: RunFile, rungs: Sequence[Rung], teachers: Sequence[str]) -> None:
    """Refuses settings that no step of the run heeds.

    Args:
        run: the run file.
        rungs: with their names.
        teachers: the names of those that the first rung learns from.

    Raises:
        ValueError: naming the key, and what would give it an effect.
    """
    for where, flags, keys in _trainings(run, rungs):
        for flag in flags:
            if flag in keys:
                raise ValueError(
                    f"{run.path}: {where} has {flag}, which the key {keys[flag]} sets. Leave it "
                    "out there."
                )
    stages = {rung.name: run.stage(rung) for rung in rungs}
    _check_sizes(run, rungs)
    _check_distillation(run, rungs, stages)
    _check_sections(run, rungs, stages)
    _check_controls(run, rungs, stages, teachers)


def _trainings(
    run: RunFile, rungs: Sequence[Rung]
) -> Iterator[Tuple[str, Mapping[str, Any], Dict[str, str]]]:
    """Every section of flags, with those that it may not hold."""
    of_stages = {**OWN_KEYS, **STAGE_KEYS}
    stores = any(run.stage(rung)["knowledge"] == "store" for rung in rungs)
    if stores:
        of_stages["kd-store"] = "knowledge"
    if isinstance(run.teacher, Mapping):
        yield "teacher.train", run.teacher.get("train", {}), OWN_KEYS
    yield "train", run.train, of_stages
    yield "each.train", run.each.get("train", {}), of_stages
    for rung in rungs:
        yield f"{rung.name}: train", rung.settings.get("train", {}), of_stages
    yield "evaluate", run.get("evaluate", {}), SECTION_KEYS["evaluate"]
    alone = any(run.stage(rung)["data"] == "distilled" for rung in rungs)
    for section in ("translate", "distill-data"):
        keys = {**SECTION_KEYS[section], **({"mix": "data"} if alone else {})}
        yield f"distilled.{section}", run.get("distilled", {}).get(section, {}), keys


def _check_sizes(run: RunFile, rungs: Sequence[Rung]) -> None:
    """A rung with a ratio has the size of its ratio."""
    for rung in rungs:
        if rung.ratio is None:
            continue
        flags = {**run.train, **run.stage(rung)["train"]}
        for flag in SIZES:
            if flag in flags:
                raise ValueError(
                    f"{run.path}: {flag} is {flags[flag]} in the training of {rung.name}, whose "
                    f"ratio of {rung.ratio} says how large it is. Leave it out, or give the rung "
                    "an arch instead."
                )


def _check_distillation(
    run: RunFile, rungs: Sequence[Rung], stages: Mapping[str, Mapping[str, Any]]
) -> None:
    """A training without a teacher has nothing to weigh."""
    for rung in rungs:
        criterion = stages[rung.name]["criterion"]
        if criterion in TEACHERLESS:
            _refuse_distilling(run, rung.name, rung.settings, stages[rung.name], {criterion})
    criterions = {stage["criterion"] for stage in stages.values()}
    if criterions <= set(TEACHERLESS):
        common = {key: value for key, value in run.each.items() if key != "learns-from"}
        _refuse_distilling(run, "each", common, run.each, criterions)
        _refuse_distilling(run, "it", {"train": run.train}, run.each, criterions)
    if isinstance(run.teacher, Mapping) and "criterion" not in run.teacher.get("train", {}):
        _refuse_distilling(run, "the teacher", run.teacher, run.each, {PLAIN})


def _refuse_distilling(
    run: RunFile,
    where: str,
    settings: Mapping[str, Any],
    stage: Mapping[str, Any],
    criterions: Collection[str],
) -> None:
    """Refuses what distils in a section that only trains by criterions without a teacher."""
    known = {flag for criterion in criterions for flag in TEACHERLESS[criterion]}
    given = [key for key in DISTILLING if settings.get(key) not in (None, STAGE_DEFAULTS.get(key))]
    if stage["start"] != COLD and "learns-from" in given:  # it starts from there
        given.remove("learns-from")
    flags = [flag for flag in settings.get("train", {}) if flag.startswith("kd-")]
    given += [f"train.{flag}" for flag in flags if flag not in known]
    if given:
        raise ValueError(
            f"{run.path}: {where} has {given[0]}, which has no effect with the criterion "
            f"{' or '.join(sorted(criterions))}: it has no teacher. Leave it out, or choose a "
            "criterion such as word_kd."
        )


def _check_sections(
    run: RunFile, rungs: Sequence[Rung], stages: Mapping[str, Mapping[str, Any]]
) -> None:
    every = stages.values()
    taught = [each for each in every if each["criterion"] not in TEACHERLESS]
    stored = any(each["knowledge"] == "store" for each in taught)
    by_ratio = any(rung.ratio is not None for rung in rungs)
    for key, has_effect, needs in (
        ("store", stored, "knowledge: store in a rung"),
        ("distilled", any(each["data"] != "gold" for each in every), "data: distilled or mixed"),
        ("strategy", by_ratio, "a rung with a ratio"),
        ("factor", run.ladder is None, "target or parameters instead of a ladder"),
    ):
        if key in run.other and not has_effect:
            raise ValueError(
                f"{run.path}: {key} has no effect without {needs}. Add that, or leave {key} out."
            )


def _check_controls(
    run: RunFile,
    rungs: Sequence[Rung],
    stages: Mapping[str, Mapping[str, Any]],
    teachers: Sequence[str],
) -> None:
    """Refuses a control that would be another training of the run again."""
    last, before = rungs[-1].name, [rung.name for rung in rungs[-2:-1]]
    learns = stages[last].get("learns-from", before or list(teachers))
    learns = [learns] if isinstance(learns, str) else list(learns)
    for control in ("inherited", "total"):
        if control in run.get("controls", []) and stages[last]["start"] == COLD:
            raise ValueError(
                f"{run.path}: the control {control} would be that of undistilled again, since "
                f"{last} starts from random weights. Leave it out, or say start: inherit."
            )
    if "one-step" in run.get("controls", []) and learns == list(teachers):
        raise ValueError(
            f"{run.path}: the control one-step would be the training of {last} again, which "
            "learns from the teacher itself. Leave it out, or add a rung between."
        )
