"""Whether the kernel computes the loss of a chunk, and how many tokens the chunk then has.

The first batch on a GPU tries the kernel on a few tokens and compares it with its definition in
torch. Where it fails, as without the C compiler that Triton needs, torch computes every loss.
"""

import functools
import importlib.util
import logging
import math
from typing import Callable, Optional, Sequence, Tuple

import torch
from torch import Tensor

from fairseq_kd.losses.soft_targets import SoftTargets, TeacherLogits, TopK
from fairseq_kd.losses.token_loss import LossOptions, loss_and_logit_gradient_

logger = logging.getLogger(__name__)
DIVERGENCES_OF_KERNEL = ("forward_kl", "reverse_kl", "jeffreys", "js")
DTYPES_OF_KERNEL = (torch.float16, torch.bfloat16, torch.float32)
FLOPS_PER_S, BYTES_PER_S = 700e12, 3.35e12  # of an H100 in half precision
TRAFFIC = 0.1  # time for the weight gradient, at most, as a share of that for matrix products
MOST_LOGITS = 2**30  # of a chunk: 2 GiB in half precision
LARGEST_LOG_RATIO = 100.0  # of two probabilities of at least e^LOG_SMALLEST, rounded up
TOLERANCE = 0.02  # of a gradient in half precision, as a share of the largest
LossOfChunk = Callable[..., Tuple[Tensor, Optional[Tensor]]]


def kernel_for(
    output: Tensor, teachers: Sequence[SoftTargets], options: LossOptions
) -> Optional[LossOfChunk]:
    """The function that computes the loss of a chunk by the kernel; None where torch computes it.

    The kernel covers one teacher, one temperature for all tokens, no gate, and the divergences in
    ``DIVERGENCES_OF_KERNEL``.
    """
    fits = (
        len(teachers) == 1
        and options.mixture.factor(0) == 1
        and not (options.by_confidence or options.gated)
        and options.divergence in DIVERGENCES_OF_KERNEL
        and output.dtype in DTYPES_OF_KERNEL
    )
    wanted = output.is_cuda if options.fused is None else options.fused
    if not (fits and wanted) or (options.fused is None and fault(output.device, output.dtype)):
        return None
    from fairseq_kd.losses.kernel import loss_by_kernel  # here, as only some machines have Triton

    return loss_by_kernel


@functools.cache
def fault(device: torch.device, dtype: torch.dtype) -> str:
    """Why the kernel is not used on a device, which is then logged; "" if it is right there."""
    reason = _fault(device, dtype)
    if reason:
        logger.warning(f"the loss is computed by torch, not by a kernel, which is slower: {reason}")
    return reason


def _fault(device: torch.device, dtype: torch.dtype) -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    n, vocab_size, k = 5, 70, 8
    student, taught = (
        torch.arange(n * vocab_size, device=device).view(n, -1).mul(each).sin().mul(3).to(dtype)
        for each in (0.7, 1.3)
    )
    reference = torch.arange(n, device=device)
    options = LossOptions(alpha=0.8, beta=0.2, smoothing=0.1, temperature=2.0)
    for teacher in (TeacherLogits(taught), TopK.of_logits(taught.float(), k)):
        arguments = reference, [teacher], slice(0, n), options, True
        try:
            from fairseq_kd.losses.kernel import loss_by_kernel

            sums, dz = loss_by_kernel(student.clone(), *arguments)
        except Exception as error:  # of any kind: of Triton, its compilers or the driver
            return (str(error).strip().splitlines() or [type(error).__name__])[0]
        want, want_dz = loss_and_logit_gradient_(
            student.float(), reference, [teacher[:]], options, True
        )
        gap = (dz.float() / gradient_scale(options, dtype) - want_dz).abs().max()
        near = torch.allclose(sums, want, rtol=1e-3, atol=1e-4)
        if not (near and gap <= TOLERANCE * want_dz.abs().max()):
            return "its results differ from torch's"
    return ""


def gradient_scale(options: LossOptions, dtype: torch.dtype) -> float:
    """The power of two by which the logit gradients of a type are multiplied: 1 but for float16.

    float16 cannot hold small gradients. This is the largest power that keeps them all below 2^15,
    half of what float16 can hold; 2e-12 of the largest is then still above 0.
    """
    if dtype != torch.float16:
        return 1.0
    at_most = 1.0 if options.divergence == "forward_kl" else LARGEST_LOG_RATIO
    largest = options.alpha * max(options.temperature, 1.0) * at_most + options.beta
    largest *= 2 if options.gated else 1
    return 2.0 ** math.floor(math.log2(2**15 / max(largest, 1e-30)))


def kernel_chunk(tokens: int, student_width: int, teacher_width: int, vocab_size: int) -> int:
    """The number of tokens in a chunk for the kernel, in chunks of equal size.

    Each chunk reads and writes the float32 weight gradient once, ``8 V d_s`` bytes, which shall
    take at most ``TRAFFIC`` of the time of its products, ``2 n V (3 d_s + d_t)`` operations.

    Args:
        tokens: N, of the batch.
        student_width: d_s, the width of the student's states.
        teacher_width: d_t, of the teacher's; 0 if there is no product for it.
        vocab_size: V.
    """
    operations = 2 * (3 * student_width + teacher_width) / FLOPS_PER_S
    least = math.ceil(8 * student_width / BYTES_PER_S / (TRAFFIC * operations))
    n_chunks = max(1, tokens // least, math.ceil(tokens * vocab_size / MOST_LOGITS))
    return math.ceil(tokens / n_chunks)


@functools.cache
def adds_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch adds products of matrices of this type to a float32 matrix, on this device."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    ones = torch.ones(16, 16, dtype=dtype, device=device)
    total = torch.ones(16, 16, device=device)
    try:
        torch.addmm(total, ones, ones, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):  # of a torch that lacks it
        return False
    return bool((total == 17).all())
