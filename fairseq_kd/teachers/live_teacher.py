"""A live teacher: loaded once, frozen, and run beside the student in its own precision."""

import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional, Tuple, Union

import torch
from fairseq.tasks import FairseqTask
from torch import nn

from fairseq_kd.losses import TeacherLogits, TeacherStates, live_targets
from fairseq_kd.models.projection import decoder_output
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.teachers.compatibility import (
    check_positions,
    check_same_vocabulary,
    language_pair,
)
from fairseq_kd.teachers.languages import Languages, Pair
from fairseq_kd.teachers.loading import load_teacher
from fairseq_kd.teachers.sentence_format import sentence_format

DTYPES = {
    "student": None,  # the precision that the student trains in
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class LiveTeacher:
    """A frozen translation model whose logits are the soft targets.

    It is deliberately not an ``nn.Module``: as an attribute of a criterion it is then no part of
    that criterion's parameters, so it enters no optimiser, no checkpoint and no DDP wrapper, and
    ``criterion.train()`` leaves its dropout off.

    Its distribution is one over the student's vocabulary: of a model that has tokens of languages
    behind it, softmax(z_1 .. z_V).

    Args:
        model: the loaded model; it is frozen here.
        dtype: a key of ``DTYPES``.
        task: as ``load_teacher`` gives it; None for a model that reads plain sentences.
    """

    def __init__(self, model: nn.Module, dtype: str = "student", task: Any = None):
        self.model = model.eval()
        self.model.requires_grad_(False)
        for layer in getattr(getattr(model, "decoder", None), "layers", ()):
            layer.need_attn = False  # weights that nobody reads: torch has faster kernels without
        self.dtype = DTYPES[dtype]
        self.format = sentence_format(task)
        self.vocab_size = None if self.format.is_plain else len(task.target_dictionary)

    @classmethod
    def load(
        cls,
        path: str,
        student_task: FairseqTask,
        dtype: str = "student",
        languages: Optional[Pair] = None,
        several: bool = False,
    ) -> "LiveTeacher":
        """The teacher in a fairseq checkpoint.

        Args:
            path: the checkpoint, as the user typed it.
            student_task: the task of the training, whose languages and dictionaries it must share.
            dtype: a key of ``DTYPES``.
            languages: the names of the student's languages in the teacher, if they are others.
            several: whether it is one of several teachers, which may not all use these names.

        Raises:
            FileNotFoundError: the checkpoint or its dictionaries are missing.
            ValueError: it cannot teach this student.
        """
        pair = language_pair(student_task)
        folder = student_task.cfg.data.split(os.pathsep)[0]
        names = Languages(pair, languages, several, folder)
        model, task = load_teacher(path, "--kd-teacher", names)
        check_same_vocabulary(f"--kd-teacher {path}", task, student_task)
        check_positions(f"--kd-teacher {path}", model, student_task, sentence_format(task))
        return cls(model, dtype, task)

    @property
    def max_positions(self) -> Tuple[int, int]:
        """Tokens of the longest source and the longest target that it reads."""
        source, target = self.model.max_positions()
        return source - self.format.more_source, target - self.format.more_target

    def move_to(self, student: nn.Module) -> None:
        """Moves the teacher to the student's device, and to its precision or the chosen one."""
        like = next(student.parameters())
        own = next(self.model.parameters())
        dtype = self.dtype or like.dtype
        if (own.device, own.dtype) != (like.device, dtype):
            self.model.to(device=like.device, dtype=dtype)

    @torch.no_grad()
    def soft_targets(
        self, sample: Dict[str, Any], real: RealTokens, encoded: Any = None
    ) -> Union[TeacherStates, TeacherLogits]:
        """Its soft targets, teacher-forced, of the real tokens of a batch.

        Args:
            sample: a batch of fairseq's.
            real: the target tokens that are wanted.
            encoded: the output of its encoder, if that is known.
        """
        net_input, real = self.format.batch(sample["net_input"], real)
        device = real.mask.device
        with (
            torch.autocast(device.type, enabled=self._takes_part_in_autocast(device)),
            self._encoding_known(encoded),
        ):
            output = decoder_output(self.model, net_input, real)
        return live_targets(*output.over(self.vocab_size))

    @contextmanager
    def _encoding_known(self, encoded: Any) -> Iterator[None]:
        """Has the encoder return a known output instead of running, if there is one."""
        if encoded is None:
            yield
            return
        encoder = self.model.encoder
        encoder.forward = lambda *args, **kwargs: encoded
        try:
            yield
        finally:
            del encoder.forward

    def _takes_part_in_autocast(self, device: torch.device) -> bool:
        return self.dtype is None and torch.is_autocast_enabled(device.type)
