"""Divergences between the distributions of a teacher, p, and a student, q, over the vocabulary.

``p = softmax(teacher / T)`` and ``q = softmax(student / T)`` of logits. Each divergence is a
function of their logarithms over K classes, (n, K) each, and returns a value per token, (n,) nats.
A class that the teacher rules out (logit -inf) has the smallest probability that float32 holds,
1.2e-38, so that every divergence is finite. A new one is two functions, its
value and ``q * dD/dq``, and a row of ``DIVERGENCES``. The formulas of the first four, forward_kl,
reverse_kl, jeffreys and js, are repeated in kernel.py, which computes them on GPUs: change both.
"""

import math
from dataclasses import dataclass
from typing import Callable, Dict, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_SMALLEST = math.log(torch.finfo(torch.float32).tiny)
SKEW = 0.1  # share of the own distribution in a skewed mixture, the best of arXiv:2402.03898


def forward_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``KL(p || q) = sum_v p_v log(p_v / q_v)``.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2; word-level for translation: Kim and
    Rush 2016, arXiv:1606.07947, section 3.1.
    """
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``KL(q || p) = sum_v q_v log(q_v / p_v)``; the student keeps to the teacher's main mode.

    Source: Wen et al. 2023, arXiv:2307.15190, section 3.
    """
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def jeffreys(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``KL(p || q) + KL(q || p)``.

    Source: Jeffreys 1946, doi:10.1098/rspa.1946.0056.
    """
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``(KL(p || m) + KL(q || m)) / 2`` with ``m = (p + q) / 2``; at most log 2.

    Source: Lin 1991, doi:10.1109/18.61115; for translation: Wen et al. 2023, arXiv:2307.15190.
    """
    log_m = _log_mean(log_p, log_q)
    halves = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return halves.sum(-1) / 2


def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum_v |p_v - q_v| / 2``; at most 1.

    Source: Wen et al. 2023, arXiv:2307.15190, section 3.
    """
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def skew_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``KL(p || m)`` with ``m = 0.1 p + 0.9 q``, whose gradient is bounded where q is small.

    Source: Ko et al. 2024 (DistiLLM), arXiv:2402.03898, section 3.1.
    """
    return (log_p.exp() * (log_p - _log_skewed(log_p, log_q))).sum(-1)


def skew_reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``KL(q || m)`` with ``m = 0.1 q + 0.9 p``.

    Source: Ko et al. 2024 (DistiLLM), arXiv:2402.03898, section 3.1.
    """
    return (log_q.exp() * (log_q - _log_skewed(log_q, log_p))).sum(-1)


def todi(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum_v a_v p_v log(p_v / q_v) + (1 - a_v) q_v log(q_v / p_v)``, ``a_v = p_v / (p_v + q_v)``.

    Where the student's probability is too low, the term of forward KL prevails, else that of
    reverse KL. The weights a_v count as constants in the gradient.

    Source: Jung et al. 2025 (ToDi), arXiv:2505.16297, section 3.
    """
    gap = log_p - log_q
    share = gap.detach().sigmoid()
    return (share * log_p.exp() * gap - (1 - share) * log_q.exp() * gap).sum(-1)


def _log_skewed(log_own: Tensor, log_other: Tensor) -> Tensor:
    """``log((1 - SKEW) other + SKEW own)``."""
    return torch.logaddexp(log_own + math.log(SKEW), log_other + math.log1p(-SKEW))


def _q_times_gradient_of_skew_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``q * dD/dq = -(1 - SKEW) p q / m`` with m as in ``skew_kl``."""
    return (SKEW - 1) * (log_p + log_q - _log_skewed(log_p, log_q)).exp()


def _q_times_gradient_of_skew_reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``q * dD/dq - q = q (log(q / m) - SKEW q / m)`` with m as in ``skew_reverse_kl``."""
    gap = log_q - _log_skewed(log_q, log_p)
    return log_q.exp() * (gap - SKEW * gap.exp())


def _q_times_gradient_of_todi(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``q * dD/dq = (1 - a) q (1 - log(p / q)) - a p`` with constant a as in ``todi``."""
    gap = log_p - log_q
    share = gap.sigmoid()
    return (1 - share) * log_q.exp() * (1 - gap) - share * log_p.exp()


def _log_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    return torch.logaddexp(log_p, log_q) - math.log(2)


@dataclass(frozen=True)
class Divergence:
    """A divergence D(p, q) with its gradient times q, and the power of T that scales it.

    Args:
        value: (log p, log q), each (n, K), to D, (n,) nats.
        q_times_gradient: the same to ``h_k = q_k * dD/dq_k``, (n, K), up to a multiple of q, which
            the softmax cancels: with logits z of q at T, ``dD/dz = (h - q * sum h) / T``.
        temperature_power: r of the factor T^r that keeps the scale of the gradient in the logits
            as T changes: 2 where D is of second order in the logits, 1 where it is of first order.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    q_times_gradient: Callable[[Tensor, Tensor], Tensor]
    temperature_power: int = 2

    def summed(
        self,
        student: Tensor,
        teacher: Tensor,
        real: Tensor,
        temperature: float,
        weights: Optional[Tensor] = None,
    ) -> Tensor:
        """Sum over real tokens of ``T^r * D(p, q)``, by autograd and over whole logits.

        Training takes ``chunked_loss``, which gives the same without holding all logits.

        Args:
            student: (B, L, V) logits of any float dtype.
            teacher: (B, L, V) logits; -inf rules an entry out. They get no gradient.
            real: (B, L) bool, False at pads; what a pad holds, NaN included, has no influence.
            temperature: T > 0.
            weights: (B, L) factors of the tokens' terms; None counts each once.

        Returns:
            () nats, at least float32; divide by ``real.sum()`` for the mean. 0 if nothing is real.
        """
        log_q = _log_probabilities(student, real, temperature)  # (N, V)
        log_p = _log_probabilities(teacher.detach(), real, temperature).clamp(min=LOG_SMALLEST)
        value = self.value(log_p, log_q)  # (N,)
        if weights is not None:
            value = value * weights[real]
        return temperature**self.temperature_power * value.sum()


DIVERGENCES: Dict[str, Divergence] = {
    "forward_kl": Divergence(forward_kl, q_times_gradient=lambda log_p, log_q: -log_p.exp()),
    "reverse_kl": Divergence(
        reverse_kl, q_times_gradient=lambda log_p, log_q: log_q.exp() * (log_q - log_p)
    ),
    "jeffreys": Divergence(
        jeffreys, q_times_gradient=lambda log_p, log_q: log_q.exp() * (log_q - log_p) - log_p.exp()
    ),
    "js": Divergence(
        jensen_shannon,
        q_times_gradient=lambda log_p, log_q: log_q.exp() * (log_q - _log_mean(log_p, log_q)) / 2,
    ),
    "tvd": Divergence(
        total_variation,
        q_times_gradient=lambda log_p, log_q: log_q.exp() * (log_q - log_p).sign() / 2,
        temperature_power=1,
    ),
    "skew_kl": Divergence(skew_kl, _q_times_gradient_of_skew_kl),
    "skew_reverse_kl": Divergence(skew_reverse_kl, _q_times_gradient_of_skew_reverse_kl),
    "todi": Divergence(todi, _q_times_gradient_of_todi),
}


def _log_probabilities(logits: Tensor, real: Tensor, temperature: float) -> Tensor:
    """``log softmax(logits / T)`` of the real tokens alone, (N, V), at least in float32."""
    rows = logits[real]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return F.log_softmax(rows / temperature, dim=-1)
