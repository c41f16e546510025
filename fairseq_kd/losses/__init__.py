"""Distillation losses, soft targets and the chunked output projection: pure torch."""

from fairseq_kd.losses.chunked import chunked_loss, default_chunk
from fairseq_kd.losses.divergence import DIVERGENCES, Divergence
from fairseq_kd.losses.mixture import MEANS, TOKEN_WEIGHTS, Mixture
from fairseq_kd.losses.soft_targets import (
    FORMER_TAIL_POWERS,
    TAIL_POWERS,
    SoftTargets,
    TeacherLogits,
    TeacherStates,
    TopK,
    live_targets,
)
from fairseq_kd.losses.token_loss import LossOptions, LossTerms

__all__ = [
    "DIVERGENCES",
    "FORMER_TAIL_POWERS",
    "MEANS",
    "TAIL_POWERS",
    "TOKEN_WEIGHTS",
    "Divergence",
    "LossOptions",
    "LossTerms",
    "Mixture",
    "SoftTargets",
    "TeacherLogits",
    "TeacherStates",
    "TopK",
    "chunked_loss",
    "default_chunk",
    "live_targets",
]
