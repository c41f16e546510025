"""Lays out the steps of a run: data, teachers, trainings, controls and the evaluation.

In order: the text, the teacher; for each stage of the ladder its teacher's store or translations,
its initial weights and its training; then the controls, and the evaluation.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from fairseq_kd.evaluation.options import EvaluateOptions
from fairseq_kd.fairseq_flags import Flags, as_arguments
from fairseq_kd.inheritance.options import InheritOptions
from fairseq_kd.installation import USER_DIR
from fairseq_kd.pipeline.corpus import corpus_of
from fairseq_kd.pipeline.distilled_steps import distilled_steps, own_steps
from fairseq_kd.pipeline.run_file import COLD, INHERIT, OWN, RunFile, Stage
from fairseq_kd.pipeline.run_models import Model
from fairseq_kd.pipeline.store_steps import store_steps
from fairseq_kd.pipeline.train_command import TrainCommand
from fairseq_kd.pipeline.training_flags import (
    CROSS_ENTROPY,
    SIZES,
    TEACHERLESS,
    stage_flags,
    stretched_schedule,
)
from fairseq_kd.pipeline.workflow import LaidOutStep

TEACHER, STUDENT = "teacher", "student"
UNDISTILLED, INHERITED, TOTAL, ONE_STEP = "undistilled", "inherited", "total", "one-step"
CONTROLS = (UNDISTILLED, INHERITED, TOTAL, ONE_STEP)
POSITIONS = ("max-source-positions", "max-target-positions")  # of which a model may learn some
SHARED = "share-all-embeddings"
ON_OWN = {"alpha": 1, "beta": 0}  # its own translations are no references
EMBEDDINGS = ("encoder-embed-path", "decoder-embed-path")  # flags that name files


class Layout:
    """The steps of a run, collected as they are needed.

    Args:
        run: the run file. Its text and teachers are laid out at once: the ladder depends on them.
    """

    def __init__(self, run: RunFile):
        self.run, self.folder = run, run.folder
        self.steps: List[LaidOutStep] = []
        self.user_dir = run.get("user-dir", None) or _shown(USER_DIR)
        if not Path(self.user_dir).is_dir():
            raise FileNotFoundError(
                f"{run.path}: user-dir: {self.user_dir} is not a folder. Give that of your own "
                "plugin, or leave it out."
            )
        self.own_user_dir: Optional[str] = run.get("user-dir", None)
        if os.pathsep in str(run.folder):
            raise ValueError(
                f"{run.path}: run: {run.folder} contains {os.pathsep}, which separates the names "
                "of several teachers. Choose another folder."
            )
        self.gpus, self.nodes = run.get("gpus", 1), run.get("nodes", 1)
        self.corpus = corpus_of(run)
        self._add(*([self.corpus.step] if self.corpus.step else []))
        self.models: Dict[str, Model] = {model.name: model for model in self._teachers()}
        self.teachers = list(self.models)

    def add_ladder(self, stages: Sequence[Stage], sizes: Sequence[Flags]) -> None:
        """Adds the steps of the stages, of the controls and of the evaluation.

        Args:
            stages: with names, from large to small.
            sizes: the fairseq-train flags of each stage's size, its architecture among them.
        """
        self.stored = self._stored_subsets(stages)
        ladder = list(zip(stages, sizes, strict=True))
        learns_from = self.run.learns_from(stages, self.teachers)
        for stage, flags in ladder:
            settings = {**self.run.settings_of(stage), "learns-from": learns_from[stage.name]}
            self.models[stage.name] = self._distil(stage.name, flags, settings)
        self._controls(*ladder[-1], settings)
        self._evaluate([stage.name for stage, _ in ladder])

    def arch_flags(self, arch: str) -> Flags:
        """The flags of a named architecture; a common dictionary means shared embeddings."""
        return {"arch": arch, **({SHARED: True} if self.corpus.has_one_dictionary() else {})}

    def _add(self, *steps: LaidOutStep) -> None:
        """Adds steps that were not added before.

        Raises:
            ValueError: another step has the name.
        """
        for step in steps:
            same = [each for each in self.steps if each.name == step.name]
            if same and same[0] != step:
                raise ValueError(
                    f"{self.run.path}: a stage is called {step.name}, which is also the name of "
                    "another part of the run. Give it another name."
                )
            self.steps += [] if same else [step]

    def _path(self, *parts: str) -> str:
        return str(self.folder.joinpath(*parts))

    # Trainings

    def _teachers(self) -> List[Model]:
        given = self.run.teacher
        if isinstance(given, list):
            names = [TEACHER] if len(given) == 1 else []
            names = names or [f"{TEACHER}-{i}" for i in range(1, len(given) + 1)]
            for path in given:
                if not Path(path).exists():
                    raise FileNotFoundError(
                        f"{self.run.path}: the teacher {path} does not exist. Give a checkpoint, "
                        "or teacher: {arch: ...} to train one."
                    )
            same = [path for i, path in enumerate(given) if _is_one_of(path, given[:i])]
            if same:
                raise ValueError(
                    f"{self.run.path}: the teacher {same[0]} is given twice. Name each once."
                )
            languages = self.run.teacher_languages
            return [
                Model(name, path, None, languages=languages)
                for name, path in zip(names, given, strict=True)
            ]
        settings = {"criterion": CROSS_ENTROPY, **given}
        size = self.arch_flags(given["arch"])
        return [self._train(TEACHER, size, settings, self.corpus.folder, {}, [], [], None)]

    def _distil(
        self, name: str, size: Flags, settings: Mapping[str, Any], starts_as: str = ""
    ) -> Model:
        """Adds the training of a student, and before it the steps that it needs.

        Args:
            name: the name of the training.
            size: the flags of its size.
            settings: the settings of its stage.
            starts_as: the training whose initial weights it shares; "" for its own.
        """
        teachers = [self._model(name, each) for each in _as_list(settings["learns-from"])]
        sizes = {**self.run.train, **settings["train"]}
        own = {flag: sizes[flag] for flag in (*SIZES, *POSITIONS) if flag in sizes}
        start_of = partial(self._start, starts_as or name, size, own, settings, teachers[0])
        data, after = self._data(name, settings, start_of)
        if settings["data"] == OWN:
            settings = {**ON_OWN, **settings}
        flags: Flags = {}
        reads: List[str] = []
        if settings["criterion"] not in TEACHERLESS:
            if settings["soft-targets"] == "store":
                stores = [self._store(each, data, after) for each in teachers]
                flags["kd-store"] = os.pathsep.join(folder for folder, _ in stores)
                after = [*after, *(step for _, step in stores)]
            else:
                flags["kd-teacher"] = os.pathsep.join(each.checkpoint for each in teachers)
                for each in teachers:
                    flags.update(each.language_flags("kd-teacher"))
                after = [*after, *(step for each in teachers for step in each.after)]
                reads += [path for each in teachers for path in each.reads()]
        start = start_of()
        if start is not None:
            flags["finetune-from-model"] = start.checkpoint
            after, reads = after + start.after, reads + start.reads()
        return self._train(name, size, settings, data, flags, after, reads, start)

    def _train(
        self,
        name: str,
        size: Flags,
        settings: Mapping[str, Any],
        data: str,
        teacher_flags: Flags,
        after: List[str],
        reads: List[str],
        start: Optional[Model],
    ) -> Model:
        seed = {"seed": self.run.get("seed", 1)}
        flags = stage_flags(
            settings, teacher_flags, seed, self.run.train, settings.get("train", {})
        )
        if SHARED in flags:  # given by the user, even if the dictionaries differ
            size = {flag: value for flag, value in size.items() if flag != SHARED}
        pair = self.corpus.pair
        model = {"source-lang": pair[0], "target-lang": pair[1], **size}
        save_dir = self._path(name)
        several = (self.gpus, model, flags, self.nodes)
        command = TrainCommand(name, data, save_dir, self.user_dir, *several)
        usual = "best" if settings.get("data", "gold") == "gold" else "last"
        checkpoint = f"{save_dir}/checkpoint_{settings.get('checkpoint', usual)}.pt"
        after = list(dict.fromkeys(after or self.corpus.after))
        files = [str(flags[flag]) for flag in EMBEDDINGS if flags.get(flag)]
        data_files = self.corpus.reads(tuple(_subsets(flags)))
        reads = list(dict.fromkeys([*data_files, *files, *reads]))
        place = ([checkpoint], save_dir, self.gpus)
        self._add(LaidOutStep(name, "train", command, after, reads, *place, command.training()))
        return Model(name, checkpoint, name, int(flags["max-update"]), start)

    def _model(self, stage: str, name: str) -> Model:
        if name not in self.models:
            raise ValueError(
                f"{self.run.path}: {stage} learns from {name}, which is not trained before it. "
                f"Before it are {', '.join(self.models)}."
            )
        return self.models[name]

    # Inputs of a training: store, translations, initial weights

    def _store(self, teacher: Model, data: str, after: List[str]) -> Tuple[str, str]:
        """The folder of the teacher's store of some data, and the step that completes it."""
        corpus = self.corpus
        name = f"{teacher.name}-store" + ("" if data == corpus.folder else f"-{Path(data).name}")
        out = self._path(name)
        section = self.run.get("store", {})
        with self.run.section("store"):
            steps = store_steps(
                teacher, corpus, data, after, section, self.stored, out, self.own_user_dir
            )
        self._add(*steps)
        return out, name

    def _stored_subsets(self, stages: Sequence[Stage]) -> List[str]:
        """The subsets that are read by trainings with a store."""
        names: List[str] = []
        for settings in map(self.run.settings_of, stages):
            if settings["soft-targets"] == "store" and settings["criterion"] not in TEACHERLESS:
                names += _subsets({**self.run.train, **settings["train"]})
        return list(dict.fromkeys(names))

    def _data(
        self, name: str, settings: Mapping[str, Any], start_of: Callable[[], Optional[Model]]
    ) -> Tuple[str, List[str]]:
        """The folder of the data of a training, and the steps after which it is there.

        Args:
            name: the name of the training.
            settings: the settings of its stage: ``data``.
            start_of: returns the model whose weights it starts from.
        """
        kind = settings["data"]
        if kind == "gold":
            return self.corpus.folder, self.corpus.after
        if kind == OWN:
            steps = own_steps(self.run, self.corpus, start_of(), name, self.own_user_dir)
        else:
            teachers = [self.models[each] for each in self.teachers]
            steps = distilled_steps(self.run, self.corpus, teachers, kind, self.own_user_dir)
        self._add(*steps)
        return self._path(steps[-1].name), [steps[-1].name]

    def _start(
        self, name: str, size: Flags, own: Flags, settings: Mapping[str, Any], teacher: Model
    ) -> Optional[Model]:
        """The model whose weights a training starts from; None for random weights.

        Args:
            name: the name of the training.
            size: the flags of the stage's size.
            own: flags of the size among those of the training.
            settings: the settings of the stage: ``start``, ``importance``.
            teacher: the model to inherit from.
        """
        start = settings["start"]
        if start == COLD:
            return None
        if start in self.models:
            return self.models[start]
        if start != INHERIT:
            if not Path(start).exists():
                raise FileNotFoundError(
                    f"{self.run.path}: {name} starts from {start}, which does not exist. Give "
                    f"{COLD}, {INHERIT}, the name of an earlier stage or a checkpoint."
                )
            return Model(start, start, None)
        out = self._path(f"{name}-start", "start.pt")
        others = {flag: value for flag, value in size.items() if flag != "arch"}
        flags = {"user-dir": self.own_user_dir, "teacher": teacher.checkpoint}
        flags |= {**teacher.language_flags(), "arch": size["arch"], "out": out}
        flags["model_flags"] = [*as_arguments(others), *as_arguments(own)]
        step = f"{name}-start"
        after, reads = teacher.after, teacher.reads()
        if settings["importance"] == "data":
            subset = _subsets({**self.run.train, **settings["train"]})[0]
            flags |= {"importance": "data", "data": self.corpus.folder, "subset": subset}
            after, reads = [*after, *self.corpus.after], [*reads, *self.corpus.reads((subset,))]
        command = InheritOptions.of(flags)
        self._add(LaidOutStep(step, "inherit", command, after, reads, [out], self._path(step)))
        return Model(step, out, step, 0, teacher)

    # Controls and evaluation

    def _controls(self, stage: Stage, size: Flags, settings: Mapping[str, Any]) -> None:
        """Adds trainings of the last stage's size without distillation, or without the ladder.

        Args:
            stage: the last one.
            size: the flags of its size.
            settings: the settings of its training, its teachers included.
        """
        plain = {**settings, "criterion": CROSS_ENTROPY, "data": "gold"}
        usual = [UNDISTILLED, *([] if settings["start"] == COLD else [INHERITED])]
        for control in self.run.get("controls", usual):
            if control == INHERITED:
                model = self._distil(control, size, plain, starts_as=stage.name)
            elif control == ONE_STEP:
                direct = {**self.run.settings_of(stage), "learns-from": self.teachers}
                model = self._distil(control, size, direct)
            else:
                cold = {**plain, "start": COLD, "learns-from": self.teachers}
                if control == TOTAL:
                    cold["train"] = self._as_long_in_all(stage.name, settings["train"])
                model = self._distil(control, size, cold)
            self.models[control] = model

    def _compared(self) -> List[Model]:
        """The existing checkpoints that are evaluated beside the models of the run."""
        models = []
        for name, path in self.run.get("compare", {}).items():
            if name in self.models or name in CONTROLS:
                raise ValueError(
                    f"{self.run.path}: compare: {name} is the name of a model of the run. Give "
                    "another name."
                )
            if not Path(path).is_file():
                raise FileNotFoundError(
                    f"{self.run.path}: compare: {name} is {path}, which does not exist. Give a "
                    "checkpoint."
                )
            models.append(Model(name, path, None))
        return models

    def _as_long_in_all(self, student: str, train: Flags) -> Flags:
        """Flags of a training with the total number of updates of the student's weights."""
        updates = self.models[student].updates_behind()
        if updates is None:
            raise ValueError(
                f"{self.run.path}: controls has {TOTAL}, but the total number of updates of the "
                f"weights that {student} starts from is not known: a checkpoint that they were "
                f"trained from is missing. Leave {TOTAL} out."
            )
        own = {**self.run.train, **train}
        longer = updates / self.models[student].updates
        return {**train, **stretched_schedule(own, longer), "max-update": updates}

    def _evaluate(self, stages: List[str]) -> None:
        systems = [("teacher", self.models[self.teachers[0]])]
        systems += [("student", self.models[name]) for name in stages]
        for name in filter(self.models.__contains__, CONTROLS):
            role = "student" if name == ONE_STEP else "control"
            systems.append((role, self.models[name]))
        systems += [("control", model) for model in self._compared()]
        flags = {"user-dir": self.own_user_dir, "data": self.corpus.folder}
        flags |= {"out": str(self.folder), **systems[0][1].language_flags()}
        pairs = [*flags.items()]
        pairs += [(role, f"{model.name}={model.checkpoint}") for role, model in systems]
        pairs += {"subset": "test", **self.run.get("evaluate", {})}.items()
        with self.run.section("evaluate"):
            command = EvaluateOptions.of(pairs)
        self.corpus.check_split(command.subset)
        after = [step for _, model in systems for step in model.after]
        reads = [path for _, model in systems for path in model.reads()]
        reads += [*self.corpus.reads((command.subset,)), *self.corpus.text(command.subset)]
        given = (command.reference, command.comet, *command.ratings)
        reads += [str(path) for path in given if path is not None]
        makes = [self._path(name) for name in ("evaluation.json", "report.md", "report.html")]
        gpus = int(command.device in ("cuda", "both"))
        self._add(LaidOutStep("evaluation", "evaluate", command, after, reads, makes, gpus=gpus))


def _subsets(flags: Flags) -> List[str]:
    """The subsets that a training reads."""
    named = (flags.get(f"{subset}-subset") or subset for subset in ("train", "valid"))
    return ",".join(map(str, named)).split(",")


def _is_one_of(path: str, others: Sequence[str]) -> bool:
    return any(Path(path).samefile(other) for other in others)


def _as_list(value: Any) -> List[str]:
    return [value] if isinstance(value, str) else list(value)


def _shown(path: Path) -> str:
    """A path relative to the current folder if it lies inside, as a user would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
