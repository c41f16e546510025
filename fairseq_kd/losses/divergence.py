"""Distances between the word distributions of a student and a teacher, summed over real tokens.

Throughout: z logits, ``p(T) = softmax(z / T)``, V words; a real token is one that is not padding.
What a pad holds, NaN included, reaches neither a value nor a gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _log_softmax_of_real(logits: Tensor, real: Tensor, temperature: float) -> Tensor:
    """``log p(T)`` of the real tokens alone, at least in float32."""
    dtype = torch.promote_types(logits.dtype, torch.float32)  # half is widened, double stays
    return F.log_softmax(logits[real].to(dtype) / temperature, dim=-1)  # (N, V)


def forward_kl(student: Tensor, teacher: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Sum over real tokens of ``T^2 * KL(p_teacher(T) || p_student(T))``.

    Its gradient in a real student logit is ``T * (p_student(T) - p_teacher(T))``. As T grows, a
    token's term tends to half the variance, over the V words, of the difference between the two
    models' logits.

    Args:
        student: (B, L, V) logits of any float dtype.
        teacher: (B, L, V) logits; -inf rules a word out. No gradient is expected of them.
        real: (B, L) bool, True at real tokens.
        temperature: T > 0. The factor T^2 keeps the gradient's scale as T changes.

    Returns:
        () nats, at least float32; divide by ``real.sum()`` for the mean. 0 if nothing is real.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2; per word for translation: Kim and Rush
    2016, arXiv:1606.07947, equation 4.
    """
    log_q = _log_softmax_of_real(student, real, temperature)  # (N, V)
    log_p = _log_softmax_of_real(teacher, real, temperature)  # (N, V)
    log_p = log_p.clamp_min(torch.finfo(log_p.dtype).min)  # p log p is 0 where p is 0, not 0 * -inf
    return temperature**2 * F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def teacher_entropy(teacher: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Sum over real tokens of ``H(p_teacher(T)) = -sum_v p_v log p_v``: how much more than one word
    is taught.

    Args:
        teacher: (B, L, V) logits; -inf allowed.
        real: (B, L) bool, True at real tokens.
        temperature: T > 0.

    Returns:
        () nats, at least float32. 0 if nothing is real.
    """
    log_p = _log_softmax_of_real(teacher, real, temperature)  # (N, V)
    return torch.special.entr(log_p.exp()).sum()


def top1_agreement(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Number of real tokens for which the student's likeliest word is the teacher's.

    Args:
        student: (B, L, V) logits.
        teacher: (B, L, V) logits.
        real: (B, L) bool, True at real tokens.

    Returns:
        () int64.
    """
    return (student[real].argmax(dim=-1) == teacher[real].argmax(dim=-1)).sum()
