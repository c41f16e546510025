"""The output projection and the whole loss, a chunk of tokens at a time.

    L = sum over tokens of  alpha * T^r * D(p(T), q(T)) + beta * CE

The gradients are computed in the forward pass, in closed form, so that no tensor of (N, V) is ever
held: the logit gradient of a chunk is multiplied with W and the states at once and freed. Half
precision is widened to float32 in the softmax and in every sum. On a GPU one kernel computes the
loss of a chunk where it can (``kernel``); with ``compiled`` it is compiled by torch.compile where
it cannot: a few passes over the logits, not dozens.

Source: the idea of the fused linear cross-entropy is Hsu et al. 2024, arXiv:2410.10989, section 3.
"""

import contextlib
import functools
from dataclasses import replace
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_kd.losses.kernel_choice import (
    adds_in_float32,
    gradient_scale,
    kernel_chunk,
    kernel_for,
)
from fairseq_kd.losses.soft_targets import (
    Chunk,
    SoftTargets,
    TeacherStates,
    TopK,
    project,
    tensor_on,
    widened,
)
from fairseq_kd.losses.token_loss import LossOptions, LossTerms, loss_and_logit_gradient_

CHUNK_ELEMENTS = {"cpu": 2**21, "cuda": 2**25}  # logits of a chunk: few enough for the caches
SCHEDULED = ("alpha", "beta", "temperature")  # passed as tensors: floats would be constants
Loss = Callable[..., Tuple[Tensor, Optional[Tensor]]]


def default_chunk(vocab_size: int, device: torch.device) -> int:
    """The number of tokens in a chunk on a device, by the size of the vocabulary."""
    return max(16, CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS["cuda"]) // vocab_size)


def chunked_loss(
    output: Tensor,
    weight: Optional[Tensor],
    bias: Optional[Tensor],
    reference: Tensor,
    teachers: Sequence[SoftTargets],
    options: LossOptions,
) -> LossTerms:
    """The loss of N real tokens with its gradients in ``output``, ``weight`` and ``bias``.

    Args:
        output: the student's decoder output: (N, C) states; with no weight, (N, V) logits.
        weight: (V, C) output projection, or None.
        bias: (V,) its bias, or None.
        reference: (N,) int64, the reference tokens.
        teachers: their soft targets for the same N tokens.
        options: weights, temperature and the like.

    Returns:
        Sums over the tokens; zeros, with zero gradients, if there are none.
    """
    wanted = torch.is_grad_enabled()  # always off inside the function
    return LossTerms(
        *_ChunkedLoss.apply(output, weight, bias, reference, teachers, options, wanted)
    )


class _ChunkedLoss(torch.autograd.Function):
    """Computes the gradients in ``forward`` and scales them in ``backward``."""

    @staticmethod
    def forward(
        ctx: Any, output, weight, bias, reference, teachers, options, wanted
    ) -> Tuple[Tensor, ...]:
        """The fields of ``LossTerms``; the gradients are kept for ``backward``."""
        kernel = kernel_for(output, teachers, options)
        step = options.chunk_tokens
        if step is None:
            step = _chunk(output, weight, teachers[0] if kernel else None)
        step = step or max(len(output), 1)
        of_chunk = kernel or _loss_in_torch
        grads = _Gradients(output, weight, bias, wanted, gradient_scale(options, output.dtype))
        sums = output.new_zeros(LossTerms.packed_size(len(teachers)), dtype=grads.dtype)
        with torch.autocast(output.device.type, enabled=False):
            for start in range(0, len(output), step):
                rows = slice(start, start + step)
                z = project(output[rows], grads.weight, grads.bias)  # (n, V)
                packed, dz = of_chunk(z, reference[rows], teachers, rows, options, wanted)
                sums += packed
                grads.add(rows, dz)
        ctx.save_for_backward(*grads.finished())
        # copied, as fairseq scales a loss in place
        terms = tuple(term.clone() for term in LossTerms.unpacked(sums, len(teachers)))
        ctx.mark_non_differentiable(*terms[1:])
        return terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, *_: Tensor) -> Tuple[Optional[Tensor], ...]:
        """The kept gradients times that of the loss, such as fairseq's loss scale."""
        scaled = (None if grad is None else grad * d_loss for grad in ctx.saved_tensors)
        return (*scaled, None, None, None, None)


def _chunk(output: Tensor, weight: Optional[Tensor], teacher: Optional[SoftTargets]) -> int:
    """The tokens of a chunk, for the kernel with its teacher, or for torch."""
    vocab_size = output.size(-1) if weight is None else weight.size(0)
    if teacher is None or weight is None:
        return default_chunk(vocab_size, output.device)
    teacher_width = teacher.states.size(-1) if isinstance(teacher, TeacherStates) else 0
    return kernel_chunk(len(output), output.size(-1), teacher_width, vocab_size)


def _loss_in_torch(
    z: Tensor,
    reference: Tensor,
    teachers: Sequence[SoftTargets],
    rows: slice,
    options: LossOptions,
    gradient: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """The packed ``LossTerms`` of the tokens ``rows``, and ``gradient_scale`` times dL/dz."""
    function = compiled_loss_and_logit_gradient_ if options.compiled else loss_and_logit_gradient_
    chunks = [teacher[rows] for teacher in teachers]
    packed, dz = function(widened(z), reference, chunks, options, gradient)
    scale = gradient_scale(options, z.dtype)
    return packed, dz if dz is None or scale == 1 else dz.mul_(scale)


class _Gradients:
    """Sums the gradients of a loss from its logit gradients, in float32 or float64.

    On a GPU torch multiplies matrices in half precision and adds up in float32. Where it cannot,
    those in float16 are multiplied in float32, on a GPU in TF32, which has float16's precision and
    float32's range.

    Args:
        scale: by which the logit gradients are multiplied, so that float16 can hold small ones.
    """

    def __init__(
        self,
        output: Tensor,
        weight: Optional[Tensor],
        bias: Optional[Tensor],
        wanted: bool,
        scale: float,
    ):
        self.wanted, self.scale = wanted, scale
        self.dtype = torch.promote_types(output.dtype, torch.float32)
        self.weight, self.bias = (
            None if tensor is None else tensor.to(output.dtype) for tensor in (weight, bias)
        )
        self.mixed = adds_in_float32(output.device, output.dtype)
        self.half = output.dtype == torch.float16 and not self.mixed
        self.factor_dtype = self.dtype if self.half else output.dtype
        self.output = output.to(self.factor_dtype)
        self.factor = None if weight is None else self.weight.to(self.factor_dtype)
        self.d_output, self.d_weight, self.d_bias = (
            torch.zeros(tensor.shape, dtype=self.dtype, device=output.device)
            if wanted and tensor is not None
            else None
            for tensor in (output, weight, bias)
        )

    def add(self, rows: slice, dz: Optional[Tensor]) -> None:
        """Adds the part of some rows of ``output``, of logit gradient ``dz`` (n, V)."""
        if not self.wanted:
            return
        if self.d_bias is not None:
            self.d_bias += dz.sum(0, dtype=self.dtype)
        if self.factor is None:
            self.d_output[rows] = dz
            return
        dz = dz.to(self.factor_dtype)
        with _tf32() if self.half else contextlib.nullcontext():
            self._add_product(self.d_output[rows], dz, self.factor)
            self._add_product(self.d_weight, dz.T, self.output[rows])

    def _add_product(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        if self.factor_dtype == self.dtype:
            total.addmm_(left, right)
        elif self.mixed:
            torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
        else:
            total += left @ right

    def finished(self) -> Tuple[Optional[Tensor], ...]:
        """The gradients in ``output``, ``weight`` and ``bias``; None of those not wanted."""
        gradients = (self.d_output, self.d_weight, self.d_bias)
        if self.scale == 1:
            return gradients
        return tuple(None if each is None else each.div_(self.scale) for each in gradients)


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    """Computes matrix products of float32 on CUDA in TF32 inside of the ``with``."""
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


def compiled_loss_and_logit_gradient_(
    z: Tensor,
    reference: Tensor,
    teachers: Sequence[Chunk],
    options: LossOptions,
    gradient: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """As ``loss_and_logit_gradient_``, within rounding.

    The first calls with and without a gradient compile it, and once more for a variable number of
    tokens. A single token, which would be compiled separately, is computed without compilation.

    Raises:
        ValueError: torch.compile does not work here.
    """
    from torch._dynamo.exc import TorchDynamoException  # here, as it takes a second

    if len(z) == 1:
        return loss_and_logit_gradient_(z, reference, teachers, options, gradient)
    numbers = tensor_on(z.device, [getattr(options, name) for name in SCHEDULED], z.dtype)
    fixed = replace(options, **dict.fromkeys(SCHEDULED, 1.0))
    alone = [_contiguous(teacher) for teacher in teachers]
    try:
        return _program()(z, reference.clone(), alone, fixed, gradient, numbers)
    except TorchDynamoException as error:
        raise _refusal(error) from error


@functools.cache
def _program() -> Loss:
    try:
        return torch.compile(_with_numbers)
    except RuntimeError as error:  # this Python or this system is not supported
        raise _refusal(error) from error


def _refusal(error: Exception) -> ValueError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = next((line for line in lines if "error:" in line), lines[0])
    return ValueError(f"torch.compile fails here ({reason}). Leave --kd-compile out.")


def _contiguous(teacher: Chunk) -> Chunk:
    """A copy that is no view of the batch: each offset would be compiled separately."""
    if not isinstance(teacher, TopK):
        return teacher
    names = ("ids", "log_p", "log_tail")
    return replace(teacher, **{name: getattr(teacher, name).clone() for name in names})


def _with_numbers(
    z: Tensor,
    reference: Tensor,
    teachers: Sequence[Chunk],
    options: LossOptions,
    gradient: bool,
    numbers: Tensor,
) -> Tuple[Tensor, Optional[Tensor]]:
    options = replace(options, **dict(zip(SCHEDULED, numbers.unbind(), strict=True)))
    return loss_and_logit_gradient_(z, reference, teachers, options, gradient)
