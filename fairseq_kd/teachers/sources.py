"""The teachers of a training, live and stored, behind one interface: ``TeacherSource``."""

import os
from typing import Any, Dict, List, Optional, Protocol, Tuple

from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf
from torch import nn

from fairseq_kd.losses import SoftTargets
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.teachers.live_teacher import LiveTeacher
from fairseq_kd.teachers.stored_teacher import StoredTeacher


class TeacherSource(Protocol):
    """A teacher of a training."""

    def move_to(self, student: nn.Module) -> None:
        """Moves to the student's device."""

    def soft_targets(self, sample: Dict[str, Any], real: RealTokens) -> SoftTargets:
        """The soft targets of the real tokens of a batch."""


def teacher_sources(cfg: Any, task: FairseqTask) -> List[TeacherSource]:
    """The teachers of ``--kd-teacher``, then those of ``--kd-store``, checked against the task."""
    subsets = [cfg.train_subset]
    if not cfg.disable_validation:
        subsets = list(dict.fromkeys([*subsets, *cfg.valid_subset.split(",")]))
    named = (cfg.kd_teacher_source_lang, cfg.kd_teacher_target_lang)
    languages = named if None not in named else None
    dtype = cfg.kd_teacher_dtype
    paths = _paths(cfg.kd_teacher)
    several = len(paths) > 1
    live = [LiveTeacher.load(path, task, dtype, languages, several) for path in paths]
    stores = _paths(cfg.kd_store)
    limits = [longest_sentences(cfg, task, subset) for subset in subsets] if stores else []
    stored = [StoredTeacher(path, task, subsets, limits) for path in stores]
    return [*live, *stored]


def longest_sentences(cfg: Any, task: FairseqTask, subset: str) -> Tuple[int, int]:
    """The most source and target tokens of the sentences that a training reads of a subset."""
    whole = cfg._get_root()
    model = None if OmegaConf.is_missing(whole, "model") else whole.model  # as in a measurement
    most = [getattr(whole.dataset, "max_tokens", None)] if subset == cfg.train_subset else []

    def least(name: str) -> int:
        limits = [getattr(each, name, None) for each in (task.cfg, model)]
        return min(each for each in (*limits, *most) if each is not None)

    return least("max_source_positions"), least("max_target_positions")


def named_teachers(cfg: Any) -> List[str]:
    """The paths in ``--kd-teacher``, then those in ``--kd-store``."""
    return [*_paths(cfg.kd_teacher), *_paths(cfg.kd_store)]


def _paths(flag: Optional[str]) -> List[str]:
    """The paths of a flag.

    Raises:
        ValueError: one of several is empty.
    """
    paths = flag.split(os.pathsep) if flag else []
    if "" in paths:
        raise ValueError(
            f"{flag} has nothing before or after a {os.pathsep}, which separates teachers. Leave "
            f"the {os.pathsep} out, or give a path there."
        )
    return paths
