"""What every source of teacher knowledge can do, and which ones the flags ask for."""

import os
from typing import Any, Dict, List, Protocol

from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from fairseq_kd.losses import SoftTargets
from fairseq_kd.teachers.live import LiveTeacher
from fairseq_kd.teachers.stored import StoredTeacher


class TeacherSource(Protocol):
    """Answers for the target tokens of a batch."""

    def follow(self, student: nn.Module) -> None:
        """Moves to the student's device."""

    def soft_targets(self, sample: Dict[str, Any], real: Tensor) -> SoftTargets:
        """What the teacher says of the tokens at which ``real``, (B, L) bool, is True."""


def teacher_sources(cfg: Any, task: FairseqTask) -> List[TeacherSource]:
    """The teachers of ``--kd-teacher`` or ``--kd-store``, each checked against the task."""
    if cfg.kd_store:
        subsets = [cfg.train_subset]
        if not cfg.disable_validation:
            subsets += cfg.valid_subset.split(",")
        return [StoredTeacher(path, task, subsets) for path in cfg.kd_store.split(os.pathsep)]
    paths = cfg.kd_teacher.split(os.pathsep)
    return [LiveTeacher.load(path, task, cfg.kd_teacher_dtype) for path in paths]
