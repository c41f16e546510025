"""What teachers say of the real tokens of a batch, taken a chunk of tokens at a time.

N real tokens, n of them in a chunk, V words, K likeliest words of a top-k teacher, T temperature.
A source (``TeacherLogits``, ``TopK``) holds the batch and is cut by a slice of tokens; a cut
answers with the likeliest word, the teacher's confidence, and its distribution at a temperature:
``Dense`` over all words, or ``Sparse`` over some words and one class for all the others.
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
    """Numbers as a tensor on a device; a GPU is not waited for."""
    return torch.as_tensor(numbers, dtype=dtype).to(device, non_blocking=True)


def is_one(temperature: Temperature) -> bool:
    """Whether T is 1 for all tokens, so that nothing need be divided."""
    return isinstance(temperature, float) and temperature == 1.0


def cooled(z: Tensor, temperature: Temperature) -> Tensor:
    """``z / T``, in the memory of z, which is used up."""
    if is_one(temperature):
        return z
    if torch.compiler.is_compiling():  # plans its memory itself, and may fail to take this
        return z / temperature
    return z.div_(temperature)


# Where a top-k teacher keeps the mass of the tail: log sum over the tail of p^b at these powers b
# of its probabilities at T = 1. At b = 0 it is log(V - K). They lie denser towards both ends, as
# the points of an interpolation must, so that it is accurate down to T = 1 / 2.
TAIL_POWERS = (0.0625, 0.2, 0.4, 0.65, 1.0, 1.3, 1.7, 2.0)
FORMER_TAIL_POWERS = (0.125, 0.25, 0.5, 1.0)  # of stores of format 1
POLE = 2.0  # the tail is read from a polynomial in b / (b + POLE)


@dataclass
class Dense:
    """A softmax over the vocabulary.

    Args:
        logits: (n, V) finite, already divided by T.
        p: (n, V) their softmax.
        log_z: (n,) their log-sum-exp.
    """

    logits: Tensor
    p: Tensor
    log_z: Tensor

    @classmethod
    def softmax(cls, logits: Tensor, likeliest: Tensor) -> "Dense":
        """The softmax of logits whose likeliest words (n,) are known."""
        p = logits.softmax(-1)
        at = likeliest.unsqueeze(-1)
        log_z = logits.gather(-1, at) - p.gather(-1, at).log()  # no second pass of exponentials
        return cls(logits, p, log_z.squeeze(-1))

    @property
    def log_p(self) -> Tensor:
        """(n, V), no lower than ``LOG_SMALLEST``."""
        return (self.logits - self.log_z.unsqueeze(-1)).clamp_(min=LOG_SMALLEST)

    @property
    def entropy(self) -> Tensor:
        """``-sum_v p_v log p_v``, (n,) nats."""
        return self.cross_entropy(self)

    @property
    def top1(self) -> Tensor:
        """The likeliest word, (n,)."""
        return self.p.argmax(-1)

    def cross_entropy(self, other: "Dense") -> Tensor:
        """``-sum_v p_v log other_v``, (n,) nats, without a logarithm."""
        return other.log_z - torch.linalg.vecdot(self.p, other.logits)


@dataclass
class Sparse:
    """A distribution over some words, and one last class for the rest of the vocabulary.

    Args:
        ids: (n, M) the words.
        log_p: (n, M + 1) log-probabilities of the words, then of all the others together.
        entropy: (n,) nats, of the distribution over the whole vocabulary.
        repeated: (n, M) bool, True at a word that its row has named before and that counts for
            nothing there; None if no word is named twice.
    """

    ids: Tensor
    log_p: Tensor
    entropy: Tensor
    repeated: Optional[Tensor] = None

    @property
    def top1(self) -> Tensor:
        """The likeliest of the words, (n,)."""
        return self.ids.gather(-1, self.log_p[:, :-1].argmax(-1, keepdim=True)).squeeze(-1)


@dataclass
class TeacherLogits:
    """A live teacher's answer: hidden states that are projected when they are asked for.

    Args:
        hidden: (N, C) states before the output projection; with no weight, (N, V) logits.
        weight: (V, C) output projection.
        bias: (V,) its bias.
    """

    hidden: Tensor
    weight: Optional[Tensor] = None
    bias: Optional[Tensor] = None
    _top1: Optional[Tensor] = field(default=None, init=False, repr=False)

    def __getitem__(self, rows: slice) -> "TeacherLogits":
        return TeacherLogits(logits(self.hidden[rows], self.weight, self.bias))

    @property
    def top1(self) -> Tensor:
        """The likeliest word, (n,)."""
        if self._top1 is None:  # torch.compile knows no cached_property
            self._top1 = self.hidden.argmax(-1)
        return self._top1

    @property
    def confidence(self) -> Tensor:
        """The probability of the likeliest word at T = 1, (n,)."""
        return (self.hidden.amax(-1) - self.hidden.logsumexp(-1)).exp()

    def log_p_of(self, words: Tensor) -> Tensor:
        """The log-probabilities of some words (n, J) at T = 1, no lower than ``LOG_SMALLEST``."""
        log_p = self.hidden.gather(-1, words) - self.hidden.logsumexp(-1, keepdim=True)
        return log_p.clamp_(min=LOG_SMALLEST)

    def at(self, temperature: Temperature) -> Dense:
        """The distribution ``softmax(z / T)`` of a cut, whose logits it uses up."""
        lowest = torch.finfo(self.hidden.dtype).min / 8  # a product with 0 is then 0, not NaN
        likeliest = self.top1
        return Dense.softmax(cooled(self.hidden, temperature).clamp_(min=lowest), likeliest)


@dataclass
class TopK:
    """What a store keeps of a teacher: its likeliest words, and the mass of the tail.

    Args:
        ids: (N, K) words, the likeliest first.
        log_p: (N, K) their log-probabilities at T = 1.
        log_tail: (N, len(powers)) ``log sum_v p_v^b`` over the other V - K words.
        words: V.
        powers: the b of ``log_tail``, 1 among them.
    """

    ids: Tensor
    log_p: Tensor
    log_tail: Tensor
    words: int
    powers: Tuple[float, ...] = TAIL_POWERS

    @classmethod
    def of_logits(cls, z: Tensor, k: int, powers: Tuple[float, ...] = TAIL_POWERS) -> "TopK":
        """The k likeliest words of ``softmax(z)``, (n, V), and the mass of the others; k < V."""
        log_p = torch.log_softmax(z, dim=-1).clamp_(min=LOG_SMALLEST)
        kept, ids = log_p.topk(k, dim=-1)  # sorted, the likeliest first
        tail = log_p.scatter_(-1, ids, float("-inf"))
        log_tail = torch.stack([(tail * b).logsumexp(-1) for b in powers], dim=-1)
        return cls(ids, kept, log_tail, z.size(-1), powers)

    def __getitem__(self, rows: slice) -> "TopK":
        return replace(
            self, ids=self.ids[rows], log_p=self.log_p[rows], log_tail=self.log_tail[rows]
        )

    @property
    def top1(self) -> Tensor:
        """The likeliest word, (n,)."""
        return self.ids[:, 0]

    @property
    def confidence(self) -> Tensor:
        """The probability of the likeliest word at T = 1, (n,)."""
        return self.log_p[:, 0].exp()

    def log_p_of(self, words: Tensor) -> Tensor:
        """The log-probabilities of some words (n, J) at T = 1; in the tail, an even share of it."""
        at_one = self.powers.index(1.0)
        mass = self.log_tail[:, at_one : at_one + 1]
        share = mass - math.log(self.words - self.k)  # (n, 1)
        match = words.unsqueeze(-1) == self.ids.unsqueeze(-2)  # (n, J, K)
        named = self.log_p.unsqueeze(-2).where(match, 0.0).sum(-1)
        return named.where(match.any(-1), share).clamp(min=LOG_SMALLEST)

    def at(self, temperature: Temperature) -> Sparse:
        """The distribution at any temperature; exact but for the interpolated mass of the tail."""
        power = 1.0 / temperature
        log_tail, tail_entropy = self._tail(power)
        unnormalised = torch.cat([self.log_p * power, log_tail.unsqueeze(-1)], dim=-1)
        log_p = torch.log_softmax(unnormalised, dim=-1).clamp_(min=LOG_SMALLEST)
        p = log_p.exp()
        entropy = p[:, -1] * tail_entropy - (p * log_p).sum(-1)
        return Sparse(self.ids, log_p, entropy)

    def _tail(self, power: Temperature) -> Sequence[Tensor]:
        """``f(b) = log sum_tail p^b`` at a power b, (n,), and the entropy ``f - b f'`` within it.

        ``f / (b + POLE)`` is read from the polynomial in ``b / (b + POLE)`` through the known
        points, b = 0 among them: exact where f is linear, as of a tail of equal probabilities, and
        calm on both sides. Beyond the last point the tangent there is taken, below which f, which
        is convex, does not fall.
        """
        known = self.log_tail
        none = torch.full_like(known[:, :1], math.log(self.words - self.k))
        b = tensor_on(known.device, power, torch.float64).reshape(-1, 1)
        values, slopes = (each.to(known.dtype) for each in self._tail_weights(b))  # (1 or n, P + 1)
        points = torch.cat([none, known], -1)
        value, slope = (points * values).sum(-1), (points * slopes).sum(-1)
        return value, (value - b.to(known.dtype).squeeze(-1) * slope).clamp(min=0.0)

    def _tail_weights(self, b: Tensor) -> Sequence[Tensor]:
        """What f and f' at powers b, (m, 1), take of f at 0 and at each of the P known powers.

        In float64, as the inverse of the Vandermonde matrix is badly conditioned.
        """
        knots = torch.tensor((0.0, *self.powers), dtype=torch.float64)
        last = self.powers[-1]
        to_coefficients = torch.vander(knots / (knots + POLE), increasing=True).inverse()
        to_coefficients = tensor_on(b.device, to_coefficients / (knots + POLE), torch.float64)
        exponents = torch.arange(len(knots), device=b.device)
        inside = b.clamp(max=last)
        u, scale = inside / (inside + POLE), inside + POLE
        values = u**exponents @ to_coefficients
        slopes = values + (exponents[1:] * u ** exponents[:-1]) @ to_coefficients[1:] * POLE / scale
        return values * scale + slopes * (b - inside), slopes

    @property
    def k(self) -> int:
        """K, the number of words kept of each distribution."""
        return self.ids.size(-1)


SoftTargets = Union[TeacherLogits, TopK]


def logits(hidden: Tensor, weight: Optional[Tensor], bias: Optional[Tensor]) -> Tensor:
    """``hidden W^T + b``, at least in float32; a copy of the hidden states if there is no W."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    if weight is None:
        return hidden.to(wide, copy=True)
    z = hidden @ weight.T
    return (z if bias is None else z.add_(bias)).to(wide)
