"""One encoder for teacher and student: frozen, and run once per batch for both models."""

from typing import Any, ContextManager, List

from torch import nn

from fairseq_kd.models.capture import Captured, CapturePoints, capture
from fairseq_kd.models.structure import unwrapped
from fairseq_kd.teachers.live_teacher import LiveTeacher
from fairseq_kd.teachers.sentence_format import refuse_language_tokens
from fairseq_kd.teachers.sources import TeacherSource


def check_shared_encoder(cfg: Any) -> None:
    """Refuses flags under which one encoder cannot serve both models, or be frozen."""
    if cfg.distributed_world_size > 1 and cfg.ddp_backend != "legacy_ddp":
        raise ValueError(
            f"--kd-share-encoder freezes parameters, which --ddp-backend {cfg.ddp_backend} does "
            "not support with several workers. Add --ddp-backend legacy_ddp."
        )
    if cfg.kd_teacher_dtype != "student":
        raise ValueError(
            f"--kd-teacher-dtype is {cfg.kd_teacher_dtype}, but with --kd-share-encoder one "
            "encoder serves both models. Leave --kd-teacher-dtype out."
        )
    if cfg.fp16 and not (cfg.fp16_no_flatten_grads or cfg.memory_efficient_fp16):
        raise ValueError(  # fairseq would put the decoder's gradients in the encoder's place
            "--kd-share-encoder freezes parameters, which --fp16 cannot do with flattened "
            "gradients. Add --fp16-no-flatten-grads, or train with --amp."
        )


class SharedEncoder:
    """Freezes the student's encoder, and captures its output for the teacher.

    The student must start from the teacher's encoder; the two are compared at the first batch, and
    again after every restart. The encoder then has no gradients and no dropout. Embeddings that
    encoder and decoder share are frozen with it.

    Args:
        cfg: the flags.
        teachers: the teachers of the training.

    Raises:
        ValueError: there is not one live teacher.
    """

    def __init__(self, cfg: Any, teachers: List[TeacherSource]):
        if len(teachers) != 1 or not isinstance(teachers[0], LiveTeacher):
            raise ValueError(
                "--kd-share-encoder needs one teacher that runs. Give one checkpoint by "
                "--kd-teacher, or leave --kd-share-encoder out."
            )
        self.teacher = teachers[0]
        self.path = cfg.kd_teacher
        encoder = "a student that reads plain sentences cannot use its encoder"
        refuse_language_tokens(f"--kd-teacher {self.path}", self.teacher.format, encoder)
        self.checked = False

    def encoding(self, model: nn.Module) -> ContextManager[Captured]:
        """Captures the output of the student's encoder inside of the ``with``.

        Raises:
            ValueError: it is not the teacher's encoder.
        """
        encoder = unwrapped(model).encoder
        if not self.checked:
            self._check(encoder)
            encoder.requires_grad_(False)
            self.checked = True
        encoder.eval()
        return capture(model, CapturePoints(encoder=True))

    def _check(self, encoder: nn.Module) -> None:
        sides = (encoder, self.teacher.model.encoder)
        own, taught = (dict(each.named_parameters()) for each in sides)
        differing = sorted(own.keys() ^ taught.keys())
        differing += [
            name
            for name in own.keys() & taught.keys()
            if own[name].shape != taught[name].shape or (own[name] != taught[name]).any()
        ]
        if differing:
            raise ValueError(
                f"--kd-share-encoder needs a student with the encoder of --kd-teacher {self.path}, "
                f"but encoder.{differing[0]} differs. Start the student from the teacher's weights "
                "by --finetune-from-model; fairseq-kd inherit makes such a file."
            )
