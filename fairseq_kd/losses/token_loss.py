"""The loss of a chunk of tokens, and its gradient in their logits, both in closed form.

    L = sum over tokens of  alpha * T^r * D(P, q(T)) + beta * CE

with D one of ``DIVERGENCES`` and r its ``temperature_power``, ``q(T) = softmax(z / T)`` of the
student's logits z, P the mixture of the teachers' distributions at T, and CE fairseq's
label-smoothed cross-entropy at T = 1,
``CE = (1 - e - e') * -log q_gold + e' * sum_v -log q_v`` with ``e' = e / (V - 1)``. The gradient:

    dL/dz = alpha * T^(r - 1) * (h - q(T) * sum h) + beta * (q - y)

y the smoothed one-hot reference, and ``h = q * dD/dq``, ``q_times_gradient`` of D, which
divergence.py defines. With a gate, each token has ``alpha * 2 (1 - g)`` and ``beta * 2 g`` for
alpha and beta, g the teachers' probability of its reference token. n tokens, V vocabulary entries,
I teachers.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from fairseq_kd.losses.divergence import DIVERGENCES, LOG_SMALLEST, Divergence
from fairseq_kd.losses.mixture import Mixture, reference_log_p
from fairseq_kd.losses.soft_targets import (
    Chunk,
    Dense,
    Sparse,
    Temperature,
    divide_,
    is_one,
    softmax_and_log_z,
    tensor_on,
)

Weight = Union[float, Tensor]  # one for all tokens, or (n,)


@dataclass(frozen=True)
class LossOptions:
    """The options of ``chunked_loss``.

    Args:
        alpha: weight of the distillation loss, a number or (); so are beta and the temperature.
        beta: weight of the hard loss.
        smoothing: epsilon of the label smoothing, in [0, 1).
        temperature: T > 0.
        divergence: a key of ``DIVERGENCES``.
        by_confidence: give each token its own ``T_i = 1 + c_i * (T - 1)``, c_i the teachers' mean
            probability of their likeliest token.
        gated: weight the two terms of each token by the teachers' probability of its reference.
        mixture: how the distributions of several teachers are mixed.
        chunk_tokens: tokens in a chunk; None takes ``default_chunk``; 0 takes all at once.
        compiled: compile the loss with torch.compile, where no kernel computes it.
        fused: compute the loss of a chunk by one kernel where there is one for it; None: on a GPU.
    """

    alpha: float
    beta: float
    smoothing: float
    temperature: float
    divergence: str = "forward_kl"
    by_confidence: bool = False
    chunk_tokens: Optional[int] = None
    compiled: bool = False
    fused: Optional[bool] = None
    gated: bool = False
    mixture: Mixture = field(default_factory=Mixture)


class LossTerms(NamedTuple):
    """Sums over the tokens, nats or counts, () but for the last two; only ``loss`` has a gradient.

    ``packed`` and ``unpacked`` are the same sums in one tensor, in the order of the fields.
    """

    loss: Tensor  # alpha * kd + beta * ce
    kd: Tensor  # T^r * D
    ce: Tensor  # label-smoothed cross-entropy
    nll: Tensor  # -log q_gold at T = 1
    entropy: Tensor  # of P
    temperature: Tensor  # of the T of every token
    agreed: Tensor  # tokens whose likeliest token is the teachers'
    correct: Tensor  # tokens whose likeliest token is the reference
    gate: Tensor  # of g; 0 without a gate
    teacher_nll: Tensor  # -log sum_i w_i p_i(reference) at T = 1; 0 of one teacher without a gate
    weights: Tensor  # (I,) of w_i
    weight_gradient: (
        Tensor  # (I,) of -teacher_nll in w_i: p_i(reference) / sum_j w_j p_j(reference)
    )

    @classmethod
    def packed_size(cls, n_teachers: int) -> int:
        """The number of elements of the packed sums."""
        return len(cls._fields) - 2 + 2 * n_teachers

    @classmethod
    def unpacked(cls, packed: Tensor, n_teachers: int) -> "LossTerms":
        """The fields as views of the packed sums."""
        scalars, *vectors = packed.split([len(cls._fields) - 2, n_teachers, n_teachers])
        return cls(*scalars.unbind(), *vectors)


def _packed(terms: LossTerms) -> Tensor:
    *scalars, weights, weight_gradient = terms
    return torch.cat([torch.stack(scalars), weights, weight_gradient])


def loss_and_logit_gradient_(
    z: Tensor,
    reference: Tensor,
    teachers: Sequence[Chunk],
    options: LossOptions,
    gradient: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """The packed ``LossTerms`` of n tokens, and the gradient of ``loss`` in their logits.

    In place: z and the logits of the teachers are overwritten.

    Args:
        z: (n, V) the student's logits, float32 or float64.
        reference: (n,) the reference tokens.
        teachers: their soft targets for these tokens.
        options: weights, temperature and the like.
        gradient: whether to compute the gradient.

    Returns:
        ``LossTerms`` in one tensor, and (n, V), or None.
    """
    student_top1 = z.argmax(-1)
    q, log_z = softmax_and_log_z(z, student_top1)  # at T = 1
    ce, nll = _cross_entropy(z, log_z, reference, options.smoothing)
    by_teachers = _ReferenceByTeachers.of(teachers, reference, options, z.dtype)
    alpha, beta, gate = _weights(options, by_teachers)
    temperature = _temperature(teachers, by_teachers.weights, options)
    same = is_one(temperature)
    softened = Dense(z, q, log_z) if same else Dense.softmax(divide_(z, temperature), student_top1)
    top1 = teachers[0].top1 if len(teachers) == 1 else None
    factors = map(options.mixture.factor, range(len(teachers)))
    parts = [
        teacher.distribution_(temperature * factor)
        for teacher, factor in zip(teachers, factors, strict=True)
    ]
    target = options.mixture.of(parts, by_teachers.weights, z.size(-1))
    entropy = target.entropy
    divergence = DIVERGENCES[options.divergence]
    scale = _column(alpha) * temperature ** (divergence.temperature_power - 1)
    agreed = student_top1 == (target.top1 if top1 is None else top1)
    if isinstance(target, Sparse):
        value, dz = _over_classes(divergence, target, softened, scale)
    elif options.divergence == "forward_kl":  # H(P, q) - H(P), which needs no logarithms
        value = target.cross_entropy(softened) - entropy
        dz = (softened.p - target.p if same else softened.p.sub_(target.p)).mul_(scale)
    else:
        value, dz = _over_vocabulary(divergence, target, softened, scale)
    t = tensor_on(z.device, temperature, z.dtype).expand(len(z), 1).squeeze(-1)
    kd = t**divergence.temperature_power * value

    def total(per_token: Tensor) -> Tensor:
        return per_token.sum().to(z.dtype)

    terms = LossTerms(
        loss=total(alpha * kd + beta * ce),
        kd=total(kd),
        ce=total(ce),
        nll=total(nll),
        entropy=total(entropy),
        temperature=total(t),
        agreed=total(agreed),
        correct=total(student_top1 == reference),
        gate=total(gate),
        teacher_nll=total(by_teachers.nll),
        weights=by_teachers.weights.sum(0),
        weight_gradient=by_teachers.weight_gradient,
    )
    if not gradient:
        return _packed(terms), None
    if isinstance(options.beta, Tensor) or options.beta > 0:
        _add_cross_entropy_gradient_(dz, q, reference, beta, options.smoothing)
    return _packed(terms), dz


@dataclass
class _ReferenceByTeachers:
    """The teachers' weights, (n, I), and their mixed prediction of the reference tokens at T = 1.

    The prediction is not computed, and is 0, where nothing depends on it: of one teacher without a
    gate.
    """

    weights: Tensor
    nll: Tensor  # (n,)
    weight_gradient: Tensor  # (I,)

    @classmethod
    def of(
        cls, teachers: Sequence[Chunk], reference: Tensor, options: LossOptions, dtype: torch.dtype
    ) -> "_ReferenceByTeachers":
        weights = options.mixture.token_weights(teachers, reference, dtype)
        if len(teachers) == 1 and not options.gated:
            return cls(weights, weights.new_zeros(len(reference)), weights.new_zeros(1))
        log_p = reference_log_p(teachers, reference)  # (n, I)
        mixed = (weights.log() + log_p).logsumexp(-1)  # (n,)
        return cls(weights, -mixed, (log_p - mixed.unsqueeze(-1)).exp().sum(0))


def _weights(
    options: LossOptions, by_teachers: _ReferenceByTeachers
) -> Tuple[Weight, Weight, Tensor]:
    """The alpha and beta of the tokens, and g, (n,), 0 without a gate."""
    if not options.gated:
        return options.alpha, options.beta, torch.zeros_like(by_teachers.nll)
    gate = (-by_teachers.nll).exp()
    return 2 * options.alpha * (1 - gate), 2 * options.beta * gate, gate


def _column(weight: Weight) -> Weight:
    return weight.unsqueeze(-1) if isinstance(weight, Tensor) else weight


def _temperature(teachers: Sequence[Chunk], weights: Tensor, options: LossOptions) -> Temperature:
    """T for all tokens, or (n, 1): ``1 + c * (T - 1)`` with c the teachers' mean confidence."""
    if not options.by_confidence:
        return options.temperature
    confidence = torch.stack([teacher.confidence for teacher in teachers], -1)  # (n, I)
    mean = (weights * confidence).sum(-1, keepdim=True)
    return 1 + mean * (options.temperature - 1)


def _cross_entropy(
    z: Tensor, log_z: Tensor, reference: Tensor, smoothing: float
) -> Tuple[Tensor, Tensor]:
    """The label-smoothed and the plain cross-entropy of every token, (n,) nats each.

    Args:
        z: (n, V) the student's logits.
        log_z: (n,) their log-sum-exp.
        reference: (n,) the reference tokens.
        smoothing: epsilon.
    """
    others = smoothing / (z.size(-1) - 1)
    nll = log_z - z.gather(-1, reference.unsqueeze(-1)).squeeze(-1)
    ce = (1 - smoothing - others) * nll
    if smoothing > 0:
        ce = ce + others * (z.size(-1) * log_z - z.sum(-1))
    return ce, nll


def _add_cross_entropy_gradient_(
    dz: Tensor, q: Tensor, reference: Tensor, beta: Weight, smoothing: float
) -> None:
    """Adds ``beta * (q - y)`` to dz, in place; q, (n, V), is the student's softmax at T = 1."""
    others = smoothing / (dz.size(-1) - 1)
    beta = _column(beta)
    if isinstance(beta, Tensor):
        dz.addcmul_(q, beta)
    else:
        dz.add_(q, alpha=beta)
    dz.sub_(beta * others)
    at_reference = reference.unsqueeze(-1)
    smoothed = tensor_on(dz.device, -beta * (1 - smoothing - others), dz.dtype)
    dz.scatter_add_(-1, at_reference, smoothed.expand(at_reference.shape))


def _over_vocabulary(
    divergence: Divergence, target: Dense, student: Dense, scale: Temperature
) -> Tuple[Tensor, Tensor]:
    """D, (n,), and ``scale * (h - q * sum h)``, (n, V), over the vocabulary."""
    log_p, log_q = target.log_p, student.scaled_logits - student.log_z.unsqueeze(-1)
    h = divergence.q_times_gradient(log_p, log_q)
    dz = h.sub_(student.p * h.sum(-1, keepdim=True)).mul_(scale)
    return divergence.value(log_p, log_q), dz


def _over_classes(
    divergence: Divergence, target: Sparse, student: Dense, scale: Temperature
) -> Tuple[Tensor, Tensor]:
    """The same over the entries of a sparse target and one class of all the others.

    ``h`` of that class is distributed over its entries in proportion to their q.
    """
    q = student.p.gather(-1, target.ids)  # (n, M)
    log_q = student.scaled_logits.gather(-1, target.ids) - student.log_z.unsqueeze(-1)
    if target.repeated is not None:
        q = q.masked_fill(target.repeated, 0.0)
        log_q = log_q.masked_fill(target.repeated, LOG_SMALLEST)
    q_rest = (1 - q.sum(-1, keepdim=True)).clamp(min=torch.finfo(q.dtype).eps)  # (n, 1)
    log_q = torch.cat([log_q, q_rest.log()], -1)  # (n, M + 1)
    h = divergence.q_times_gradient(target.log_p, log_q)
    rest = h[:, -1:] / q_rest
    dz = student.p * (scale * (rest - h.sum(-1, keepdim=True)))
    listed = (h[:, :-1] - q * rest).mul_(scale)
    return divergence.value(target.log_p, log_q), dz.scatter_add_(-1, target.ids, listed)
