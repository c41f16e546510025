"""Distances between the word distributions of a student and a teacher, summed over real tokens.

Throughout: z logits, ``p(T) = softmax(z / T)``, V words; a real token is one that is not padding.
What a pad holds, NaN included, reaches neither a value nor a gradient.
"""

from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


def forward_kl(student: Tensor, teacher: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Sum over real tokens of ``T^2 * KL(p_teacher(T) || p_student(T))``.

    Its gradient in a real student logit is ``T * (p_student(T) - p_teacher(T))``. As T grows, a
    token's term tends to half the variance, over the V words, of the difference between the two
    models' logits.

    Args:
        student: (B, L, V) logits of any float dtype.
        teacher: (B, L, V) logits; -inf rules a word out. They get no gradient.
        real: (B, L) bool, True at real tokens.
        temperature: T > 0. The factor T^2 keeps the gradient's scale as T changes.

    Returns:
        () nats, at least float32; divide by ``real.sum()`` for the mean. 0 if nothing is real.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2; per word for translation: Kim and Rush
    2016, arXiv:1606.07947, section 3.1.
    """
    return forward_kl_and_entropy(student, teacher, real, temperature)[0]


def forward_kl_and_entropy(
    student: Tensor, teacher: Tensor, real: Tensor, temperature: float
) -> Tuple[Tensor, Tensor]:
    """``forward_kl`` with its by-product, the entropy of what is taught.

    Args:
        student: as for ``forward_kl``.
        teacher: as for ``forward_kl``.
        real: as for ``forward_kl``.
        temperature: as for ``forward_kl``.

    Returns:
        ``forward_kl``, and the sum over real tokens of
        ``H(p_teacher(T)) = -sum_v p_v log p_v``, () nats, at least float32.
    """
    log_q = _log_probabilities(student, real, temperature)  # (N, V)
    with torch.no_grad():
        log_p = _log_probabilities(teacher, real, temperature)  # (N, V)
        log_p.clamp_(min=torch.finfo(log_p.dtype).min)  # p log p is 0 where p is 0, not 0 * -inf
        p = log_p.exp()
        entropy = -torch.dot(p.flatten(), log_p.flatten())
    kl = torch.dot(p.flatten(), log_p.sub_(log_q).flatten())  # in place: memory is what costs
    return temperature**2 * kl, entropy


def top1_agreement(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Number of real tokens for which the student's likeliest word is the teacher's.

    Args:
        student: (B, L, V) logits.
        teacher: (B, L, V) logits.
        real: (B, L) bool, True at real tokens.

    Returns:
        () int64.
    """
    return (student.argmax(dim=-1) == teacher.argmax(dim=-1))[real].sum()


def _log_probabilities(logits: Tensor, real: Tensor, temperature: float) -> Tensor:
    """``log p(T)`` of the real tokens alone, (N, V), at least in float32: half is widened."""
    rows = logits.flatten(0, 1).index_select(0, real.flatten().nonzero().squeeze(1))
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return F.log_softmax(rows.div_(temperature), dim=-1)
