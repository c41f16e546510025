"""Lays a run out: from what its file says to the steps that make it true.

In the order of work: the text, the teacher, and for each rung of the ladder what its teacher knows
(a store, translations), where it starts, and its training; then the controls, and the evaluation.
"""

import filecmp
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import fairseq_kd
from fairseq_kd.progressive.run_file import COLD, INHERIT, Flags, RunFile, Rung
from fairseq_kd.progressive.steps import Step
from fairseq_kd.progressive.training_command import (
    PLAIN,
    as_words,
    stage_flags,
    training_command,
)

ROOT = Path(fairseq_kd.__file__).resolve().parents[1]
TEACHER, STUDENT, UNDISTILLED, ONE_STEP = "teacher", "student", "undistilled", "one-step"
TRANSLATIONS = "teacher-translations"
SHARED = "share-all-embeddings"
CONTROL_FOR_REPORT = {UNDISTILLED: "--control", ONE_STEP: "--student"}


class Model(NamedTuple):
    """A model of the run, or one that was there before.

    Args:
        name: of its step, or of the teacher that was given.
        checkpoint: its file.
        step: that makes it; None if it was there.
    """

    name: str
    checkpoint: str
    step: Optional[str]


class Layout:
    """The steps of a run, collected as they are needed.

    Args:
        run: the run file. Text and teachers are laid out at once, for the ladder hangs on them.
    """

    def __init__(self, run: RunFile):
        self.run, self.folder = run, run.folder
        self.steps: List[Step] = []
        self.user_dir = run.get("user-dir", None) or shown(ROOT / "user_dir")
        self.gpus = run.get("gpus", 1)
        self.data, self.pair, self.prepared = self._data()
        self.models: Dict[str, Model] = {model.name: model for model in self._teachers()}
        self.teachers = list(self.models)

    def add_ladder(self, rungs: Sequence[Rung], size_flags: Sequence[List[str]]) -> None:
        """Lays out the rungs, what they need, the controls and the evaluation.

        Args:
            rungs: with names, from large to small.
            size_flags: for each of them the flags that make fairseq-train build its size.
        """
        ladder = list(zip(rungs, size_flags, strict=True))
        before = self.teachers
        for rung, flags in ladder:
            settings = {"learns-from": before, **self.run.each, **rung.settings}
            self.models[rung.name] = self._stage(rung.name, flags, settings)
            before = [rung.name]
        self._controls(*ladder[-1])
        self._evaluate([rung.name for rung, _ in ladder])

    def _add(self, step: Step) -> Step:
        if all(step.name != each.name for each in self.steps):
            self.steps.append(step)
        return step

    def _path(self, *parts: str) -> str:
        return str(self.folder.joinpath(*parts))

    # ---- the text

    def _data(self) -> Tuple[str, Tuple[str, str], List[str]]:
        """The folder that fairseq-train reads, its languages, and the step that makes it."""
        if isinstance(self.run.data, str):
            return self.run.data, language_pair(Path(self.run.data)), []
        asked = self.run.data
        script = ROOT / "scripts" / "prepare.sh"
        if not script.is_file():
            raise ValueError(
                f"{self.run.path}: data.text needs scripts/prepare.sh of the clone, which is not "
                "installed with the package. Give a folder of fairseq-preprocess as data instead."
            )
        pair = (asked["source"], asked["target"])
        env = [f"{name}={asked[key]}" for key, name in PREPARING.items() if key in asked]
        reads = text_files(Path(asked["text"]), pair)
        out = self._path("data")
        makes = [f"{out}/bin/dict.{language}.txt" for language in pair]
        makes += [
            f"{out}/bin/{split}.{'-'.join(pair)}.{language}.{end}"
            for split in ("train", "valid", "test")
            for language in pair
            for end in ("bin", "idx")
        ]
        command = ["env", *env] if env else []
        command += [shown(script), *pair, asked["text"], out]
        self._add(Step("data", "prepare", [command], [], reads, makes, out))
        return f"{out}/bin", pair, ["data"]

    def _reads_data(self) -> List[str]:
        """The files of data that no step of the run makes."""
        if self.prepared:
            return []
        names = sorted(path.name for path in Path(self.data).iterdir() if path.is_file())
        kept = [name for name in names if name.startswith(("dict.", "train", "valid", "test"))]
        return [f"{self.data}/{name}" for name in kept]

    # ---- trainings

    def _teachers(self) -> List[Model]:
        asked = self.run.teacher
        if isinstance(asked, list):
            names = [TEACHER] if len(asked) == 1 else []
            names = names or [f"{TEACHER}-{i}" for i in range(1, len(asked) + 1)]
            for path in asked:
                if not Path(path).is_file():
                    raise FileNotFoundError(
                        f"{self.run.path}: the teacher {path} does not exist. Give a checkpoint, "
                        "or teacher: {arch: ...} to train one."
                    )
            return [Model(name, path, None) for name, path in zip(names, asked, strict=True)]
        settings = {"criterion": PLAIN, **asked}
        size = self.arch_flags(asked["arch"])
        return [self._train(TEACHER, size, settings, self.data, {}, [], [])]

    def arch_flags(self, arch: str) -> List[str]:
        """The flags of a named architecture; it shares its embeddings if the languages do."""
        return ["--arch", arch, *([f"--{SHARED}"] if self._shares() else [])]

    def _stage(self, name: str, size: List[str], settings: Mapping[str, Any]) -> Model:
        """A rung, and before it what it learns from."""
        teachers = [self._model(name, each) for each in _as_list(settings["learns-from"])]
        data, after = self.data, list(self.prepared)
        if settings["data"] != "gold":
            data, step = self._distilled(settings["data"])
            after = [step]
        flags: Flags = {}
        reads: List[str] = []
        if settings["criterion"] != PLAIN:
            if settings["knowledge"] == "store":
                stores = [self._store(each, data, after) for each in teachers]
                flags["kd-store"] = os.pathsep.join(folder for folder, _ in stores)
                after += [step for _, step in stores]
            else:
                flags["kd-teacher"] = os.pathsep.join(each.checkpoint for each in teachers)
                after += [each.step for each in teachers if each.step]
                reads += [each.checkpoint for each in teachers if not each.step]
        start, its_step, its_file = self._start(name, size, settings["start"], teachers[0])
        flags.update(start)
        return self._train(name, size, settings, data, flags, after + its_step, reads + its_file)

    def _train(
        self,
        name: str,
        size: List[str],
        settings: Mapping[str, Any],
        data: str,
        knowledge: Flags,
        after: List[str],
        reads: List[str],
    ) -> Model:
        seed = {"seed": self.run.get("seed", 1)}
        flags = stage_flags(settings, knowledge, seed, self.run.train, settings.get("train", {}))
        if SHARED in flags:  # asked for, whatever suits the dictionaries
            size = [word for word in size if word != f"--{SHARED}"]
        languages = ["--source-lang", self.pair[0], "--target-lang", self.pair[1]]
        words = [*languages, *size, *as_words(flags)]
        save_dir = self._path(name)
        command = training_command(name, data, save_dir, words, self.user_dir, self.gpus)
        usual = "best" if settings.get("data", "gold") == "gold" else "last"
        checkpoint = f"{save_dir}/checkpoint_{settings.get('checkpoint', usual)}.pt"
        after = list(dict.fromkeys(after or self.prepared))
        reads = list(dict.fromkeys([*self._reads_data(), *reads]))
        self._add(Step(name, "train", [command], after, reads, [checkpoint], save_dir, self.gpus))
        return Model(name, checkpoint, name)

    def _model(self, stage: str, name: str) -> Model:
        if name not in self.models:
            raise ValueError(
                f"{self.run.path}: {stage} learns from {name}, which is not trained before it. "
                f"Before it are {', '.join(self.models)}."
            )
        return self.models[name]

    def _shares(self) -> bool:
        """Whether both languages have one dictionary, as prepared text does."""
        if self.prepared:
            return True
        files = [Path(self.data) / f"dict.{language}.txt" for language in self.pair]
        return all(path.is_file() for path in files) and filecmp.cmp(*files, shallow=False)

    def _start(
        self, name: str, size: List[str], start: str, teacher: Model
    ) -> Tuple[Flags, List[str], List[str]]:
        """The flags that start a training, the step that this needs, and what it reads."""
        if start == COLD:
            return {}, [], []
        if start != INHERIT:
            if not Path(start).is_file():
                raise FileNotFoundError(
                    f"{self.run.path}: {name} starts from {start}, which does not exist. Give "
                    f"{COLD}, {INHERIT} or a checkpoint."
                )
            return {"finetune-from-model": start}, [], [start]
        out = self._path(f"{name}-start", "start.pt")
        command = ["fairseq-kd", "inherit", "--teacher", teacher.checkpoint]
        command += ["--arch", size[1], "--out", out, "--", *size[2:]]
        step = f"{name}-start"
        after, reads = ([teacher.step], []) if teacher.step else ([], [teacher.checkpoint])
        self._add(Step(step, "inherit", [command], after, reads, [out], self._path(step)))
        return {"finetune-from-model": out}, [step], []

    # ---- what the teacher knows, on disk

    def _store(self, teacher: Model, data: str, after: List[str]) -> Tuple[str, str]:
        """The folder of the teacher's store of some data, and the step that makes it whole."""
        asked = self.run.get("store", {})
        name = f"{teacher.name}-store" + ("" if data == self.data else f"-{Path(data).name}")
        out, shards = self._path(name), asked.get("shards", 1)
        command = ["fairseq-kd", "store", "--teacher", teacher.checkpoint, "--data", data]
        command += ["--out", out, *as_words({k: v for k, v in asked.items() if k != "shards"})]
        after = [*after, *([teacher.step] if teacher.step else [])]
        reads = [] if teacher.step else [teacher.checkpoint]
        reads += self._reads_data() if data == self.data else []
        makes = [f"{out}/{split}/subset.json" for split in ("train", "valid")]
        if shards == 1:
            self._add(Step(name, "store", [command], after, reads, makes, out, 1))
            return out, name
        parts = []
        for index in range(1, shards + 1):
            shard = [*command, "--shard", f"{index}/{shards}"]
            parts.append(f"{name}-{index}-of-{shards}")
            self._add(Step(parts[-1], "store", [shard], after, reads, [], out, 1))
        merge = ["fairseq-kd", "store-merge", "--out", out, "--subset", "train,valid"]
        self._add(Step(name, "merge", [merge], parts, [], makes, out))
        return out, name

    def _distilled(self, kind: str) -> Tuple[str, str]:
        """The folder of the distilled training set, and the step that makes it."""
        asked = self.run.get("distilled", {})
        out, shards = self._path(TRANSLATIONS), asked.get("shards", 1)
        teachers = [self.models[name] for name in self.teachers]
        command = ["fairseq-kd", "translate"]
        command += ["--teacher", os.pathsep.join(each.checkpoint for each in teachers)]
        command += ["--data", self.data, "--out", out, *as_words(asked.get("translate", {}))]
        after = [*self.prepared, *(each.step for each in teachers if each.step)]
        reads = self._reads_data() + [each.checkpoint for each in teachers if not each.step]
        whole = [f"{out}/hypotheses.txt"]
        if shards == 1:
            self._add(Step(TRANSLATIONS, "translate", [command], after, reads, whole, out, 1))
        else:
            parts = []
            for index in range(1, shards + 1):
                shard = [*command, "--shard", f"{index}/{shards}"]
                parts.append(f"{TRANSLATIONS}-{index}-of-{shards}")
                self._add(Step(parts[-1], "translate", [shard], after, reads, [], out, 1))
            merge = ["fairseq-kd", "merge", out]
            self._add(Step(TRANSLATIONS, "merge", [merge], parts, [], whole, out))
        made = self._path(kind)
        mix = {"select": "best", **asked.get("distill-data", {})}
        if kind == "mixed":
            mix = {"mix": "gold", **mix}
        command = ["fairseq-kd", "distill-data", "--translations", out, "--data", self.data]
        command += ["--out", made, *as_words(mix)]
        makes = [f"{made}/manifest.json"]
        self._add(Step(kind, "distill", [command], [TRANSLATIONS], [], makes, made))
        return made, kind

    # ---- what is compared

    def _controls(self, rung: Rung, size: List[str]) -> None:
        """The last rung's size and updates, without a teacher, or without the ladder."""
        settings = {**self.run.each, **rung.settings}
        for control in self.run.get("controls", [UNDISTILLED]):
            own = {**settings, "learns-from": self.teachers}
            if control == UNDISTILLED:
                own.update(criterion=PLAIN, start=COLD, data="gold")
            self.models[control] = self._stage(control, size, own)

    def _evaluate(self, rungs: List[str]) -> None:
        asked = {"subset": "test", **self.run.get("evaluate", {})}
        command = ["fairseq-kd", "evaluate", "--data", self.data, "--out", str(self.folder)]
        systems = [("--teacher", self.models[self.teachers[0]])]
        systems += [("--student", self.models[name]) for name in rungs]
        controls = self.run.get("controls", [UNDISTILLED])
        systems += [(CONTROL_FOR_REPORT[name], self.models[name]) for name in controls]
        for flag, model in systems:
            command += [flag, f"{model.name}={model.checkpoint}"]
        command += as_words(asked)
        after = [model.step for _, model in systems if model.step]
        reads = [model.checkpoint for _, model in systems if not model.step]
        makes = [self._path(name) for name in ("evaluation.json", "report.md", "report.html")]
        self._add(Step("evaluation", "evaluate", [command], after, reads, makes))


PREPARING = {"merges": "MERGES", "max-words": "MAX_WORDS"}  # how scripts/prepare.sh is told


def _as_list(value: Any) -> List[str]:
    return [value] if isinstance(value, str) else list(value)


def shown(path: Path) -> str:
    """A path as it is typed: from the current folder if it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def language_pair(data: Path) -> Tuple[str, str]:
    """The languages of a folder that fairseq-preprocess wrote.

    Raises:
        FileNotFoundError: the folder is missing, or holds no training set.
        ValueError: it holds several pairs.
    """
    if not data.is_dir():
        raise FileNotFoundError(f"data: {data} is no folder. Give what fairseq-preprocess wrote.")
    found = {path.name.split(".")[1] for path in data.glob("train.*-*.*.idx")}
    if len(found) != 1:
        has = f"holds {', '.join(sorted(found))}" if found else "holds no training set"
        kind = ValueError if found else FileNotFoundError
        raise kind(f"data: {data} {has}. Give what fairseq-preprocess wrote for one language pair.")
    source, _, target = found.pop().partition("-")
    return source, target


def text_files(folder: Path, pair: Tuple[str, str]) -> List[str]:
    """The files of a folder of text that scripts/prepare.sh reads.

    Raises:
        FileNotFoundError: one is missing.
    """
    found = []
    for split in ("train", "valid", "test"):
        for language in pair:
            plain = folder / f"{split}.{language}"
            choices = [plain, Path(f"{plain}.xz"), Path(f"{plain}.gz")]
            path = next((path for path in choices if path.is_file()), None)
            if path is None:
                raise FileNotFoundError(
                    f"data.text: {plain} is missing (nor is there {plain}.xz or {plain}.gz)."
                )
            found.append(str(path))
    return found
