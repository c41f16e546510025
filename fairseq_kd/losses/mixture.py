"""One distribution of several teachers: ``P = sum_i w_i P_i``, or ``P ~ prod_i P_i^w_i``.

The weights w_i of a token sum to 1. They are the same for all tokens, or each token has its own
(``TOKEN_WEIGHTS``), from the teachers' distributions p_i at T = 1:

    gold        w_i ~ p_i(reference)          the probability of the reference token
    confidence  w_i ~ max_v p_i(v)            the probability of the teacher's likeliest token v_i
    agreement   w_i ~ mean_j p_j(v_i)         the mean probability of v_i over all teachers

n tokens, I teachers, V vocabulary entries.
"""

import math
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Union

import torch
from torch import Tensor

from fairseq_kd.losses.divergence import LOG_SMALLEST
from fairseq_kd.losses.soft_targets import Chunk, Dense, Sparse, tensor_on

Part = Union[Dense, Sparse]


def reference_log_p(teachers: Sequence[Chunk], reference: Tensor) -> Tensor:
    """``log p_i(reference)`` at T = 1, (n, I)."""
    return torch.cat([teacher.log_p_of(reference.unsqueeze(-1)) for teacher in teachers], -1)


def _confidence(teachers: Sequence[Chunk], reference: Tensor) -> Tensor:
    return torch.stack([teacher.confidence for teacher in teachers], -1).log()


def _agreement(teachers: Sequence[Chunk], reference: Tensor) -> Tensor:
    top1 = torch.stack([teacher.top1 for teacher in teachers], -1)  # (n, I)
    log_p = torch.stack([teacher.log_p_of(top1) for teacher in teachers])
    return log_p.logsumexp(0)


TOKEN_WEIGHTS: Dict[str, Callable[[Sequence[Chunk], Tensor], Tensor]] = {
    "gold": reference_log_p,
    "confidence": _confidence,
    "agreement": _agreement,
}


@dataclass(frozen=True)
class Mixture:
    """How several teachers become one.

    Args:
        weights: w_i, (I,), summing to 1; or a key of ``TOKEN_WEIGHTS``; None gives 1 / I to each.
        temperatures: factors of T, one per teacher; None is 1 for each.
        mean: a key of ``MEANS``.
    """

    weights: Union[str, Sequence[float], Tensor, None] = None
    temperatures: Optional[Sequence[float]] = None
    mean: str = "probabilities"

    def token_weights(
        self, teachers: Sequence[Chunk], reference: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """The weights of n tokens, (n, I).

        Args:
            teachers: their targets for the tokens; nothing is overwritten.
            reference: (n,) the reference tokens.
            dtype: of the result.
        """
        if isinstance(self.weights, str):
            return TOKEN_WEIGHTS[self.weights](teachers, reference).to(dtype).softmax(-1)
        count = len(teachers)
        shares = [1 / count] * count if self.weights is None else self.weights
        return tensor_on(reference.device, shares, dtype).expand(len(reference), -1)

    def factor(self, teacher: int) -> float:
        """The factor of T of a teacher, by its index."""
        return 1.0 if self.temperatures is None else self.temperatures[teacher]

    def of(self, parts: List[Part], weights: Tensor, vocab_size: int) -> Part:
        """The mixed distribution; of a single part, that part.

        A stored teacher has K entries and the mass of all the others. Beside teachers that run, it
        distributes that mass as they do; among stored teachers alone, evenly.

        Args:
            parts: the teachers' distributions of the same n tokens.
            weights: (n, I).
            vocab_size: V.
        """
        if len(parts) == 1:
            return parts[0]
        shares = weights.unsqueeze(-1).unbind(-2)  # I times (n, 1)
        running = [part for part in parts if isinstance(part, Dense)]
        if not running:
            return _mix_sparse(parts, shares, vocab_size, self.mean)
        if len(running) < len(parts):
            like = sum(part.p for part in running) / len(running)  # (n, V)
            parts = [p if isinstance(p, Dense) else _spread_like(p, like) for p in parts]
        return MEANS[self.mean](parts, shares)


def _mean_of_probabilities(parts: List[Dense], shares: Sequence[Tensor]) -> Dense:
    p = sum(share * part.p for share, part in zip(shares, parts, strict=True))
    return _dense(p)


def _mean_of_log_probabilities(parts: List[Dense], shares: Sequence[Tensor]) -> Dense:
    z = sum(share * part.log_p for share, part in zip(shares, parts, strict=True))
    return Dense.softmax(z, z.argmax(-1))


MEANS: Dict[str, Callable[[List[Dense], Sequence[Tensor]], Dense]] = {
    "probabilities": _mean_of_probabilities,
    "log_probabilities": _mean_of_log_probabilities,
}


def _dense(p: Tensor) -> Dense:
    """Of probabilities, (n, V)."""
    return Dense(p.log().clamp_(min=LOG_SMALLEST), p, torch.zeros_like(p[:, 0]))


def _spread_like(part: Sparse, like: Tensor) -> Dense:
    """A sparse distribution whose rest is distributed in proportion to ``like``, (n, V)."""
    p = part.log_p.exp()
    others = like.scatter(-1, part.ids, 0.0)  # (n, V)
    mass = others.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
    return _dense(others.mul_(p[:, -1:] / mass).scatter_(-1, part.ids, p[:, :-1]))


def _mix_sparse(
    parts: List[Sparse], shares: Sequence[Tensor], vocab_size: int, mean: str
) -> Sparse:
    """The mixture over the entries of all parts, and one class of the others."""
    ids = torch.cat([part.ids for part in parts], -1)  # (n, M)
    same = ids.unsqueeze(-1) == ids.unsqueeze(-2)  # (n, M, M)
    repeated = same.tril(-1).any(-1)  # listed by an earlier teacher
    others = vocab_size - (~repeated).sum(-1, keepdim=True)  # (n, 1)
    log_others = others.to(parts[0].log_p.dtype).log()  # -inf where all are listed
    known = [_over_ids_and_one_other(ids, part, vocab_size) for part in parts]  # I times (n, M + 1)
    if mean == "probabilities":
        p = sum(share * each for share, each in zip(shares, known, strict=True))
        p[:, :-1].masked_fill_(repeated, 0.0)
        p[:, -1:] = (1 - p[:, :-1].sum(-1, keepdim=True)).clamp_(min=0.0)
    else:
        logs = (each.log().clamp_(min=LOG_SMALLEST) for each in known)
        z = sum(share * each for share, each in zip(shares, logs, strict=True))
        z[:, :-1].masked_fill_(repeated, float("-inf"))
        z[:, -1:] += log_others
        p = z.softmax(-1)
    log_p = p.log().clamp_(min=LOG_SMALLEST)
    entropy = p[:, -1] * log_others.squeeze(-1).clamp(min=0.0) - (p * log_p).sum(-1)
    return Sparse(ids, log_p, entropy, repeated)


def _over_ids_and_one_other(ids: Tensor, part: Sparse, vocab_size: int) -> Tensor:
    """The probabilities in a sparse distribution of given entries, and of one entry of its rest."""
    p = part.log_p.exp()
    share = p[:, -1:] / (vocab_size - part.ids.size(-1))  # (n, 1)
    match = ids.unsqueeze(-1) == part.ids.unsqueeze(-2)  # (n, M, K)
    listed = (match * p[:, None, :-1]).sum(-1)
    return torch.cat([torch.where(match.any(-1), listed, share), share], -1)


def even_share(count: int, floor: float) -> float:
    """The m at which ``w = (1 - m) s + m / count`` has at least the entropy ``floor * log(count)``.

    It has just that entropy where the softmax s is all on one teacher, and more for any other s, so
    that learned weights cannot collapse below the floor.

    Args:
        count: the number of weights, at least 2.
        floor: in [0, 1]: 0 leaves the softmax as it is, 1 makes all weights equal.
    """
    low, high = 0.0, 1.0
    for _ in range(60):  # the entropy grows with m: halve the interval
        middle = (low + high) / 2
        collapsed = [1 - middle + middle / count] + [middle / count] * (count - 1)
        if -sum(w * math.log(w) for w in collapsed if w > 0) < floor * math.log(count):
            low = middle
        else:
            high = middle
    return high if floor > 0 else 0.0
