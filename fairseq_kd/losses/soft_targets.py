"""Soft targets: what teachers predict for the real tokens of a batch, read a chunk at a time.

A source holds the targets of N tokens: ``TeacherStates`` and ``TeacherLogits`` of a model that
runs, ``TopK`` of a store. A slice of tokens cuts a chunk of n tokens from it: ``TeacherLogits`` or
``TopK``. A chunk has the likeliest token, the teacher's confidence, and its distribution at a
temperature T: ``Dense`` over all V vocabulary entries, or ``Sparse`` over M entries and one class
for the rest.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from fairseq_kd.losses.divergence import LOG_SMALLEST

Temperature = Union[float, Tensor]  # one for all tokens, or (n, 1)


def tensor_on(
    device: torch.device, numbers: Union[float, Sequence[float], Tensor], dtype: torch.dtype
) -> Tensor:
    """Numbers as a tensor on a device, copied asynchronously."""
    return torch.as_tensor(numbers, dtype=dtype).to(device, non_blocking=True)


def is_one(temperature: Temperature) -> bool:
    """Whether T is 1 for all tokens, so that no division is needed."""
    return isinstance(temperature, float) and temperature == 1.0


def divide_(z: Tensor, temperature: Temperature) -> Tensor:
    """``z / T``, in place; under torch.compile, which plans memory itself, a new tensor."""
    if is_one(temperature):
        return z
    if torch.compiler.is_compiling():  # it may fail on the operation in place
        return z / temperature
    return z.div_(temperature)


def project(output: Tensor, weight: Optional[Tensor], bias: Optional[Tensor]) -> Tensor:
    """Logits ``output W^T + b`` in their own type; a copy of the output if there is no W."""
    if weight is None:
        return output.clone(memory_format=torch.contiguous_format)
    z = output @ weight.T
    return z if bias is None else z.add_(bias)


def widened(logits: Tensor) -> Tensor:
    """Logits at least in float32; the same tensor if they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def softmax_and_log_z(logits: Tensor, top1: Tensor) -> Tuple[Tensor, Tensor]:
    """The softmax, (n, V), and log-sum-exp, (n,), of logits whose largest entries are known."""
    p = logits.softmax(-1)
    at = top1.unsqueeze(-1)
    log_z = logits.gather(-1, at) - p.gather(-1, at).log()  # saves a pass of exp
    return p, log_z.squeeze(-1)


@dataclass
class Dense:
    """A softmax over the vocabulary.

    Args:
        scaled_logits: (n, V) finite, already divided by T.
        p: (n, V) their softmax.
        log_z: (n,) their log-sum-exp.
    """

    scaled_logits: Tensor
    p: Tensor
    log_z: Tensor

    @classmethod
    def softmax(cls, scaled_logits: Tensor, top1: Tensor) -> "Dense":
        """The softmax of logits whose largest entries (n,) are known."""
        return cls(scaled_logits, *softmax_and_log_z(scaled_logits, top1))

    @property
    def log_p(self) -> Tensor:
        """(n, V), at least ``LOG_SMALLEST``."""
        return (self.scaled_logits - self.log_z.unsqueeze(-1)).clamp_(min=LOG_SMALLEST)

    @property
    def entropy(self) -> Tensor:
        """``-sum_v p_v log p_v``, (n,) nats."""
        return self.cross_entropy(self)

    @property
    def top1(self) -> Tensor:
        """The likeliest token, (n,)."""
        return self.p.argmax(-1)

    def cross_entropy(self, other: "Dense") -> Tensor:
        """``-sum_v p_v log other_v``, (n,) nats, without a logarithm."""
        return other.log_z - torch.linalg.vecdot(self.p, other.scaled_logits)


@dataclass
class Sparse:
    """A distribution over some entries, and one last class for the rest of the vocabulary.

    Args:
        ids: (n, M) the entries.
        log_p: (n, M + 1) log-probabilities of the entries, then of all the others together.
        entropy: (n,) nats, of the distribution over the whole vocabulary.
        repeated: (n, M) bool, True where a row lists an entry once more, which then counts as
            nothing; None if no row does.
    """

    ids: Tensor
    log_p: Tensor
    entropy: Tensor
    repeated: Optional[Tensor] = None

    @property
    def top1(self) -> Tensor:
        """The most probable of the entries, (n,)."""
        return self.ids.gather(-1, self.log_p[:, :-1].argmax(-1, keepdim=True)).squeeze(-1)


@dataclass
class TeacherStates:
    """The states of a running teacher, which a slice projects to logits.

    Args:
        states: (N, C) before the output projection.
        weight: (V, C) output projection.
        bias: (V,) its bias.
    """

    states: Tensor
    weight: Tensor
    bias: Optional[Tensor] = None

    def __getitem__(self, rows: slice) -> "TeacherLogits":
        return TeacherLogits(widened(self.logits_of(rows)))

    def logits_of(self, rows: slice) -> Tensor:
        """The logits of some tokens, (n, V), in their own type."""
        return project(self.states[rows], self.weight, self.bias)


@dataclass
class TeacherLogits:
    """The logits of a running teacher, (N, V); a slice copies them, at least in float32."""

    logits: Tensor
    _top1: Optional[Tensor] = field(default=None, init=False, repr=False)

    def __getitem__(self, rows: slice) -> "TeacherLogits":
        return TeacherLogits(widened(self.logits_of(rows)))

    def logits_of(self, rows: slice) -> Tensor:
        """A copy of the logits of some tokens, (n, V), in their own type."""
        return project(self.logits[rows], None, None)

    @property
    def top1(self) -> Tensor:
        """The likeliest token, (n,)."""
        if self._top1 is None:  # torch.compile does not support cached_property
            self._top1 = self.logits.argmax(-1)
        return self._top1

    @property
    def confidence(self) -> Tensor:
        """The probability of the likeliest token at T = 1, (n,)."""
        return (self.logits.amax(-1) - self.logits.logsumexp(-1)).exp()

    def log_p_of(self, entries: Tensor) -> Tensor:
        """The log-probabilities of entries (n, J) at T = 1, at least ``LOG_SMALLEST``."""
        log_p = self.logits.gather(-1, entries) - self.logits.logsumexp(-1, keepdim=True)
        return log_p.clamp_(min=LOG_SMALLEST)

    def distribution_(self, temperature: Temperature) -> Dense:
        """The distribution ``softmax(logits / T)``, in place: the logits are overwritten."""
        lowest = torch.finfo(self.logits.dtype).min / 8  # a product with 0 is then 0, not NaN
        top1 = self.top1
        return Dense.softmax(divide_(self.logits, temperature).clamp_(min=lowest), top1)


def live_targets(
    output: Tensor, weight: Optional[Tensor], bias: Optional[Tensor]
) -> Union[TeacherStates, TeacherLogits]:
    """The soft targets of a decoder's output, (N, C) states, or (N, V) logits if there is no W."""
    return TeacherLogits(output) if weight is None else TeacherStates(output, weight, bias)


# The powers b at which a store keeps the mass of the tail, log sum_tail p^b of the probabilities at
# T = 1. At b = 0 it is log(V - K). The powers are denser towards both ends, as the points of an
# interpolation must be, so that it is accurate down to T = 1 / 2.
TAIL_POWERS = (0.0625, 0.2, 0.4, 0.65, 1.0, 1.3, 1.7, 2.0)
FORMER_TAIL_POWERS = (0.125, 0.25, 0.5, 1.0)  # of stores of format 1
POLE = 2.0  # the tail is interpolated by a polynomial in b / (b + POLE)


def _to_coefficients(powers: Tuple[float, ...]) -> Tensor:
    """The coefficients of that polynomial, by f at 0 and at P powers: (P + 1, P + 1).

    In float64, as the inverse of the Vandermonde matrix is badly conditioned.
    """
    knots = torch.tensor((0.0, *powers), dtype=torch.float64)
    return torch.vander(knots / (knots + POLE), increasing=True).inverse() / (knots + POLE)


TO_COEFFICIENTS = {each: _to_coefficients(each) for each in (TAIL_POWERS, FORMER_TAIL_POWERS)}


def log_power_sums_(log_p: Tensor, powers: Sequence[float]) -> Tensor:
    """``log sum_v p_v^b`` of each row at each power b, (n, P), in place: ``log_p`` is overwritten.

    ``b m + log sum_v exp(b (log p_v - m))`` with ``m = max_v log p_v``: the largest term is 1.

    Args:
        log_p: (n, V), ``-inf`` where an entry does not count.
        powers: P of them, above 0.
    """
    largest = log_p.amax(-1, keepdim=True)
    log_p -= largest
    scaled, sums = torch.empty_like(log_p), []
    for b in powers:
        torch.mul(log_p, b, out=scaled)
        sums.append(scaled.exp_().sum(-1).log_() + largest.squeeze(-1) * b)
    return torch.stack(sums, dim=-1)


@dataclass
class TopK:
    """A stored top-k distribution: the K most probable entries, and the mass of the tail.

    Args:
        ids: (N, K) entries, the most probable first.
        log_p: (N, K) their log-probabilities at T = 1.
        log_tail: (N, len(powers)) ``log sum_v p_v^b`` over the other V - K entries.
        vocab_size: V.
        powers: the b of ``log_tail``, 1 among them.
    """

    ids: Tensor
    log_p: Tensor
    log_tail: Tensor
    vocab_size: int
    powers: Tuple[float, ...] = TAIL_POWERS

    @classmethod
    def of_logits(cls, z: Tensor, k: int, powers: Tuple[float, ...] = TAIL_POWERS) -> "TopK":
        """The k < V most probable entries of ``softmax(z)``, (n, V), and the mass of the tail."""
        log_p = torch.log_softmax(z, dim=-1).clamp_(min=LOG_SMALLEST)
        kept, ids = log_p.topk(k, dim=-1)  # sorted, the most probable first
        tail = log_p.scatter_(-1, ids, float("-inf"))
        return cls(ids, kept, log_power_sums_(tail, powers), z.size(-1), powers)

    def __getitem__(self, rows: slice) -> "TopK":
        return replace(
            self, ids=self.ids[rows], log_p=self.log_p[rows], log_tail=self.log_tail[rows]
        )

    @property
    def k(self) -> int:
        """K, the number of entries kept of each distribution."""
        return self.ids.size(-1)

    @property
    def top1(self) -> Tensor:
        """The likeliest token, (n,)."""
        return self.ids[:, 0]

    @property
    def confidence(self) -> Tensor:
        """The probability of the likeliest token at T = 1, (n,)."""
        return self.log_p[:, 0].exp()

    def log_p_of(self, entries: Tensor) -> Tensor:
        """The log-probabilities of entries (n, J) at T = 1; of the tail, each an even share."""
        at_one = self.powers.index(1.0)
        mass = self.log_tail[:, at_one : at_one + 1]
        share = mass - math.log(self.vocab_size - self.k)  # (n, 1)
        match = entries.unsqueeze(-1) == self.ids.unsqueeze(-2)  # (n, J, K)
        kept = self.log_p.unsqueeze(-2).where(match, 0.0).sum(-1)
        return kept.where(match.any(-1), share).clamp(min=LOG_SMALLEST)

    def distribution_(self, temperature: Temperature) -> Sparse:
        """The distribution at T, exact but for the interpolated tail; nothing is overwritten."""
        power = 1.0 / temperature
        log_tail, tail_entropy = self._tail(power)
        unnormalised = torch.cat([self.log_p * power, log_tail.unsqueeze(-1)], dim=-1)
        log_p = torch.log_softmax(unnormalised, dim=-1).clamp_(min=LOG_SMALLEST)
        p = log_p.exp()
        entropy = p[:, -1] * tail_entropy - (p * log_p).sum(-1)
        return Sparse(self.ids, log_p, entropy)

    def _tail(self, power: Temperature) -> Sequence[Tensor]:
        """``f(b) = log sum_tail p^b`` at a power b, (n,), and the entropy ``f - b f'`` within it.

        ``f / (b + POLE)`` is interpolated by the polynomial in ``b / (b + POLE)`` through the known
        points, b = 0 among them: exact where f is linear, as for a tail of equal probabilities.
        Beyond the last point f continues along its tangent there, which bounds the convex f from
        below.
        """
        known = self.log_tail
        none = torch.full_like(known[:, :1], math.log(self.vocab_size - self.k))
        b = torch.as_tensor(power, dtype=torch.float64).reshape(-1, 1)
        b, values, slopes = (  # computed where b is: one for all tokens is on the processor
            tensor_on(known.device, each, known.dtype) for each in (b, *self._tail_weights(b))
        )  # (1 or n, 1), then (1 or n, P + 1)
        points = torch.cat([none, known], -1)
        value, slope = (points * values).sum(-1), (points * slopes).sum(-1)
        return value, (value - b.squeeze(-1) * slope).clamp(min=0.0)

    def _tail_weights(self, b: Tensor) -> Sequence[Tensor]:
        """The weights of f at 0 and at the P known powers in f and in f' at powers b, (m, 1)."""
        last = self.powers[-1]
        to_coefficients = tensor_on(b.device, TO_COEFFICIENTS[self.powers], torch.float64)
        exponents = torch.arange(len(self.powers) + 1, device=b.device)
        inside = b.clamp(max=last)
        u, scale = inside / (inside + POLE), inside + POLE
        values = u**exponents @ to_coefficients
        slopes = values + (exponents[1:] * u ** exponents[:-1]) @ to_coefficients[1:] * POLE / scale
        return values * scale + slopes * (b - inside), slopes


SoftTargets = Union[TeacherStates, TeacherLogits, TopK]
Chunk = Union[TeacherLogits, TopK]
