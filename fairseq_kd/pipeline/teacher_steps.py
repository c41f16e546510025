"""What teachers know, on disk: the steps that store their words, and that let them translate."""

import os
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence

from fairseq_kd.pipeline.corpus import Corpus
from fairseq_kd.pipeline.training_command import as_words
from fairseq_kd.pipeline.workflow import Step

TRANSLATIONS = "teacher-translations"


class Model(NamedTuple):
    """A model of the run, or one that was there before.

    Args:
        name: of its step, or of the teacher that was given.
        checkpoint: its file.
        step: that makes it; None if it was there.
        updates: of its training, if a step makes it.
        start: whose weights that training starts from; None for random ones.
    """

    name: str
    checkpoint: str
    step: Optional[str]
    updates: int = 0
    start: Optional["Model"] = None

    @property
    def after(self) -> List[str]:
        """The step to wait for."""
        return [self.step] if self.step else []

    def reads(self) -> List[str]:
        """Its file, if no step of the run makes it."""
        return [] if self.step else [self.checkpoint]

    def updates_behind(self) -> Optional[int]:
        """Those that will stand behind its weights, inherited ones included; None if unknown."""
        from fairseq_kd.updates import updates_behind  # which imports torch

        if self.step is None:
            return updates_behind(self.checkpoint)
        inherited = self.start.updates_behind() if self.start else 0
        return None if inherited is None else inherited + self.updates


def store_steps(
    teacher: Model,
    gold: Corpus,
    data: str,
    made_by: Sequence[str],
    asked: Mapping[str, Any],
    out: str,
) -> List[Step]:
    """Makes the store of a teacher; whole after the last step.

    Args:
        teacher: whose words are stored.
        gold: the corpus of the run.
        data: the folder to read: the corpus, or what teachers translated.
        made_by: the step that makes that folder.
        asked: ``store`` of the run file.
        out: the folder of the store; its name is the last step's.
    """
    command = ["fairseq-kd", "store", "--teacher", teacher.checkpoint, "--data", data]
    command += ["--out", out, *as_words({k: v for k, v in asked.items() if k != "shards"})]
    reads = [*teacher.reads(), *(gold.reads() if data == gold.folder else [])]
    makes = [f"{out}/{split}/sentences.npy" for split in ("train", "valid")]  # written last
    step = Step(_last(out), "store", [command], [*made_by, *teacher.after], reads, makes, out, 1)
    merge = ["fairseq-kd", "store-merge", "--out", out, "--subset", "train,valid"]
    return _in_shards(step, asked.get("shards", 1), merge)


def translation_steps(
    teachers: Sequence[Model], gold: Corpus, asked: Mapping[str, Any], out: str
) -> List[Step]:
    """Decodes the training set with its teachers; whole after the last step.

    Args:
        teachers: several are averaged.
        gold: the corpus of the run.
        asked: ``distilled`` of the run file.
        out: the folder of the translations; its name is the last step's.
    """
    command = ["fairseq-kd", "translate"]
    command += ["--teacher", os.pathsep.join(each.checkpoint for each in teachers)]
    command += ["--data", gold.folder, "--out", out, *as_words(asked.get("translate", {}))]
    after = [*gold.after, *(name for each in teachers for name in each.after)]
    reads = [*gold.reads(), *(path for each in teachers for path in each.reads())]
    makes = [f"{out}/hypotheses.txt"]
    step = Step(_last(out), "translate", [command], after, reads, makes, out, 1)
    return _in_shards(step, asked.get("shards", 1), ["fairseq-kd", "merge", out])


def distilled_step(gold: Corpus, asked: Mapping[str, Any], translations: str, out: str) -> Step:
    """Makes a training set of translations.

    Args:
        gold: the corpus of the run.
        asked: ``distilled`` of the run file.
        translations: their folder.
        out: the folder of the set: ``distilled``, or ``mixed`` with gold pairs.
    """
    options = {"select": "best", **asked.get("distill-data", {})}
    if _last(out) == "mixed":
        options = {"mix": "gold", **options}
    command = ["fairseq-kd", "distill-data", "--translations", translations]
    command += ["--data", gold.folder, "--out", out, *as_words(options)]
    makes = [f"{out}/manifest.json"]
    return Step(_last(out), "distill", [command], [_last(translations)], [], makes, out)


def _in_shards(whole: Step, shards: int, merge: List[str]) -> List[Step]:
    """A step as it is, or as parts for several machines and one that merges them."""
    if shards == 1:
        return [whole]
    parts = [
        whole._replace(
            name=f"{whole.name}-{index}-of-{shards}",
            commands=[[*command, "--shard", f"{index}/{shards}"] for command in whole.commands],
            makes=[],
        )
        for index in range(1, shards + 1)
    ]
    names = [part.name for part in parts]
    joined = whole._replace(kind="merge", commands=[merge], after=names, reads=[], gpus=0)
    return [*parts, joined]


def _last(folder: str) -> str:
    return os.path.basename(folder)
