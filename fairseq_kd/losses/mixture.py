"""One distribution of several teachers: ``P = sum_i w_i P_i``, or ``P ~ prod_i P_i^w_i``.

The weights w_i of a token sum to 1. They are the same for all tokens, or each token has its own
(``TOKEN_WEIGHTS``), from what the teachers say of it at T = 1:

    gold        w_i ~ p_i(gold)               the teacher's probability of the reference word
    confidence  w_i ~ max_v p_i(v)            its probability of its likeliest word v_i
    agreement   w_i ~ mean_j p_j(v_i)         what all teachers together think of that word

n tokens, I teachers, V words.
"""

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Union

import torch
from torch import Tensor

from fairseq_kd.losses.divergence import LOG_SMALLEST
from fairseq_kd.losses.soft_targets import Dense, SoftTargets, Sparse, tensor_on

Part = Union[Dense, Sparse]


def gold_log_p(teachers: Sequence[SoftTargets], gold: Tensor) -> Tensor:
    """``log p_i(gold)`` at T = 1, (n, I)."""
    return torch.cat([teacher.log_p_of(gold.unsqueeze(-1)) for teacher in teachers], -1)


def _confidence(teachers: Sequence[SoftTargets], gold: Tensor) -> Tensor:
    return torch.stack([teacher.confidence for teacher in teachers], -1).log()


def _agreement(teachers: Sequence[SoftTargets], gold: Tensor) -> Tensor:
    likeliest = torch.stack([teacher.top1 for teacher in teachers], -1)  # (n, I)
    thought = torch.stack([teacher.log_p_of(likeliest) for teacher in teachers])
    return thought.logsumexp(0)


TOKEN_WEIGHTS: Dict[str, Callable[[Sequence[SoftTargets], Tensor], Tensor]] = {
    "gold": gold_log_p,
    "confidence": _confidence,
    "agreement": _agreement,
}


@dataclass(frozen=True)
class Mixture:
    """How several teachers become one.

    Args:
        weights: w_i, (I,), summing to 1; or a key of ``TOKEN_WEIGHTS``; None gives 1 / I to each.
        temperatures: factors of T, one a teacher; None is 1 for each.
        mean: a key of ``MEANS``.
    """

    weights: Union[str, Sequence[float], Tensor, None] = None
    temperatures: Optional[Sequence[float]] = None
    mean: str = "probabilities"

    def token_weights(
        self, teachers: Sequence[SoftTargets], gold: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """The weights of n tokens, (n, I).

        Args:
            teachers: what each of them says of the tokens; nothing of it is used up.
            gold: (n,) the reference words.
            dtype: of the result.
        """
        if isinstance(self.weights, str):
            return TOKEN_WEIGHTS[self.weights](teachers, gold).to(dtype).softmax(-1)
        count = len(teachers)
        shares = [1 / count] * count if self.weights is None else self.weights
        return tensor_on(gold.device, shares, dtype).expand(len(gold), -1)

    def factor(self, teacher: int) -> float:
        """What T is multiplied with for a teacher, by its place."""
        return 1.0 if self.temperatures is None else self.temperatures[teacher]

    def of(self, parts: List[Part], weights: Tensor, words: int) -> Part:
        """The one distribution; of a single part, that part.

        A stored teacher names some words and the mass of all the others. Beside teachers that run,
        it shares that mass out as they do; among stored teachers alone, evenly.

        Args:
            parts: the teachers' distributions of the same n tokens.
            weights: (n, I).
            words: V.
        """
        if len(parts) == 1:
            return parts[0]
        shares = weights.unsqueeze(-1).unbind(-2)  # I times (n, 1)
        running = [part for part in parts if isinstance(part, Dense)]
        if not running:
            return _mix_sparse(parts, shares, words, self.mean)
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
    """A sparse distribution whose rest is shared out in proportion to ``like``, (n, V)."""
    p = part.log_p.exp()
    others = like.scatter(-1, part.ids, 0.0)  # (n, V)
    mass = others.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
    return _dense(others.mul_(p[:, -1:] / mass).scatter_(-1, part.ids, p[:, :-1]))


def _mix_sparse(parts: List[Sparse], shares: Sequence[Tensor], words: int, mean: str) -> Sparse:
    """The mixture over all words that any part names, and one class of the others."""
    ids = torch.cat([part.ids for part in parts], -1)  # (n, M)
    same = ids.unsqueeze(-1) == ids.unsqueeze(-2)  # (n, M, M)
    repeated = same.tril(-1).any(-1)  # named by a teacher before
    others = words - (~repeated).sum(-1, keepdim=True)  # (n, 1)
    log_others = others.to(parts[0].log_p.dtype).log()  # -inf where all words are named
    known = [_over_named_and_one_other(ids, part, words) for part in parts]  # I times (n, M + 1)
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


def _over_named_and_one_other(ids: Tensor, part: Sparse, words: int) -> Tensor:
    """The probabilities that a sparse distribution gives to any words and to one of its rest."""
    p = part.log_p.exp()
    share = p[:, -1:] / (words - part.ids.size(-1))  # (n, 1)
    match = ids.unsqueeze(-1) == part.ids.unsqueeze(-2)  # (n, M, K)
    named = (match * p[:, None, :-1]).sum(-1)
    return torch.cat([torch.where(match.any(-1), named, share), share], -1)
