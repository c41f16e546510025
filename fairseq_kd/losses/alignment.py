"""Distances between what two encoders make of one sentence in two languages."""

from typing import Callable, Optional

import torch
from torch import Tensor

from fairseq_kd.losses.hidden import DISTANCES

Projection = Optional[Callable[[Tensor], Tensor]]


def pooled_distance(
    student: Tensor,
    student_real: Tensor,
    teacher: Tensor,
    teacher_real: Tensor,
    tokens: Tensor,
    distance: str = "mse",
    projection: Projection = None,
) -> Tensor:
    """``sum_b tokens_b * d(W mean_i s_bi, mean_j t_bj)``, i and j over real positions.

    Args:
        student: (B, S, C_S) encoder states of any float dtype.
        student_real: (B, S) bool; what other positions hold, NaN included, has no influence.
        teacher: (B, P, C_T); they get no gradient.
        teacher_real: (B, P) bool.
        tokens: (B,) number of real target tokens of each sentence; see ``sentence_mean``.
        distance: a key of ``DISTANCES``.
        projection: W, from C_S to C_T; not needed if they are equal.

    Returns:
        () at least float32; divide by ``tokens.sum()`` for the mean.

    Source: pooling by the mean, as for sentence embeddings across languages, Reimers and Gurevych
    2020, arXiv:2004.09813, equation 1.
    """
    pooled = _pooled(student, student_real)
    if projection is not None:
        pooled = projection(pooled)
    values = _distances(pooled, _pooled(teacher.detach(), teacher_real), distance)
    return torch.dot(values, tokens.to(values.dtype))


def linked_distance(
    student: Tensor,
    teacher: Tensor,
    links: Tensor,
    tokens: Tensor,
    distance: str = "mse",
    projection: Projection = None,
) -> Tensor:
    """``sum_b tokens_b * mean_l d(W s_b,i(l), t_b,j(l))`` over the links l of each sentence b.

    A sentence without a link adds nothing.

    Args:
        student: (B, S, C_S) encoder states of any float dtype.
        teacher: (B, P, C_T); they get no gradient.
        links: (n, 3) int64: sentence, position in the student's source, in the teacher's.
        tokens: (B,) number of real target tokens of each sentence.
        distance: a key of ``DISTANCES``.
        projection: W, from C_S to C_T; not needed if they are equal.

    Returns:
        () at least float32; divide by ``tokens.sum()`` for the mean.
    """
    sentence, ours, theirs = links.unbind(-1)
    rows = student[sentence, ours]  # (n, C_S)
    if projection is not None:
        rows = projection(rows)
    values = _distances(rows, teacher.detach()[sentence, theirs], distance)
    counts = torch.bincount(sentence, minlength=len(tokens))
    shares = tokens.to(values.dtype) / counts.clamp(min=1)
    return torch.dot(values, shares[sentence])


def _pooled(states: Tensor, real: Tensor) -> Tensor:
    """The mean over real positions, (B, C), in float32 at least; 0 where none is real."""
    states = states.masked_fill(~real.unsqueeze(-1), 0.0)
    total = states.sum(1, dtype=torch.promote_types(states.dtype, torch.float32))
    return (total / real.sum(1, keepdim=True).clamp(min=1)).to(states.dtype)


def _distances(ours: Tensor, theirs: Tensor, distance: str) -> Tensor:
    dtype = torch.promote_types(ours.dtype, torch.float32)
    return DISTANCES[distance](ours.to(dtype), theirs.to(dtype))
