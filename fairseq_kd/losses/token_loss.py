"""The loss of a chunk of tokens, and its gradient in their logits, both in closed form.

    L = sum over tokens of  alpha * T^order * D(P, q(T)) + beta * CE

with D one of ``DIVERGENCES``, ``q(T) = softmax(z / T)`` of the student's logits z, P the mixture of
the teachers' distributions at T, and CE fairseq's label-smoothed cross-entropy at T = 1,
``CE = (1 - e - e') * -log q_gold + e' * sum_v -log q_v`` with ``e' = e / (V - 1)``. The gradient:

    dL/dz = alpha * T^(order - 1) * (pull - q(T) * sum pull) + beta * (q - y)

y the smoothed one-hot reference, and pull as ``Divergence`` defines it. With a gate, each token has
``alpha * 2 (1 - g)`` and ``beta * 2 g`` for alpha and beta, g the teachers' probability of its
reference word. n tokens, V words, I teachers.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from fairseq_kd.losses.divergence import DIVERGENCES, LOG_SMALLEST, Divergence
from fairseq_kd.losses.mixture import Mixture, gold_log_p
from fairseq_kd.losses.soft_targets import (
    Dense,
    SoftTargets,
    Sparse,
    Temperature,
    cooled,
    is_one,
    tensor_on,
)

Weight = Union[float, Tensor]  # one for all tokens, or (n,)


@dataclass(frozen=True)
class LossOptions:
    """What ``chunked_loss`` adds up.

    Args:
        alpha: weight of the distillation loss, a number or (); so are beta and the temperature.
        beta: weight of the hard loss.
        smoothing: epsilon of the label smoothing, in [0, 1).
        temperature: T > 0.
        divergence: a key of ``DIVERGENCES``.
        by_confidence: give each token its own ``T_i = 1 + c_i * (T - 1)``, c_i the teachers' mean
            probability of their likeliest word.
        gated: weigh the two terms of each token by the teachers' probability of its reference.
        mixture: how several teachers become one.
        chunk_tokens: tokens in a chunk; None takes ``default_chunk``; 0 takes all at once.
        compiled: have torch.compile make a program of it, which is faster on a GPU.
    """

    alpha: float
    beta: float
    smoothing: float
    temperature: float
    divergence: str = "forward_kl"
    by_confidence: bool = False
    chunk_tokens: Optional[int] = None
    compiled: bool = False
    gated: bool = False
    mixture: Mixture = field(default_factory=Mixture)


class LossTerms(NamedTuple):
    """Sums over the tokens, nats or counts, () but for the last two; ``loss`` has a gradient."""

    loss: Tensor  # alpha * kd + beta * ce
    kd: Tensor  # T^order * D
    ce: Tensor  # label-smoothed cross-entropy
    nll: Tensor  # -log q_gold at T = 1
    entropy: Tensor  # of P
    temperature: Tensor  # of the T of every token
    agreed: Tensor  # tokens whose likeliest word is the teachers'
    correct: Tensor  # tokens whose likeliest word is the gold one
    gate: Tensor  # of g; 0 without a gate
    teacher_nll: Tensor  # -log sum_i w_i p_i(gold) at T = 1; 0 of one teacher without a gate
    weights: Tensor  # (I,) of w_i
    credit: Tensor  # (I,) of p_i(gold) / sum_j w_j p_j(gold), the slope of -teacher_nll in w_i


N_SCALARS = len(LossTerms._fields) - 2


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
    taught_gold = _TaughtGold.of(teachers, gold, options, z.dtype)
    alpha, beta, gate = _weights(options, taught_gold)
    temperature = _temperature(teachers, taught_gold.weights, options)
    same = is_one(temperature)
    warm = student if same else Dense.softmax(cooled(z, temperature), likeliest)
    top1 = teachers[0].top1 if len(teachers) == 1 else None
    factors = map(options.mixture.factor, range(len(teachers)))
    parts = [teacher.at(temperature * f) for teacher, f in zip(teachers, factors, strict=True)]
    taught = options.mixture.of(parts, taught_gold.weights, z.size(-1))
    entropy = taught.entropy
    divergence = DIVERGENCES[options.divergence]
    scale = _column(alpha) * temperature ** (divergence.order - 1)
    agreed = likeliest == (taught.top1 if top1 is None else top1)
    if isinstance(taught, Sparse):
        value, dz = _over_classes(divergence, taught, warm, scale)
    elif options.divergence == "forward_kl":  # no logarithms needed
        value = taught.cross_entropy(warm) - entropy
        dz = (warm.p - taught.p if same else warm.p.sub_(taught.p)).mul_(scale)
    else:
        value, dz = _over_words(divergence, taught, warm, scale)
    t = tensor_on(z.device, temperature, z.dtype).expand(len(z), 1).squeeze(-1)
    kd = t**divergence.order * value
    terms = [alpha * kd + beta * ce, kd, ce, nll, entropy, t, agreed, likeliest == gold]
    scalars = [term.sum().to(z.dtype) for term in (*terms, gate, taught_gold.nll)]
    sums = torch.cat([torch.stack(scalars), taught_gold.weights.sum(0), taught_gold.credit])
    if not gradient:
        return sums, None
    if isinstance(options.beta, Tensor) or options.beta > 0:
        _add_cross_entropy_gradient(dz, student, gold, beta, options.smoothing)
    return sums, dz


@dataclass
class _TaughtGold:
    """The teachers' weights, (n, I), and what they say of the reference words at T = 1.

    That is not asked, and 0, where nothing depends on it: of one teacher without a gate.
    """

    weights: Tensor
    nll: Tensor  # (n,)
    credit: Tensor  # (I,)

    @classmethod
    def of(
        cls, teachers: Sequence[SoftTargets], gold: Tensor, options: LossOptions, dtype: torch.dtype
    ) -> "_TaughtGold":
        weights = options.mixture.token_weights(teachers, gold, dtype)
        if len(teachers) == 1 and not options.gated:
            return cls(weights, weights.new_zeros(len(gold)), weights.new_zeros(1))
        log_p = gold_log_p(teachers, gold)  # (n, I)
        mixed = (weights.log() + log_p).logsumexp(-1)  # (n,)
        return cls(weights, -mixed, (log_p - mixed.unsqueeze(-1)).exp().sum(0))


def _weights(options: LossOptions, taught_gold: _TaughtGold) -> Tuple[Weight, Weight, Tensor]:
    """The alpha and beta of the tokens, and g, (n,), 0 without a gate."""
    if not options.gated:
        return options.alpha, options.beta, torch.zeros_like(taught_gold.nll)
    gate = (-taught_gold.nll).exp()
    return 2 * options.alpha * (1 - gate), 2 * options.beta * gate, gate


def _column(weight: Weight) -> Weight:
    return weight.unsqueeze(-1) if isinstance(weight, Tensor) else weight


def _temperature(
    teachers: Sequence[SoftTargets], weights: Tensor, options: LossOptions
) -> Temperature:
    """T for all tokens, or (n, 1): ``1 + c * (T - 1)`` with c the teachers' mean confidence."""
    if not options.by_confidence:
        return options.temperature
    confidence = torch.stack([teacher.confidence for teacher in teachers], -1)  # (n, I)
    mean = (weights * confidence).sum(-1, keepdim=True)
    return 1 + mean * (options.temperature - 1)


def _cross_entropy(student: Dense, gold: Tensor, smoothing: float) -> Tuple[Tensor, Tensor]:
    """The label-smoothed and the plain cross-entropy of every token, (n,) nats each."""
    words = student.logits.size(-1)
    others = smoothing / (words - 1)
    nll = student.log_z - student.logits.gather(-1, gold.unsqueeze(-1)).squeeze(-1)
    ce = (1 - smoothing - others) * nll
    if smoothing > 0:
        ce = ce + others * (words * student.log_z - student.logits.sum(-1))
    return ce, nll


def _add_cross_entropy_gradient(
    dz: Tensor, student: Dense, gold: Tensor, beta: Weight, smoothing: float
) -> None:
    """Adds ``beta * (q - y)`` in place."""
    others = smoothing / (dz.size(-1) - 1)
    beta = _column(beta)
    if isinstance(beta, Tensor):
        dz.addcmul_(student.p, beta)
    else:
        dz.add_(student.p, alpha=beta)
    dz.sub_(beta * others)
    at_gold = gold.unsqueeze(-1)
    smoothed = tensor_on(dz.device, -beta * (1 - smoothing - others), dz.dtype)
    dz.scatter_add_(-1, at_gold, smoothed.expand(at_gold.shape))


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
