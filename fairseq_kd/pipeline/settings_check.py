"""Refuses settings of a run file that have no effect, since they are usually mistakes."""

from typing import Any, Collection, Dict, Iterator, Mapping, Sequence, Tuple

from fairseq_kd.pipeline.run_file import COLD, INHERIT, OWN, STAGE_DEFAULTS, RunFile, Stage
from fairseq_kd.pipeline.training_flags import CROSS_ENTROPY, SIZES, TEACHERLESS

DISTILLING = ("alpha", "beta", "temperature", "soft-targets", "learns-from")
LANGUAGES = "teacher-languages"
OF_TEACHER = dict.fromkeys(("teacher-source-lang", "teacher-target-lang"), LANGUAGES)
OWN_KEYS = {  # flags that the run sets itself, and the key that sets them
    "arch": "arch or ratio",
    "source-lang": "data",
    "target-lang": "data",
    "distributed-world-size": "gpus",
    "save-dir": "run",
    "user-dir": "user-dir",
    "seed": "seed",
}
STAGE_KEYS = {  # those of a stage only
    "criterion": "criterion",
    "finetune-from-model": "start",
    "kd-teacher": "learns-from",
    **dict.fromkeys(("kd-teacher-source-lang", "kd-teacher-target-lang"), LANGUAGES),
}
SELECTED = ("nbest", "interpolation", "mbr", "score")  # of several translations of a sentence
SECTION_KEYS = {  # by section: flags of our commands that the run sets, and the key
    "evaluate": {
        **{"data": "data", "out": "run", "teacher": "teacher", **OF_TEACHER},
        **{"student": "ladder", "control": "controls", "user-dir": "user-dir"},
    },
    "translate": {
        **{"teacher": "teacher", "data": "data", "out": "run", "shard": "shards", **OF_TEACHER},
        **{"subset": "distilled", "user-dir": "user-dir"},
    },
    "binarise-text": {"data": "data", "out": "run"},
    "own-translations": {
        **{"teacher": "start", "data": "data", "out": "run", **OF_TEACHER, "subset": "data"},
        **{"shard": "data", "user-dir": "user-dir", "nbest": "data"},
    },
    "import-translations": {"data": "data", "out": "run", "subset": "distilled"},
    "distill-data": {"translations": "run", "data": "data", "gold-data": "data", "out": "run"},
}


def check_effects(run: RunFile, stages: Sequence[Stage], teachers: Sequence[str]) -> None:
    """Refuses settings that affect no step of the run.

    Args:
        run: the run file.
        stages: with their names.
        teachers: the names of the first stage's teachers.

    Raises:
        ValueError: a setting has no effect; the message names its key.
    """
    for where, flags, keys in _trainings(run, stages):
        for flag in flags:
            if flag in keys:
                raise ValueError(
                    f"{run.path}: {where} has {flag}, which the key {keys[flag]} sets. Leave it "
                    "out there."
                )
    if run.teacher_languages is not None and isinstance(run.teacher, Mapping):
        raise ValueError(
            f"{run.path}: {LANGUAGES} has no effect on a teacher that the run trains. Leave it out."
        )
    settings = {stage.name: run.settings_of(stage) for stage in stages}
    _check_scorer(run)
    _check_sizes(run, stages)
    _check_importance(run, stages, settings)
    _check_own_translations(run, settings)
    _check_distillation(run, stages, settings)
    _check_sections(run, stages, settings)
    _check_distilled(run, stages, settings)
    _check_controls(run, stages, settings, teachers)


def _check_scorer(run: RunFile) -> None:
    """Refuses a program in a run file: nothing in a file is run."""
    if "scorer" in run.get("evaluate", {}):
        raise ValueError(
            f"{run.path}: evaluate has scorer, which runs a program, and a run file must not. "
            "Leave it out, and run fairseq-kd evaluate with --scorer yourself."
        )


def _trainings(
    run: RunFile, stages: Sequence[Stage]
) -> Iterator[Tuple[str, Mapping[str, Any], Dict[str, str]]]:
    """Every section of flags: its name, its flags, and the flags that the run sets itself."""
    of_stages = {**OWN_KEYS, **STAGE_KEYS}
    stores = any(run.settings_of(stage)["soft-targets"] == "store" for stage in stages)
    if stores:
        of_stages["kd-store"] = "soft-targets"
    if isinstance(run.teacher, Mapping):
        yield "teacher.train", run.teacher.get("train", {}), OWN_KEYS
    yield "train", run.train, of_stages
    yield "each.train", run.each.get("train", {}), of_stages
    for stage in stages:
        yield f"{stage.name}: train", stage.settings.get("train", {}), of_stages
    yield "evaluate", run.get("evaluate", {}), SECTION_KEYS["evaluate"]
    own = SECTION_KEYS["own-translations"]
    yield "own-translations", run.get("own-translations", {}), own
    alone = any(run.settings_of(stage)["data"] == "distilled" for stage in stages)
    for section in ("binarise-text", "translate", "import-translations", "distill-data"):
        keys = {**SECTION_KEYS[section], **({"mix": "data"} if alone else {})}
        yield f"distilled.{section}", run.get("distilled", {}).get(section, {}), keys


def _check_sizes(run: RunFile, stages: Sequence[Stage]) -> None:
    """Refuses flags of the size in a stage with a ratio, which determines its size."""
    for stage in stages:
        if stage.ratio is None:
            continue
        flags = {**run.train, **run.settings_of(stage)["train"]}
        for flag in SIZES:
            if flag in flags:
                raise ValueError(
                    f"{run.path}: {flag} is {flags[flag]} in the training of {stage.name}, whose "
                    f"ratio of {stage.ratio} sets the size. Leave it out, or give the stage an "
                    "arch instead."
                )


def _check_importance(
    run: RunFile, stages: Sequence[Stage], settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuses a way of choosing what is inherited where nothing is."""
    inheriting = {name for name, each in settings.items() if each["start"] == INHERIT}
    given = [(stage.name, stage.settings, stage.name in inheriting) for stage in stages]
    for where, keys, has_effect in (("each", run.each, bool(inheriting)), *given):
        if keys.get("importance") == "data" and not has_effect:
            raise ValueError(
                f"{run.path}: {where} has importance: data, which has no effect without start: "
                "inherit. Add that, or leave it out."
            )


def _check_own_translations(run: RunFile, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses a student's own translations without a student, or without a teacher of them."""
    for name, each in settings.items():
        if each["data"] == OWN and each["start"] in (COLD, INHERIT):
            raise ValueError(
                f"{run.path}: {name} has data: own, the translations of the model that it starts "
                f"from, but start is {each['start']}. Set it to the name of an earlier stage, or "
                "to a checkpoint."
            )
        if each["data"] == OWN and each["criterion"] in TEACHERLESS:
            raise ValueError(
                f"{run.path}: {name} has data: own, from which {each['criterion']} would learn its "
                "own errors. Choose a criterion with a teacher, such as word_kd."
            )


def _check_distillation(
    run: RunFile, stages: Sequence[Stage], settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuses settings of distillation in trainings without a teacher."""
    for stage in stages:
        criterion = settings[stage.name]["criterion"]
        if criterion in TEACHERLESS:
            start = settings[stage.name]["start"]
            _refuse_distilling(run, stage.name, stage.settings, start, {criterion})
    criterions = {each["criterion"] for each in settings.values()}
    if criterions <= set(TEACHERLESS):
        common = {key: value for key, value in run.each.items() if key != "learns-from"}
        _refuse_distilling(run, "each", common, run.each["start"], criterions)
        _refuse_distilling(run, "it", {"train": run.train}, run.each["start"], criterions)
    if isinstance(run.teacher, Mapping) and "criterion" not in run.teacher.get("train", {}):
        _refuse_distilling(run, "the teacher", run.teacher, run.each["start"], {CROSS_ENTROPY})


def _refuse_distilling(
    run: RunFile,
    where: str,
    settings: Mapping[str, Any],
    start: str,
    criterions: Collection[str],
) -> None:
    """Refuses settings of distillation in a section whose criterions have no teacher."""
    known = {flag for criterion in criterions for flag in TEACHERLESS[criterion]}
    given = [key for key in DISTILLING if settings.get(key) not in (None, STAGE_DEFAULTS.get(key))]
    if start != COLD and "learns-from" in given:  # it names the model to start from
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
    run: RunFile, stages: Sequence[Stage], settings: Mapping[str, Mapping[str, Any]]
) -> None:
    every = settings.values()
    taught = [each for each in every if each["criterion"] not in TEACHERLESS]
    stored = any(each["soft-targets"] == "store" for each in taught)
    by_ratio = any(stage.ratio is not None for stage in stages)
    data = {each["data"] for each in every}
    for key, has_effect, needs in (
        ("store", stored, "soft-targets: store in a stage"),
        ("distilled", bool(data & {"distilled", "mixed"}), "data: distilled or mixed"),
        ("own-translations", OWN in data, "data: own in a stage"),
        ("strategy", by_ratio, "a stage with a ratio"),
        ("factor", run.ladder is None, "target or parameters instead of a ladder"),
    ):
        if key in run.other and not has_effect:
            raise ValueError(
                f"{run.path}: {key} has no effect without {needs}. Add that, or leave {key} out."
            )


def _check_distilled(
    run: RunFile, stages: Sequence[Stage], settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuses settings of ``distilled`` without effect, or that contradict a stage."""
    section = run.get("distilled", {})
    for key in ("translate", "shards"):
        if key in section and "import-translations" in section:
            raise ValueError(
                f"{run.path}: distilled.{key} has no effect with import-translations, which "
                "imports the translations of another system. Leave one of them out."
            )
    choice = section.get("distill-data", {})
    mix, select = choice.get("mix"), choice.get("select", "best")
    imported = section.get("import-translations")
    several = str(section.get("translate", {}).get("nbest", 1)) != "1"
    if select in SELECTED and not several and imported is None:
        raise ValueError(
            f"{run.path}: distilled.distill-data.select is {select}, which needs several "
            "translations of a sentence. Add distilled: {translate: {nbest: 5}}."
        )
    form = None if imported is None else imported.get("format", "plain")
    if select in SELECTED and form in ("plain", "tsv"):
        raise ValueError(
            f"{run.path}: distilled.distill-data.select is {select}, which needs several "
            f"translations of a sentence, but a file of the format {form} has one. Leave it out."
        )
    if form == "plain" and "min-score" in choice and "scores" not in choice:
        raise ValueError(
            f"{run.path}: distilled.distill-data.min-score needs scores, but a file of the format "
            "plain has none. Leave it out, or give scores."
        )
    if imported is None and "scores" not in choice and _above_zero(choice.get("min-score", 0)):
        raise ValueError(
            f"{run.path}: distilled.distill-data.min-score is {choice['min-score']}, but the "
            "scores of the teacher are log2 probabilities, which are at most 0. Lower it, or give "
            "scores."
        )
    compares = select == "interpolation" or "min-similarity" in choice
    if compares and "binarise-text" in section:
        raise ValueError(
            f"{run.path}: distilled.binarise-text has no references, with which "
            "distilled.distill-data would compare the translations. Leave select: interpolation "
            "and min-similarity out."
        )
    for name in (stage.name for stage in stages if settings[stage.name]["data"] != "gold"):
        flags, data = {**run.train, **settings[name]["train"]}, settings[name]["data"]
        if flags.get("train-subset", "train") != "train":
            raise ValueError(
                f"{run.path}: {name} has data: {data}, whose training set is called train, but "
                f"train-subset is {flags['train-subset']}. Leave one of them out."
            )
        if "upsample-primary" in flags and (mix != "extra" or data == OWN):
            raise ValueError(
                f"{run.path}: {name} has upsample-primary, which has no effect on data: {data}, a "
                "single training set. Leave it out; distilled.distill-data.upsample-gold repeats "
                "the references in data: mixed."
            )
        if data in ("distilled", OWN):
            continue
        if mix == "alone":
            raise ValueError(
                f"{run.path}: {name} has data: mixed, but distilled.distill-data.mix is alone. Set "
                "data: distilled, or leave mix out."
            )
        if mix == "extra" and "upsample-primary" not in flags:
            raise ValueError(
                f"{run.path}: {name} needs train: {{upsample-primary: N}}, the copies of the "
                "references beside the translations, with distilled.distill-data.mix: extra."
            )


def _above_zero(value: Any) -> bool:
    try:
        return float(value) > 0
    except (TypeError, ValueError):  # which its own check names
        return False


def _check_controls(
    run: RunFile,
    stages: Sequence[Stage],
    settings: Mapping[str, Mapping[str, Any]],
    teachers: Sequence[str],
) -> None:
    """Refuses a control that would repeat another training of the run."""
    last = stages[-1].name
    learns = run.learns_from(stages, teachers)[last]
    for control in ("inherited", "total"):
        if control in run.get("controls", []) and settings[last]["start"] == COLD:
            raise ValueError(
                f"{run.path}: the control {control} would be the same as undistilled, since {last} "
                "starts from random weights. Leave it out, or set start: inherit."
            )
    if "one-step" in run.get("controls", []) and learns == list(teachers):
        raise ValueError(
            f"{run.path}: the control one-step would be the same as the training of {last}, which "
            "learns from the teacher itself. Leave it out, or add a stage between."
        )
