"""Distances between the word distributions of a student and a teacher, summed over real tokens.

Throughout: ``p = softmax(teacher / T)`` and ``q = softmax(student / T)`` of logits, V words; a real
token is one that is not padding. What a pad holds, NaN included, reaches neither a value nor a
gradient. A factor of T keeps the scale of the gradient in the student's logits as T changes: T^2
where the distance is of second order in the logits, T for the total variation, which is of first.
A word that the teacher rules out (logit -inf) counts with the smallest probability that float32
knows, 1.2e-38, so that every distance is finite.
"""

import math
from dataclasses import dataclass
from typing import Callable, Dict, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_SMALLEST = math.log(torch.finfo(torch.float32).tiny)


def forward_kl(
    student: Tensor,
    teacher: Tensor,
    real: Tensor,
    temperature: float,
    weights: Optional[Tensor] = None,
) -> Tensor:
    """Sum over real tokens of ``T^2 * KL(p || q) = T^2 * sum_v p_v log(p_v / q_v)``.

    Its gradient in a real student logit is ``T * (q - p)``. As T grows, a token's term tends to
    half the variance, over the V words, of the difference between the two models' logits.

    Args:
        student: (B, L, V) logits of any float dtype.
        teacher: (B, L, V) logits; -inf rules a word out. They get no gradient.
        real: (B, L) bool, True at real tokens.
        temperature: T > 0.
        weights: (B, L) factors of the tokens' terms; None counts each once.

    Returns:
        () nats, at least float32; divide by ``real.sum()`` for the mean. 0 if nothing is real.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2; per word for translation: Kim and Rush
    2016, arXiv:1606.07947, section 3.1.
    """
    return _summed("forward_kl", student, teacher, real, temperature, weights)


def reverse_kl(
    student: Tensor,
    teacher: Tensor,
    real: Tensor,
    temperature: float,
    weights: Optional[Tensor] = None,
) -> Tensor:
    """Sum over real tokens of ``T^2 * KL(q || p) = T^2 * sum_v q_v log(q_v / p_v)``.

    It punishes what the student says and the teacher does not, so the student keeps to the
    teacher's main mode. Arguments and result as for ``forward_kl``.

    Source: Wen et al. 2023, arXiv:2307.15190, section 3.
    """
    return _summed("reverse_kl", student, teacher, real, temperature, weights)


def jensen_shannon(
    student: Tensor,
    teacher: Tensor,
    real: Tensor,
    temperature: float,
    weights: Optional[Tensor] = None,
) -> Tensor:
    """Sum over real tokens of ``T^2 * (KL(p || m) + KL(q || m)) / 2`` with ``m = (p + q) / 2``.

    At most ``T^2 * log 2`` a token. Arguments and result as for ``forward_kl``.

    Source: Lin 1991, doi:10.1109/18.61115; for translation: Wen et al. 2023, arXiv:2307.15190.
    """
    return _summed("js", student, teacher, real, temperature, weights)


def total_variation(
    student: Tensor,
    teacher: Tensor,
    real: Tensor,
    temperature: float,
    weights: Optional[Tensor] = None,
) -> Tensor:
    """Sum over real tokens of ``T * sum_v |p_v - q_v| / 2``.

    At most T a token. Arguments and result as for ``forward_kl``.

    Source: Wen et al. 2023, arXiv:2307.15190, section 3.
    """
    return _summed("tvd", student, teacher, real, temperature, weights)


def jeffreys(
    student: Tensor,
    teacher: Tensor,
    real: Tensor,
    temperature: float,
    weights: Optional[Tensor] = None,
) -> Tensor:
    """Sum over real tokens of ``T^2 * (KL(p || q) + KL(q || p))``.

    Arguments and result as for ``forward_kl``.

    Source: Jeffreys 1946, doi:10.1098/rspa.1946.0056.
    """
    return _summed("jeffreys", student, teacher, real, temperature, weights)


@dataclass(frozen=True)
class Divergence:
    """A distance D(p, q) between two distributions over K classes, and its slope.

    Args:
        value: (log p, log q), each (N, K), to D, (N,) nats.
        pull: the same to ``q_k * dD/dq_k``, (N, K), up to a multiple of q, which the softmax
            cancels: with logits z of q at temperature T, ``dD/dz = (pull - q * sum pull) / T``.
        order: the power of T that keeps the gradient's scale.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    order: int


def _js_halves(log_p: Tensor, log_q: Tensor) -> Tensor:
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    halves = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return halves.sum(-1) / 2


def _js_pull(log_p: Tensor, log_q: Tensor) -> Tensor:
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return log_q.exp() * (log_q - log_m) / 2


DIVERGENCES: Dict[str, Divergence] = {
    "forward_kl": Divergence(
        value=lambda log_p, log_q: (log_p.exp() * (log_p - log_q)).sum(-1),
        pull=lambda log_p, log_q: -log_p.exp(),
        order=2,
    ),
    "reverse_kl": Divergence(
        value=lambda log_p, log_q: (log_q.exp() * (log_q - log_p)).sum(-1),
        pull=lambda log_p, log_q: log_q.exp() * (log_q - log_p),
        order=2,
    ),
    "jeffreys": Divergence(
        value=lambda log_p, log_q: ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1),
        pull=lambda log_p, log_q: log_q.exp() * (log_q - log_p) - log_p.exp(),
        order=2,
    ),
    "js": Divergence(value=_js_halves, pull=_js_pull, order=2),
    "tvd": Divergence(
        value=lambda log_p, log_q: (log_p.exp() - log_q.exp()).abs().sum(-1) / 2,
        pull=lambda log_p, log_q: log_q.exp() * (log_q - log_p).sign() / 2,
        order=1,
    ),
}


def _summed(
    name: str,
    student: Tensor,
    teacher: Tensor,
    real: Tensor,
    temperature: float,
    weights: Optional[Tensor],
) -> Tensor:
    divergence = DIVERGENCES[name]
    log_q = _log_probabilities(student, real, temperature)  # (N, V)
    log_p = _log_probabilities(teacher.detach(), real, temperature).clamp(min=LOG_SMALLEST)
    value = divergence.value(log_p, log_q)  # (N,)
    if weights is not None:
        value = value * weights[real]
    return temperature**divergence.order * value.sum()


def _log_probabilities(logits: Tensor, real: Tensor, temperature: float) -> Tensor:
    """``log softmax(logits / T)`` of the real tokens alone, (N, V), at least in float32."""
    rows = logits[real]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return F.log_softmax(rows / temperature, dim=-1)
