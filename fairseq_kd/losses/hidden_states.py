"""Distances between the hidden states of a student and a teacher, position by position or pooled.

fairseq divides the gradient of an update by its number of target tokens. So a mean over positions
of another kind (source positions, attention cells) is taken within each sentence b and multiplied
by ``tokens_b``, the sentence's number of real target tokens:

    sum_b tokens_b * (mean over the real positions of sentence b)

After fairseq's division this is the mean over sentences, weighted by their length. It does not
depend on padding, order, batch split, ``--update-freq`` or workers, and over target positions it is
the plain mean over the real target tokens.
"""

from typing import Callable, Dict, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

Projection = Optional[Callable[[Tensor], Tensor]]


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_c (s_c - t_c)^2`` of every row: (..., C) and (..., C) to (...,)."""
    return (student - teacher).square().mean(dim=-1)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - cos(s, t)``, 0 to 2, of every row: (..., C) and (..., C) to (...,).

    Computed as half the squared distance of the unit vectors, which is exactly 0 for equal rows.
    """
    gap = F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)
    return gap.square().sum(dim=-1) / 2


DISTANCES: Dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": squared_error,
    "cosine": cosine_distance,
}


def position_weights(real: Tensor, tokens: Tensor) -> Tensor:
    """The weight of one real position of each sentence, ``tokens_b / number of real positions``.

    Args:
        real: (B, ...) bool, True at real positions or cells.
        tokens: (B,) number of real target tokens.

    Returns:
        (B,) float32; 0 for a sentence without a real position or token.
    """
    return tokens.float() / real.flatten(1).sum(1).clamp(min=1)


def hidden_distance(
    student: Tensor,
    teacher: Tensor,
    real: Tensor,
    tokens: Tensor,
    distance: str = "mse",
    projection: Projection = None,
) -> Tensor:
    """``sum_b tokens_b * mean_i d(W s_bi, t_bi)`` over the real positions i of each sentence b.

    Args:
        student: (B, L, C_S) hidden states of any float dtype.
        teacher: (B, L, C_T); they get no gradient.
        real: (B, L) bool; what other positions hold, NaN included, has no influence.
        tokens: (B,) number of real target tokens of each sentence.
        distance: a key of ``DISTANCES``.
        projection: W, from C_S to C_T; None if they are equal.

    Returns:
        () at least float32; divide by ``tokens.sum()`` for the mean. 0 if nothing is real.

    Source: hints from hidden layers, Romero et al. 2015, arXiv:1412.6550; for transformers, Jiao et
    al. 2020 (TinyBERT), arXiv:1909.10351.
    """
    rows = (_masked(states, real) for states in (student, teacher.detach()))
    values = _distances(*rows, distance, projection)  # (B, L)
    weights = position_weights(real, tokens).unsqueeze(1) * real
    return (values * weights.to(values.dtype)).sum()


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
        teacher: (B, P, C_T) states of another sentence; they get no gradient.
        teacher_real: (B, P) bool.
        tokens: (B,) number of real target tokens of each sentence.
        distance: a key of ``DISTANCES``.
        projection: W, from C_S to C_T; None if they are equal.

    Returns:
        () at least float32; divide by ``tokens.sum()`` for the mean.

    Source: pooling by the mean, as for sentence embeddings across languages, Reimers and Gurevych
    2020, arXiv:2004.09813, equation 1.
    """
    pooled = _pooled(student, student_real), _pooled(teacher.detach(), teacher_real)
    values = _distances(*pooled, distance, projection)  # (B,)
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
        teacher: (B, P, C_T) states of another sentence; they get no gradient.
        links: (n, 3) int64: sentence, position in the student's source, in the teacher's.
        tokens: (B,) number of real target tokens of each sentence.
        distance: a key of ``DISTANCES``.
        projection: W, from C_S to C_T; None if they are equal.

    Returns:
        () at least float32; divide by ``tokens.sum()`` for the mean.
    """
    sentence, ours, theirs = links.unbind(-1)
    rows = student[sentence, ours], teacher.detach()[sentence, theirs]  # (n, C_S), (n, C_T)
    values = _distances(*rows, distance, projection)  # (n,)
    counts = torch.zeros_like(tokens).index_add(
        0, sentence, torch.ones_like(sentence, dtype=tokens.dtype)
    )
    shares = tokens.to(values.dtype) / counts.clamp(min=1)
    return torch.dot(values, shares[sentence])


def _masked(states: Tensor, real: Tensor) -> Tensor:
    """The states, (B, L, C), with 0 at other positions than the real ones."""
    return states.masked_fill(~real.unsqueeze(-1), 0.0)


def _pooled(states: Tensor, real: Tensor) -> Tensor:
    """The mean over real positions, (B, C), summed at least in float32; 0 where none is real."""
    states = _masked(states, real)
    total = states.sum(1, dtype=torch.promote_types(states.dtype, torch.float32))
    return (total / real.sum(1, keepdim=True).clamp(min=1)).to(states.dtype)


def _distances(student: Tensor, teacher: Tensor, distance: str, projection: Projection) -> Tensor:
    """``d(W s, t)`` of every row, (...,) of (..., C), at least float32."""
    student = student if projection is None else projection(student)
    dtype = torch.promote_types(student.dtype, torch.float32)
    return DISTANCES[distance](student.to(dtype), teacher.to(dtype))
