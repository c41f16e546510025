"""The steps that store a teacher's top-k distributions for the trainings of a run."""

from typing import Any, List, Mapping, Optional, Sequence

from fairseq_kd.pipeline.corpus import Corpus
from fairseq_kd.pipeline.run_models import Model
from fairseq_kd.pipeline.workflow import LaidOutStep, in_shards, last_part
from fairseq_kd.teachers.options import StoreMergeOptions, StoreOptions


def store_steps(
    teacher: Model,
    corpus: Corpus,
    data: str,
    made_by: Sequence[str],
    section: Mapping[str, Any],
    subsets: Sequence[str],
    out: str,
    user_dir: Optional[str],
) -> List[LaidOutStep]:
    """The steps that store a teacher's top-k distributions; the last one completes the store.

    Args:
        teacher: the teacher.
        corpus: the corpus of the run.
        data: the folder of the binarised data: the corpus, or a distilled set.
        made_by: the steps that make that folder.
        section: ``store`` of the run file.
        subsets: of the data.
        out: the folder of the store; the last step has its name.
        user_dir: the run's own plugin, if it has one.

    Raises:
        ValueError: the section has an unknown flag, or a value out of its range.
    """
    flags = {"user-dir": user_dir, "teacher": teacher.checkpoint, **teacher.language_flags()}
    flags |= {"data": data, "out": out}
    flags["subset"] = ",".join(subsets)
    flags.update((key, value) for key, value in section.items() if key != "shards")
    after = [*made_by, *teacher.after]
    reads = [*teacher.reads(), *(corpus.reads(tuple(subsets)) if data == corpus.folder else [])]
    makes = [f"{out}/{subset}/sentences.npy" for subset in subsets]  # written last
    merge = StoreMergeOptions.of({"out": out, "subset": flags["subset"]})
    whole = LaidOutStep(last_part(out), "store", merge, after, reads, makes, out, 1)
    return in_shards(whole, StoreOptions, flags, section.get("shards", 1))
