"""The projection to the vocabulary and the whole loss, a chunk of tokens at a time.

    L = sum over tokens of  alpha * T^order * D(p(T), q(T)) + beta * CE

The gradients are computed on the way, in closed form, so that nothing as large as (N, V) is ever
held: the logit gradient of a chunk is multiplied with W and h at once and forgotten. Half precision
is widened to float32 in the softmax and in every sum.

Source: the idea of the fused linear cross-entropy is Hsu et al. 2024, arXiv:2410.10989, section 3.
"""

import contextlib
from typing import Any, Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_kd.losses.compiled import compiled_loss_and_logit_gradient
from fairseq_kd.losses.soft_targets import SoftTargets, logits
from fairseq_kd.losses.token_loss import (
    N_SCALARS,
    LossOptions,
    LossTerms,
    loss_and_logit_gradient,
)

CHUNK_ELEMENTS = {"cpu": 2**21, "cuda": 2**25}  # logits in a chunk: few enough for the caches


def default_chunk(words: int, device: torch.device) -> int:
    """The number of tokens whose logits over ``words`` words make a chunk on a device."""
    return max(16, CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS["cuda"]) // words)


def chunked_loss(
    hidden: Tensor,
    weight: Optional[Tensor],
    bias: Optional[Tensor],
    gold: Tensor,
    teachers: Sequence[SoftTargets],
    options: LossOptions,
) -> LossTerms:
    """The loss of N real tokens with its gradients in ``hidden``, ``weight`` and ``bias``.

    Args:
        hidden: (N, C) the student's states before its output projection; with no weight, (N, V)
            logits.
        weight: (V, C) output projection, or None.
        bias: (V,) its bias, or None.
        gold: (N,) int64, the reference words.
        teachers: what each teacher says of the same N tokens.
        options: weights, temperature and the like.

    Returns:
        Sums over the tokens; zeros, with zero gradients, if there are none.
    """
    wanted = torch.is_grad_enabled()  # inside the function it never is
    return LossTerms(*_ChunkedLoss.apply(hidden, weight, bias, gold, teachers, options, wanted))


class _ChunkedLoss(torch.autograd.Function):
    """Computes the gradients in ``forward`` and scales them in ``backward``."""

    @staticmethod
    def forward(
        ctx: Any, hidden, weight, bias, gold, teachers, options, wanted
    ) -> Tuple[Tensor, ...]:
        """The sums of ``LossTerms``; what ``backward`` needs is kept."""
        words = hidden.size(-1) if weight is None else weight.size(0)
        step = options.chunk_tokens
        if step is None:
            step = default_chunk(words, hidden.device)
        step = step or max(len(hidden), 1)
        of_chunk = loss_and_logit_gradient
        if options.compiled:
            of_chunk = compiled_loss_and_logit_gradient
        grads = _Gradients(hidden, weight, bias, wanted)
        sums = hidden.new_zeros(N_SCALARS + 2 * len(teachers), dtype=grads.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), step):
                rows = slice(start, start + step)
                z = logits(hidden[rows], grads.weight, grads.bias)  # (n, V)
                cuts = [teacher[rows] for teacher in teachers]
                terms, dz = of_chunk(z, gold[rows], cuts, options, grads.wanted)
                sums += terms
                grads.add(rows, dz)
        ctx.save_for_backward(grads.d_hidden, grads.d_weight, grads.d_bias)
        scalars, weights, credit = sums.split([N_SCALARS, len(teachers), len(teachers)])
        terms = (*scalars.unbind(), weights, credit)
        results = tuple(term.clone() for term in terms)  # fairseq scales a loss in place
        ctx.mark_non_differentiable(*results[1:])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, *_: Tensor) -> Tuple[Optional[Tensor], ...]:
        """The kept gradients times that of the loss, such as fairseq's loss scale."""
        scaled = (None if grad is None else grad * d_loss for grad in ctx.saved_tensors)
        return (*scaled, None, None, None, None)


class _Gradients:
    """Gathers the gradients of a loss from its logit gradients, in float32 at least.

    float16 cannot hold the small ones: its matrix products are made in float32, on a GPU in TF32,
    which has float16's digits and float32's range. bfloat16 can.
    """

    def __init__(
        self, hidden: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], wanted: bool
    ):
        self.wanted = wanted
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.weight, self.bias = (
            None if tensor is None else tensor.to(hidden.dtype) for tensor in (weight, bias)
        )
        self.half = hidden.dtype == torch.float16
        self.factor_dtype = self.dtype if self.half else hidden.dtype
        self.hidden = hidden.to(self.factor_dtype)
        self.factor = None if weight is None else self.weight.to(self.factor_dtype)
        self.d_hidden, self.d_weight, self.d_bias = (
            torch.zeros(tensor.shape, dtype=self.dtype, device=hidden.device)
            if wanted and tensor is not None
            else None
            for tensor in (hidden, weight, bias)
        )

    def add(self, rows: slice, dz: Optional[Tensor]) -> None:
        """Adds the part of some rows of ``hidden``, of logit gradient ``dz`` (n, V)."""
        if not self.wanted:
            return
        if self.d_bias is not None:
            self.d_bias += dz.sum(0)
        if self.factor is None:
            self.d_hidden[rows] = dz
            return
        dz = dz.to(self.factor_dtype)
        if self.factor_dtype == self.dtype:
            with _tf32() if self.half else contextlib.nullcontext():
                torch.mm(dz, self.factor, out=self.d_hidden[rows])
                self.d_weight.addmm_(dz.T, self.hidden[rows])
        else:
            self.d_hidden[rows] = (dz @ self.factor).to(self.dtype)
            self.d_weight += dz.T @ self.hidden[rows]


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    """Has CUDA make matrix products of float32 in TF32 meanwhile."""
    cuda = torch.backends.cuda.matmul
    name, on = (
        ("fp32_precision", "tf32") if hasattr(cuda, "fp32_precision") else ("allow_tf32", True)
    )
    before = getattr(cuda, name)
    setattr(cuda, name, on)
    try:
        yield
    finally:
        setattr(cuda, name, before)
