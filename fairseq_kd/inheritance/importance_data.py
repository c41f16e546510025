"""The sentences on which ``fairseq-kd inherit`` measures the importance of a teacher's parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np
import torch
from fairseq.data.data_utils import infer_language_pair
from fairseq.tasks import FairseqTask
from fairseq.utils import move_to_cuda

from fairseq_kd.binarised import check_not_raw, check_subset
from fairseq_kd.inheritance.importance import Batch, Importance, importance_on_data
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.models.structure import SIDES, Structure
from fairseq_kd.progress import ProgressLine
from fairseq_kd.teachers.compatibility import check_same_vocabulary, language_pair
from fairseq_kd.teachers.languages import Languages, Pair
from fairseq_kd.teachers.live_teacher import LiveTeacher
from fairseq_kd.teachers.teacher_data import batches_of, data_fingerprint, task_on


@dataclass(frozen=True)
class ImportanceData:
    """Sentences of a set of data, at equal distances in it.

    Args:
        folder: of fairseq-preprocess.
        subset: the set.
        sentences: at most so many.
        max_tokens: target tokens per batch, padding included; without influence on the result.
    """

    folder: Path
    subset: str
    sentences: int
    max_tokens: int

    def languages(self, teacher: Optional[Pair]) -> Languages:
        """The languages of the data.

        Args:
            teacher: names that the teacher gives them, if they are others.

        Raises:
            FileNotFoundError: the folder holds no binarised data.
        """
        pair = infer_language_pair(str(self.folder)) if self.folder.is_dir() else (None, None)
        if None in pair:
            raise FileNotFoundError(
                f"--data {self.folder} is not a folder that fairseq-preprocess wrote. Give one."
            )
        return Languages(tuple(pair), teacher, folder=str(self.folder))

    def identity(self) -> Dict[str, Any]:
        """What the result depends on.

        Raises:
            FileNotFoundError: the data have no such set.
        """
        pair = self.languages(None).data
        fingerprint = data_fingerprint(str(self.folder), self.subset, pair)
        return {"data": fingerprint, "subset": self.subset, "sentences": self.sentences}


class ImportanceMeasurement:
    """Measures the importance of a teacher's parts; the data are checked first.

    Args:
        name: how errors name the teacher.
        model: the teacher.
        task: as ``load_teacher`` gives it.
        data: the sentences.

    Raises:
        FileNotFoundError: the data have no such set.
        ValueError: the data do not fit the teacher, or are damaged; or its attention has no such
            measures.
    """

    def __init__(self, name: str, model: Any, task: FairseqTask, data: ImportanceData):
        if any(getattr(each, "cross_self_attention", False) for each in model.decoder.layers):
            raise ValueError(
                f"{name} attends to source and target at once (--cross-self-attention), which "
                "--importance data cannot measure. Leave it out."
            )
        self.data, self.task = data, task_on(task, str(data.folder))
        check_same_vocabulary(name, task, self.task)
        sides = (self.task.source_dictionary, self.task.target_dictionary)
        sizes = dict(zip(language_pair(self.task), map(len, sides), strict=True))
        check_subset(data.folder, data.subset, sizes)
        check_not_raw(data.folder, data.subset)
        self.name = name
        self.teacher = LiveTeacher(model, "float32", task)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def measure(self, sides: Sequence[str]) -> Importance:
        """The importance of heads and units, and of the layers of some sides.

        Raises:
            ValueError: the teacher can read none of the sentences, or computes NaN or infinity.
        """
        self.task.load_dataset(self.data.subset, combine=True)
        self.dataset = self.task.dataset(self.data.subset)
        numbers = self._readable()
        model = self.teacher.model
        name = f"importance on {self.data.subset}"
        model.to(self.device)
        with ProgressLine(name, len(numbers), "sentences") as progress:
            batches, vocab_size = self._batches(numbers), len(self.task.target_dictionary)
            structure = Structure(model, self.name)
            found = importance_on_data(structure, batches, vocab_size, sides, progress.add)
        model.cpu()
        if not found.is_finite:
            raise ValueError(
                f"{self.name} computes NaN or infinity for the sentences of {self.data.subset}, as "
                "after a diverged training. Give another checkpoint."
            )
        return found

    def _readable(self) -> List[int]:
        """The numbers of the sentences, of those that are not too long for the teacher."""
        limits = self.teacher.max_positions
        lengths = (self.dataset.src_sizes, self.dataset.tgt_sizes)
        fits = (lengths[0] <= limits[0]) & (lengths[1] <= limits[1])
        readable = np.flatnonzero(fits).tolist()
        if not readable:
            raise ValueError(
                f"{self.name} reads sentences of at most {limits[0]} and {limits[1]} tokens, but "
                f"all of {self.data.subset} in --data {self.data.folder} are longer. Give data "
                "with shorter ones."
            )
        count = min(self.data.sentences, len(readable))
        return [readable[i * len(readable) // count] for i in range(count)]

    def _batches(self, numbers: Sequence[int]) -> Iterator[Batch]:
        for batch in batches_of(self.dataset, numbers, self.data.max_tokens):
            sample = self.dataset.collater([self.dataset[number] for number in batch])
            yield self._batch(move_to_cuda(sample) if self.device.type == "cuda" else sample)

    def _batch(self, sample: Mapping[str, Any]) -> Batch:
        real = RealTokens.of_mask(sample["target"].ne(self.task.target_dictionary.pad()))
        target = real.of(sample["target"])
        return Batch(
            *self.teacher.format.batch(sample["net_input"], real), target, len(sample["id"])
        )


def undecided_sides(
    student: Structure, teacher: Structure, layers: Mapping[str, Optional[Sequence[int]]]
) -> List[str]:
    """The sides whose layers are to be chosen by importance.

    Args:
        student: the student.
        teacher: the teacher.
        layers: those that were given, for each side.

    Raises:
        ValueError: there is nothing to choose, neither layers nor heads nor units.
    """
    undecided = [
        side
        for side in SIDES
        if layers[side] is None and len(student.layers(side)) < len(teacher.layers(side))
    ]
    sizes = [[_sizes(each, side) for side in SIDES] for each in (student, teacher)]
    if not undecided and sizes[0] == sizes[1]:
        raise ValueError(
            "--importance data has no effect on a student with all heads and units of its "
            "teacher's layers, and no layers to choose. Leave it out."
        )
    return undecided


def _sizes(structure: Structure, side: str) -> Sequence[int]:
    layer = structure.layers(side)[0]
    return (layer.self_attn.num_heads, layer.self_attn.head_dim, len(layer.fc1.weight))
