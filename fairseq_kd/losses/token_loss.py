"""The loss of a chunk of tokens, and its gradient in their logits, both in closed form.

    L = sum over tokens of  alpha * T^order * D(p, q(T)) + beta * CE

with D one of ``DIVERGENCES``, ``q(T) = softmax(z / T)`` of the student's logits z, p the mean of
the teachers' distributions at T, and CE fairseq's label-smoothed cross-entropy at T = 1,
``CE = (1 - e - e') * -log q_gold + e' * sum_v -log q_v`` with ``e' = e / (V - 1)``. The gradient:

    dL/dz = alpha * T^(order - 1) * (pull - q(T) * sum pull) + beta * (q - y)

y the smoothed one-hot reference, and pull as ``Divergence`` defines it. n tokens, V words.
"""

from dataclasses import dataclass
from typing import NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from fairseq_kd.losses.divergence import DIVERGENCES, LOG_SMALLEST, Divergence
from fairseq_kd.losses.soft_targets import Dense, SoftTargets, Sparse, Temperature, mixture


@dataclass(frozen=True)
class LossOptions:
    """What ``chunked_loss`` adds up.

    Args:
        alpha: weight of the distillation loss.
        beta: weight of the hard loss.
        smoothing: epsilon of the label smoothing, in [0, 1).
        temperature: T > 0.
        divergence: a key of ``DIVERGENCES``.
        by_confidence: give each token its own ``T_i = 1 + c_i * (T - 1)``, c_i the teacher's
            probability of its likeliest word.
        chunk_tokens: tokens in a chunk; None takes ``default_chunk``; 0 takes all at once.
    """

    alpha: float
    beta: float
    smoothing: float
    temperature: float
    divergence: str = "forward_kl"
    by_confidence: bool = False
    chunk_tokens: Optional[int] = None


class LossTerms(NamedTuple):
    """Sums over the tokens, each (): nats, but for the two counts. Only ``loss`` has a gradient."""

    loss: Tensor  # alpha * kd + beta * ce
    kd: Tensor  # T^order * D
    ce: Tensor  # label-smoothed cross-entropy
    nll: Tensor  # -log q_gold at T = 1
    entropy: Tensor  # of p(T)
    temperature: Tensor  # of the T of every token
    agreed: Tensor  # tokens whose likeliest word is the first teacher's
    correct: Tensor  # tokens whose likeliest word is the gold one


def loss_and_logit_gradient(
    z: Tensor,
    gold: Tensor,
    teachers: Sequence[SoftTargets],
    options: LossOptions,
    gradient: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """The terms of n tokens, and the gradient of ``loss`` in their logits.

    Args:
        z: (n, V) the student's logits, float32 or float64; overwritten.
        gold: (n,) the reference words.
        teachers: what each teacher says of these tokens.
        options: weights, temperature and the like.
        gradient: whether it is asked for.

    Returns:
        The sums of ``LossTerms`` in one tensor, and (n, V), or None.
    """
    likeliest = z.argmax(-1)
    student = Dense.softmax(z, likeliest)
    ce, nll = _cross_entropy(student, gold, options.smoothing)
    temperature = _temperature(teachers, options)
    same = isinstance(temperature, float) and temperature == 1.0
    warm = student if same else Dense.softmax(z.div_(temperature), likeliest)  # z is used up
    taught = mixture([teacher.at(temperature) for teacher in teachers], z.size(-1))
    divergence = DIVERGENCES[options.divergence]
    scale = options.alpha * temperature ** (divergence.order - 1)
    if isinstance(taught, Sparse):
        value, dz = _over_classes(divergence, taught, warm, scale)
    elif options.divergence == "forward_kl":  # no logarithms needed
        value = taught.cross_entropy(warm) - taught.entropy
        dz = (warm.p - taught.p if same else warm.p.sub_(taught.p)).mul_(scale)
    else:
        value, dz = _over_words(divergence, taught, warm, scale)
    t = torch.as_tensor(temperature, dtype=z.dtype, device=z.device).expand(len(z), 1).squeeze(-1)
    kd = (t**divergence.order * value).sum()
    terms = [options.alpha * kd + options.beta * ce, kd, ce, nll, taught.entropy.sum(), t.sum()]
    counts = [(likeliest == word).sum().to(z.dtype) for word in (teachers[0].top1, gold)]
    if not gradient:
        return torch.stack([*terms, *counts]), None
    if options.beta > 0:
        _add_cross_entropy_gradient(dz, student, gold, options)
    return torch.stack([*terms, *counts]), dz


def _temperature(teachers: Sequence[SoftTargets], options: LossOptions) -> Temperature:
    """T for all tokens, or (n, 1): ``1 + c * (T - 1)`` with c the teachers' mean confidence."""
    if not options.by_confidence:
        return float(options.temperature)
    confidence = sum(teacher.confidence for teacher in teachers) / len(teachers)
    return (1 + confidence * (options.temperature - 1)).unsqueeze(-1)


def _cross_entropy(student: Dense, gold: Tensor, smoothing: float) -> Tuple[Tensor, Tensor]:
    """Sums over the tokens of the label-smoothed and of the plain cross-entropy, in nats."""
    words = student.logits.size(-1)
    others = smoothing / (words - 1)
    nll = (student.log_z - student.logits.gather(-1, gold.unsqueeze(-1)).squeeze(-1)).sum()
    ce = (1 - smoothing - others) * nll
    if smoothing > 0:
        ce = ce + others * (words * student.log_z.sum() - student.logits.sum())
    return ce, nll


def _add_cross_entropy_gradient(
    dz: Tensor, student: Dense, gold: Tensor, options: LossOptions
) -> None:
    """Adds ``beta * (q - y)`` in place."""
    others = options.smoothing / (dz.size(-1) - 1)
    dz.add_(student.p, alpha=options.beta).sub_(options.beta * others)
    at_gold = gold.unsqueeze(-1)
    smoothed = options.beta * (1 - options.smoothing - others)
    dz.scatter_add_(-1, at_gold, torch.full_like(at_gold, -smoothed, dtype=dz.dtype))


def _over_words(
    divergence: Divergence, taught: Dense, student: Dense, scale: Temperature
) -> Tuple[Tensor, Tensor]:
    """D, (n,), and ``scale * (pull - q * sum pull)``, (n, V), over all words."""
    log_p, log_q = taught.log_p, student.logits - student.log_z.unsqueeze(-1)
    pull = divergence.pull(log_p, log_q)
    dz = pull.sub_(student.p * pull.sum(-1, keepdim=True)).mul_(scale)
    return divergence.value(log_p, log_q), dz


def _over_classes(
    divergence: Divergence, taught: Sparse, student: Dense, scale: Temperature
) -> Tuple[Tensor, Tensor]:
    """The same over the words that the teacher names and one class of all the others.

    What pulls at that class is shared among its words in proportion to their q.
    """
    q = student.p.gather(-1, taught.ids)  # (n, M)
    log_q = student.logits.gather(-1, taught.ids) - student.log_z.unsqueeze(-1)
    if taught.repeated is not None:
        q = q.masked_fill(taught.repeated, 0.0)
        log_q = log_q.masked_fill(taught.repeated, LOG_SMALLEST)
    q_rest = (1 - q.sum(-1, keepdim=True)).clamp(min=torch.finfo(q.dtype).eps)  # (n, 1)
    log_q = torch.cat([log_q, q_rest.log()], -1)  # (n, M + 1)
    pull = divergence.pull(taught.log_p, log_q)
    rest = pull[:, -1:] / q_rest
    dz = student.p * (scale * (rest - pull.sum(-1, keepdim=True)))
    named = (pull[:, :-1] - q * rest).mul_(scale)
    return divergence.value(taught.log_p, log_q), dz.scatter_add_(-1, taught.ids, named)
