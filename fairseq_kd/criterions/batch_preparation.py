"""Adds target positions and store records to batches, in the workers of fairseq's data loader.

A batch gets the positions of its real tokens and the records of its stores, which are read and
checked there. fairseq pins them and copies them to the GPU together with the batch.
"""

import functools
from typing import Any, Callable, Dict, Sequence

from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_kd.models.real_tokens import PREPARED, RealTokens
from fairseq_kd.teachers.stored_teacher import StoredTeacher

Sample = Dict[str, Any]


class BatchPreparation:
    """Adds what the loss needs to the batches of all data that a task loads from now on.

    Args:
        mask: of a batch, gives (B, L) bool, True at the target tokens that count.
        ignored: ``--ignore-prefix-size``, on which the mask depends.
        stores: the stores from which the soft targets are read.
        teacher_sample: gives a batch as the teachers read it.
    """

    def __init__(
        self,
        mask: Callable[[Sample], Tensor],
        ignored: int,
        stores: Sequence[StoredTeacher] = (),
        teacher_sample: Callable[[Sample], Sample] = lambda sample: sample,
    ):
        self.mask, self.ignored = mask, ignored
        self.stores, self.teacher_sample = stores, teacher_sample

    def attach(self, task: FairseqTask) -> None:
        """Has a task prepare the batches of the data that it loads."""
        inner = task.load_dataset

        @functools.wraps(inner)
        def load_dataset(split: str, *args: Any, **kwargs: Any) -> Any:
            result = inner(split, *args, **kwargs)
            dataset = task.datasets[split]
            dataset.collater = functools.partial(self.collated, dataset.collater)
            return result

        task.load_dataset = load_dataset

    def collated(self, collater: Callable[..., Sample], *args: Any, **kwargs: Any) -> Sample:
        """The batch that a data set makes of its sentences, prepared.

        Raises:
            ValueError: a store has no entry for one of the sentences, or is damaged.
        """
        sample = collater(*args, **kwargs)
        if sample:  # fairseq makes an empty batch of no sentences
            sample[PREPARED] = self.parts(sample)
        return sample

    def parts(self, sample: Sample) -> Dict[str, Any]:
        """The prepared parts of a batch: positions, and the records of each store by its name."""
        mask, read = self.mask(sample), self.teacher_sample(sample)
        return {
            "shape": tuple(mask.shape),
            "ntokens": sample["ntokens"],
            "ignored": self.ignored,
            "positions": RealTokens.of_mask(mask).positions,
            "records": {store.name: store.records(read, mask) for store in self.stores},
        }
