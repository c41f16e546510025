"""Distances between the attention of a student and a teacher, over real queries and visible keys.

Q are the queries and K the keys of H heads of d dimensions, ``A_h = softmax(Q_h K_h' / sqrt(d))``
over the visible keys of a query. Functions take and return log attention: sums stay exact, and a
masked key has log 0, kept finite so that no NaN arises. What pads hold must be finite.
"""

from itertools import pairwise
from typing import List

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_kd.losses.hidden_states import position_weights
from fairseq_kd.losses.soft_targets import tensor_on


def attention_scores(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """``Q_h K_h' / sqrt(d_h)`` of every head.

    The width is cut into heads of equal size, or by one larger where H does not divide it.

    Args:
        queries: (B, L, C) of any float dtype.
        keys: (B, S, C).
        heads: H, 1 to C.

    Returns:
        (B, H, L, S), at least float32.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    sizes = [part.numel() for part in torch.arange(queries.size(-1)).tensor_split(heads)]
    scale = tensor_on(queries.device, sizes, dtype).rsqrt().view(-1, 1, 1)
    queries, keys = (_split(states.to(dtype), heads, max(sizes)) for states in (queries, keys))
    return torch.matmul(queries * scale, keys.transpose(-1, -2))


def log_attention(scores: Tensor, visible: Tensor) -> Tensor:
    """The log attention: the log softmax of the scores over the visible keys.

    Args:
        scores: (B, H, L, S).
        visible: (B, L, S) bool, True where a real query sees a real key.

    Returns:
        (B, H, L, S), close to the lowest finite number at masked keys.
    """
    masked = ~visible.unsqueeze(1)
    return F.log_softmax(scores.masked_fill(masked, torch.finfo(scores.dtype).min), dim=-1)


def attention_mse(student: Tensor, teacher: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
    """``sum_b tokens_b * sum_h mean (A^S - A^T)^2``, the mean over the visible cells of a sentence.

    Args:
        student: (B, H, L, S) log attention.
        teacher: (B, H, L, S) log attention; it gets no gradient.
        visible: (B, L, S) bool, True where a real query sees a real key.
        tokens: (B,) number of real target tokens of each sentence; see ``hidden_states``.

    Returns:
        () float; divide by ``tokens.sum()`` for the mean. 0 if nothing is real.

    Source: Jiao et al. 2020 (TinyBERT), arXiv:1909.10351, there on the scores.
    """
    cells = (student.exp() - teacher.detach().exp()).square()
    return _sum(cells, visible, position_weights(visible, tokens))


def attention_kl(student: Tensor, teacher: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
    """``sum_b tokens_b * sum_h mean KL(A^T || A^S)``, the mean over the real queries of a sentence.

    Args:
        student: as for ``attention_mse``.
        teacher: as for ``attention_mse``.
        visible: as for ``attention_mse``.
        tokens: as for ``attention_mse``.

    Returns:
        () nats; divide by ``tokens.sum()`` for the mean. 0 if nothing is real.

    Source: Wang et al. 2020 (MiniLM), arXiv:2002.10957, there as the mean over heads.
    """
    teacher = teacher.detach()
    cells = teacher.exp() * (teacher - student)
    return _sum(cells, visible, position_weights(visible.any(dim=-1), tokens))


def head_groups(n_many: int, n_few: int) -> List[List[int]]:
    """``n_many`` heads in ``n_few`` groups of neighbours, whose sizes differ by at most one."""
    bounds = [group * n_many // n_few for group in range(n_few + 1)]
    return [list(range(*ends)) for ends in pairwise(bounds)]


def mean_of_heads(attention: Tensor, n_heads: int) -> Tensor:
    """The mean attention of each of ``n_heads`` groups of neighbouring heads.

    Args:
        attention: (B, H, L, S) log attention.
        n_heads: at most H; if it is H, this is the attention itself.

    Returns:
        (B, n_heads, L, S) log attention.
    """
    groups = head_groups(attention.size(1), n_heads)
    if len(groups) == attention.size(1):
        return attention
    probabilities = attention.exp()
    means = torch.stack([probabilities[:, group].mean(dim=1) for group in groups], dim=1)
    return means.clamp(min=torch.finfo(means.dtype).tiny).log()


def repeat_heads(attention: Tensor, n_heads: int) -> Tensor:
    """Every head repeated for each of its group of ``n_heads``, (B, n_heads, L, S)."""
    groups = head_groups(n_heads, attention.size(1))
    index = [head for head, group in enumerate(groups) for _ in group]
    return attention[:, index] if len(groups) < n_heads else attention


def _split(states: Tensor, heads: int, size: int) -> Tensor:
    """(B, L, C) to (B, H, L, size); a smaller head is padded with zeros."""
    if heads * size == states.size(-1):
        return states.unflatten(-1, (heads, size)).transpose(1, 2)
    parts = states.tensor_split(heads, dim=-1)
    return torch.stack([F.pad(part, (0, size - part.size(-1))) for part in parts], dim=1)


def _sum(cells: Tensor, visible: Tensor, weights: Tensor) -> Tensor:
    """The sum over the visible of (B, H, L, S) cells, each times the weight of its sentence."""
    sentences = cells.masked_fill(~visible.unsqueeze(1), 0.0).flatten(1).sum(dim=1)  # (B,)
    return torch.dot(sentences, weights.to(sentences.dtype))
