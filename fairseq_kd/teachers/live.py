"""A teacher that runs beside the student: loaded once, frozen, on its device, in its precision."""

from typing import Any, Dict

import torch
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from fairseq_kd.teachers.compatibility import check_same_words
from fairseq_kd.teachers.loading import load_teacher


class LiveTeacher:
    """A frozen translation model that answers with logits.

    It is deliberately not an ``nn.Module``: kept as an attribute of a criterion it is then no part
    of that criterion's parameters, so it enters no optimiser, no checkpoint and no DDP wrapper, and
    ``criterion.train()`` leaves its dropout off.

    Args:
        path: a fairseq checkpoint.
        student_task: the task of the training, whose languages and dictionaries it must share.

    Raises:
        FileNotFoundError: the checkpoint or its dictionaries are missing.
        ValueError: it cannot teach this student.
    """

    def __init__(self, path: str, student_task: FairseqTask):
        self.path = path
        self.model, task = load_teacher(path)
        check_same_words(path, task, student_task)
        self.model.eval()
        self.model.requires_grad_(False)

    def follow(self, student: nn.Module) -> None:
        """Moves the teacher to the device and the floating-point type of the student."""
        like = next(student.parameters())
        own = next(self.model.parameters())
        if (own.device, own.dtype) != (like.device, like.dtype):
            self.model.to(device=like.device, dtype=like.dtype)

    @torch.no_grad()
    def logits(self, net_input: Dict[str, Any]) -> Tensor:
        """The teacher-forced logits, (B, L, V), for fairseq's ``sample["net_input"]``."""
        return self.model(**net_input)[0]
