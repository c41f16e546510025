"""The models of a run, the flags of their trainings, and the steps that store soft targets."""

import os
import re
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type

from fairseq_kd.command_line import Options
from fairseq_kd.fairseq_flags import Flags
from fairseq_kd.flag_types import WHOLE
from fairseq_kd.pipeline.corpus import Corpus
from fairseq_kd.pipeline.workflow import LaidOutStep
from fairseq_kd.teachers.options import StoreMergeOptions, StoreOptions

DEFAULTS: Flags = {
    "label-smoothing": 0.1,
    "dropout": 0.1,
    "optimizer": "adam",
    "adam-betas": "(0.9, 0.98)",
    "clip-norm": 1.0,
    "lr": 5e-4,
    "lr-scheduler": "inverse_sqrt",
    "max-update": 100000,
    "max-tokens": 4096,
    "save-interval-updates": 1000,
    "keep-interval-updates": 1,
    "no-epoch-checkpoints": True,
    "best-checkpoint-metric": "nll_loss",
    "update-epoch-batch-itr": "True",  # otherwise a restart would form different batches
    "no-progress-bar": True,
    "log-format": "json",
    "log-interval": 50,
}
WARMUP = 4000  # updates, or a tenth of a shorter training, and at least 1
WARMING = ("inverse_sqrt", "polynomial_decay", "cosine", "reduce_lr_on_plateau", "step")
SETTINGS = {  # keys of a stage that are flags of fairseq-train
    "criterion": "criterion",
    "alpha": "kd-alpha",
    "beta": "kd-beta",
    "curriculum": "curriculum",
    "patience": "patience",
}
PLAIN = "label_smoothed_cross_entropy"
PEERS = ("kd-peers", "kd-peer-overrides", "kd-mutual-weight", "kd-mutual-gradient")
TEACHERLESS = {  # criterions without a teacher, and those of our flags that they have
    PLAIN: (),
    "mutual_learning": (*PEERS, "kd-detach-ratio", "kd-chunk-tokens", "kd-compile"),
}


# The flags of fairseq-train that set the size of a transformer.
SIZES = tuple(
    f"{side}-{size}"
    for side in ("encoder", "decoder")
    for size in ("layers", "embed-dim", "ffn-embed-dim", "attention-heads")
)


def stage_flags(settings: Mapping[str, Any], teacher_flags: Flags, *layers: Flags) -> Flags:
    """The fairseq-train flags of a training.

    Args:
        settings: the keys of the stage: criterion, weights, temperature and so on.
        teacher_flags: the flags that name its teacher and initial weights; nothing overrides them.
        layers: flags that override defaults and settings; later ones override earlier ones.

    Raises:
        ValueError: max-update is not a number of updates.
    """
    flags = {flag: settings[key] for key, flag in SETTINGS.items() if key in settings}
    flags = {**flags, **teacher_flags, **_temperature(settings.get("temperature")), **DEFAULTS}
    for layer in (*layers, teacher_flags):
        flags.update(layer)
    if flags["optimizer"] != "adam" and not any("adam-betas" in layer for layer in layers):
        del flags["adam-betas"]
    if "total-num-update" not in flags and flags["lr-scheduler"] == "polynomial_decay":
        flags["total-num-update"] = flags["max-update"]
    if "warmup-updates" not in flags and flags["lr-scheduler"] in WARMING:
        flags["warmup-updates"] = max(1, min(WARMUP, _updates(flags) // 10))  # some divide by it
    if flags["criterion"] in TEACHERLESS:
        known = TEACHERLESS[flags["criterion"]]
        flags = {k: value for k, value in flags.items() if not k.startswith("kd-") or k in known}
    return flags


def _updates(flags: Flags) -> int:
    text = str(flags["max-update"])
    if not WHOLE.fullmatch(text) or int(text) <= 0:
        raise ValueError(f"max-update must be a whole number above 0, but is {text}.")
    return int(text)


def _temperature(setting: Any) -> Flags:
    if setting is None:
        return {}
    if not isinstance(setting, Mapping):
        return {"kd-temperature": setting}
    schedule = setting.get("schedule", "exponential")
    return {
        "kd-temperature": setting["from"],
        "kd-temperature-final": setting["to"],
        "kd-temperature-schedule": schedule,
    }


LENGTHS = (  # flags of learning-rate schedules that count updates, the warm-up apart
    *("total-num-update", "lr-period-updates", "lr-deacy-period"),  # fairseq's spelling
    *("hold-steps", "decay-steps"),
)
NUMBER = re.compile(r"\d+(\.\d*)?([eE]\+?\d+)?")  # as YAML has it, or in quotes
TRANSLATIONS, IMPORTED = "teacher-translations", "imported-translations"
MONOLINGUAL = "monolingual-text"


class Model(NamedTuple):
    """A model that the run trains, or an existing one.

    Args:
        name: the name of its step, or of the given teacher.
        checkpoint: its file.
        step: the step that makes it; None if it exists already.
        updates: the length of its training, if a step trains it.
        start: the model whose weights that training starts from; None for random weights.
        languages: the names of the run's languages in the model, if they are others.
    """

    name: str
    checkpoint: str
    step: Optional[str]
    updates: int = 0
    start: Optional["Model"] = None
    languages: Optional[Tuple[str, str]] = None

    @property
    def after(self) -> List[str]:
        """The step that makes the model, as a list; empty if it exists already."""
        return [self.step] if self.step else []

    def language_flags(self, teacher: str = "teacher") -> Flags:
        """The flags that name its languages, where it needs any; ``teacher`` is the teacher's."""
        if self.languages is None:
            return {}
        source, target = self.languages
        return {f"{teacher}-source-lang": source, f"{teacher}-target-lang": target}

    def reads(self) -> List[str]:
        """Its checkpoint as an input file; none if a step of the run makes it."""
        return [] if self.step else [self.checkpoint]

    def updates_behind(self) -> Optional[int]:
        """The updates of its weights in all, inherited ones included; None if unknown."""
        from fairseq_kd.checkpoints.updates import updates_behind  # which imports torch

        if self.step is None:
            return updates_behind(self.checkpoint)
        inherited = self.start.updates_behind() if self.start else 0
        return None if inherited is None else inherited + self.updates


def stretched_schedule(flags: Flags, factor: float) -> Flags:
    """The lengths of a learning-rate schedule among the flags of a training, times a factor."""
    return {
        flag: round(float(flags[flag]) * factor)
        for flag in LENGTHS
        if NUMBER.fullmatch(str(flags.get(flag)))
    }


def store_steps(
    teacher: Model,
    gold: Corpus,
    data: str,
    made_by: Sequence[str],
    section: Mapping[str, Any],
    splits: Sequence[str],
    out: str,
    user_dir: Optional[str],
) -> List[LaidOutStep]:
    """The steps that store a teacher's top-k distributions; the last one completes the store.

    Args:
        teacher: the teacher.
        gold: the corpus of the run.
        data: the folder of the binarised data: the corpus, or a distilled set.
        made_by: the steps that make that folder.
        section: ``store`` of the run file.
        splits: of the data.
        out: the folder of the store; the last step has its name.
        user_dir: the run's own plugin, if it has one.

    Raises:
        ValueError: the section has an unknown flag, or a value out of its range.
    """
    flags = {"user-dir": user_dir, "teacher": teacher.checkpoint, **teacher.language_flags()}
    flags |= {"data": data, "out": out}
    flags["subset"] = ",".join(splits)
    flags.update((key, value) for key, value in section.items() if key != "shards")
    after = [*made_by, *teacher.after]
    reads = [*teacher.reads(), *(gold.reads(tuple(splits)) if data == gold.folder else [])]
    makes = [f"{out}/{split}/sentences.npy" for split in splits]  # written last
    merge = StoreMergeOptions.of({"out": out, "subset": flags["subset"]})
    whole = LaidOutStep(last_part(out), "store", merge, after, reads, makes, out, 1)
    return in_shards(whole, StoreOptions, flags, section.get("shards", 1))


def in_shards(
    whole: LaidOutStep, options: Type[Options], flags: Mapping[str, Any], shards: int
) -> List[LaidOutStep]:
    """A step as one, or as parts for several machines and one that merges them.

    Args:
        whole: the step, whose command merges.
        options: of the command that does the work.
        flags: its flags.
        shards: how many parts.
    """
    if shards == 1:
        return [whole._replace(command=options.of(flags))]
    parts = [
        whole._replace(
            name=f"{whole.name}-{index}-of-{shards}",
            command=options.of([*flags.items(), ("shard", f"{index}/{shards}")]),
            makes=[],
        )
        for index in range(1, shards + 1)
    ]
    names = [part.name for part in parts]
    return [*parts, whole._replace(kind="merge", after=names, reads=[], gpus=0)]


def last_part(folder: str) -> str:
    """The last part of a path, which is the name of its step."""
    return os.path.basename(folder)
