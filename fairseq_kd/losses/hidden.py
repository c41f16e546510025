"""Distances between the hidden states of a student and a teacher, over real positions."""

from typing import Callable, Dict, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_kd.losses.sentence_mean import position_weights


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_c (s_c - t_c)^2`` of every row: (N, C) and (N, C) to (N,)."""
    return (student - teacher).square().mean(dim=-1)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - cos(s, t)``, 0 to 2, of every row: (N, C) and (N, C) to (N,).

    Computed as half the squared distance of the unit vectors, which is exactly 0 for equal rows.
    """
    gap = F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)
    return gap.square().sum(dim=-1) / 2


DISTANCES: Dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": squared_error,
    "cosine": cosine_distance,
}


def hidden_distance(
    student: Tensor,
    teacher: Tensor,
    real: Tensor,
    tokens: Tensor,
    distance: str = "mse",
    projection: Optional[Callable[[Tensor], Tensor]] = None,
) -> Tensor:
    """``sum_b tokens_b * mean_i d(W s_bi, t_bi)`` over the real positions i of each sentence b.

    Args:
        student: (B, L, C_S) hidden states of any float dtype.
        teacher: (B, L, C_T); they get no gradient.
        real: (B, L) bool; what other positions hold, NaN included, has no influence.
        tokens: (B,) number of real target tokens of each sentence; see ``sentence_mean``.
        distance: a key of ``DISTANCES``.
        projection: W, from C_S to C_T; not needed if they are equal.

    Returns:
        () at least float32; divide by ``tokens.sum()`` for the mean. 0 if nothing is real.

    Source: hints from hidden layers, Romero et al. 2015, arXiv:1412.6550; for transformers, Jiao et
    al. 2020 (TinyBERT), arXiv:1909.10351.
    """
    rows = student[real]  # (N, C_S)
    rows = projection(rows) if projection is not None else rows  # (N, C_T)
    dtype = torch.promote_types(rows.dtype, torch.float32)
    values = DISTANCES[distance](rows.to(dtype), teacher[real].detach().to(dtype))  # (N,)
    weights = position_weights(real, tokens).unsqueeze(1).expand_as(real)[real]  # (N,)
    return torch.dot(values, weights.to(dtype))
