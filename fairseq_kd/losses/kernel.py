"""The loss of a chunk of tokens as one Triton kernel: two passes over logits in half precision.

The definition is that of ``token_loss``, for one teacher, one temperature and the divergences in
``DIVERGENCES_OF_KERNEL``, whose formulas ``_value`` and ``_q_times_gradient`` repeat. Each program
of the kernel has one token. It reads the logits of student and teacher once for their log-sum-exps
at 1 and at T, and once more for the loss and the gradient, which it writes over the student's
logits, in their own type. A divergence other than forward KL needs a pass between. Sums are in
float32; no copy of (n, V) is made.

Source: the log-sum-exp in one pass is Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3;
gradients written over the logits, Hsu et al. 2024 (Liger Kernel), arXiv:2410.10989, section 3.2.
"""

import math
from typing import Dict, Optional, Sequence, Tuple, Union

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairseq_kd.losses.divergence import DIVERGENCES, LOG_SMALLEST
from fairseq_kd.losses.kernel_choice import DIVERGENCES_OF_KERNEL, gradient_scale
from fairseq_kd.losses.soft_targets import SoftTargets, Sparse, TopK
from fairseq_kd.losses.token_loss import LossOptions

NUMBERS = {name: tl.constexpr(i) for i, name in enumerate(DIVERGENCES_OF_KERNEL)}
FORWARD, REVERSE, JEFFREYS = (NUMBERS[name] for name in DIVERGENCES_OF_KERNEL[:3])
SMALLEST, LOG_2 = tl.constexpr(LOG_SMALLEST), tl.constexpr(math.log(2))
EPSILON = tl.constexpr(torch.finfo(torch.float32).eps)
LOWEST = tl.constexpr(-3e38)
BLOCK, WARPS = 2048, 8  # vocabulary entries that a program reads at once, and its warps
FIELDS = ("kd", "ce", "nll", "entropy", "agreed", "correct")  # of a token, as the kernels write it


def loss_by_kernel(
    z: Tensor,
    reference: Tensor,
    teachers: Sequence[SoftTargets],
    rows: slice,
    options: LossOptions,
    gradient: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """As ``loss_and_scaled_gradient_``, of the tokens ``rows`` of one teacher's soft targets."""
    (teacher,) = teachers
    if isinstance(teacher, TopK):
        part = teacher[rows].distribution_(options.temperature)
    else:
        part = teacher.logits_of(rows)
    return loss_and_scaled_gradient_(z, reference, part, options, gradient)


def loss_and_scaled_gradient_(
    z: Tensor,
    reference: Tensor,
    teacher: Union[Tensor, Sparse],
    options: LossOptions,
    gradient: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """The packed ``LossTerms`` of n tokens, and ``gradient_scale`` times the gradient in z.

    In place: z is overwritten by its gradient; the teacher's logits are kept.

    Args:
        z: (n, V) the student's logits, float16, bfloat16 or float32.
        reference: (n,) the reference tokens.
        teacher: its logits, (n, V), of one of these types; or its distribution at T from a store.
        options: weights, temperature and the like.
        gradient: whether to compute the gradient.

    Returns:
        ``LossTerms`` in one float32 tensor, and z, or None.
    """
    n, vocab_size = z.shape
    others = options.smoothing / (vocab_size - 1)
    figures = torch.empty(n, len(FIELDS), device=z.device)
    temperature_power = DIVERGENCES[options.divergence].temperature_power
    numbers = (
        options.alpha * options.temperature ** (temperature_power - 1),
        options.beta,
        1 / options.temperature,
        1 - options.smoothing - others,
        others,
        gradient_scale(options, z.dtype),
    )
    fixed = dict(
        same=options.temperature == 1.0,
        gradient=gradient,
        divergence=DIVERGENCES_OF_KERNEL.index(options.divergence),
        block=min(BLOCK, triton.next_power_of_2(vocab_size)),
        num_warps=WARPS,
    )
    with torch.cuda.device_of(z):
        if isinstance(teacher, Sparse):
            ids, log_p, entropy = (
                each.contiguous()
                for each in (teacher.ids, teacher.log_p.float(), teacher.entropy.float())
            )
            kept = dict(k=ids.size(-1), n_kept=triton.next_power_of_2(ids.size(-1)))
            listed = (ids, log_p, entropy)
            _stored[(n,)](z, reference, figures, vocab_size, *listed, *numbers, **fixed, **kept)
        else:
            _live[(n,)](z, reference, figures, vocab_size, teacher, *numbers, **fixed)
    sums = dict(zip(FIELDS, figures.sum(0).unbind(), strict=True))
    return _packed(sums, n, options), z if gradient else None


def _packed(sums: Dict[str, Tensor], n: int, options: LossOptions) -> Tensor:
    """The sums in the order of ``LossTerms``, of one teacher without a gate."""
    temperature_power = DIVERGENCES[options.divergence].temperature_power
    kd = options.temperature**temperature_power * sums["kd"]
    loss = options.alpha * kd + options.beta * sums["ce"]
    none = torch.zeros_like(kd)
    temperature, weight = (torch.full_like(kd, n * each) for each in (options.temperature, 1.0))
    return torch.stack(
        [
            *(loss, kd, sums["ce"], sums["nll"], sums["entropy"], temperature),
            *(sums["agreed"], sums["correct"], none, none, weight, none),
        ]
    )


@triton.jit
def _live(
    z, reference, figures, vocab_size, taught, scale, beta, inverse_t, smoothed, others, factor,
    same: tl.constexpr, gradient: tl.constexpr, divergence: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """A token, of a teacher's logits ``taught``, (n, V)."""
    row = tl.program_id(0).to(tl.int64)
    z, taught, figures = z + row * vocab_size, taught + row * vocab_size, figures + row * 6
    label = tl.load(reference + row)
    log_z, soft_z, top, total = _log_sums(z, vocab_size, inverse_t, same, block)
    _, soft_t, teacher_top, _ = _log_sums(taught, vocab_size, inverse_t, same, block)
    nll = log_z - tl.load(z + label).to(tl.float32)
    h_sum = -1.0  # of h = q * dD/dq over the vocabulary
    if divergence != FORWARD:
        h_sum = 0.0
        for start in range(0, vocab_size, block):
            entries = start + tl.arange(0, block)
            inside = entries < vocab_size
            log_q = _log_p(z, entries, inside, inverse_t, soft_z)
            log_p = tl.maximum(_log_p(taught, entries, inside, inverse_t, soft_t), SMALLEST)
            h_sum += tl.sum(tl.where(inside, _q_times_gradient(log_p, log_q, divergence), 0.0))
    value = 0.0
    entropy = 0.0
    for start in range(0, vocab_size, block):
        entries = start + tl.arange(0, block)
        inside = entries < vocab_size
        logits = tl.load(z + entries, mask=inside, other=0.0).to(tl.float32)
        log_q = logits * inverse_t - soft_z
        log_p = tl.maximum(_log_p(taught, entries, inside, inverse_t, soft_t), SMALLEST)
        value += tl.sum(tl.where(inside, _value(log_p, log_q, divergence), 0.0))
        entropy -= tl.sum(tl.where(inside, tl.exp(log_p) * log_p, 0.0))
        if gradient:
            dz = scale * (_q_times_gradient(log_p, log_q, divergence) - tl.exp(log_q) * h_sum)
            y = tl.where(entries == label, smoothed + others, others)
            dz = factor * (dz + beta * (tl.exp(logits - log_z) - y))
            tl.store(z + entries, dz.to(z.dtype.element_ty), mask=inside)
    ce = smoothed * nll + others * (vocab_size * log_z - total)
    _write(figures, value, ce, nll, entropy, top == teacher_top, top == label)


@triton.jit
def _stored(
    z, reference, figures, vocab_size, ids, log_p, entropy, scale, beta, inverse_t, smoothed,
    others, factor, same: tl.constexpr, gradient: tl.constexpr, divergence: tl.constexpr,
    block: tl.constexpr, k: tl.constexpr, n_kept: tl.constexpr,
):  # fmt: skip
    """A token, of the K entries ``ids`` of a teacher and ``log_p`` of them and of the rest."""
    row = tl.program_id(0).to(tl.int64)
    z, figures = z + row * vocab_size, figures + row * 6
    ids, log_p = ids + row * k, log_p + row * (k + 1)
    label = tl.load(reference + row)
    log_z, soft_z, top, total = _log_sums(z, vocab_size, inverse_t, same, block)
    nll = log_z - tl.load(z + label).to(tl.float32)
    number = tl.arange(0, n_kept)
    listed = number < k
    kept = tl.load(ids + number, mask=listed, other=0)
    kept_z = tl.load(z + kept, mask=listed, other=0.0).to(tl.float32)
    kept_p = tl.load(log_p + number, mask=listed, other=0.0)
    rest_p = tl.load(log_p + k)
    kept_q = kept_z * inverse_t - soft_z
    kept_mass = tl.where(listed, tl.exp(kept_q), 0.0)
    rest_mass = tl.maximum(1.0 - tl.sum(kept_mass), EPSILON)
    rest_q = tl.log(rest_mass)
    value = tl.sum(tl.where(listed, _value(kept_p, kept_q, divergence), 0.0))
    value += _value(rest_p, rest_q, divergence)
    if gradient:
        kept_h = tl.where(listed, _q_times_gradient(kept_p, kept_q, divergence), 0.0)
        rest_h = _q_times_gradient(rest_p, rest_q, divergence)
        h_sum = tl.sum(kept_h) + rest_h
        rest = rest_h / rest_mass - h_sum
        for start in range(0, vocab_size, block):
            entries = start + tl.arange(0, block)
            inside = entries < vocab_size
            logits = tl.load(z + entries, mask=inside, other=0.0).to(tl.float32)
            y = tl.where(entries == label, smoothed + others, others)
            dz = scale * rest * tl.exp(logits * inverse_t - soft_z)
            dz = factor * (dz + beta * (tl.exp(logits - log_z) - y))
            tl.store(z + entries, dz.to(z.dtype.element_ty), mask=inside)
        y = tl.where(kept == label, smoothed + others, others)
        dz = scale * (kept_h - kept_mass * h_sum)
        dz = factor * (dz + beta * (tl.exp(kept_z - log_z) - y))
        tl.debug_barrier()  # the entries were written by other threads of this program
        tl.store(z + kept, dz.to(z.dtype.element_ty), mask=listed)
    ce = smoothed * nll + others * (vocab_size * log_z - total)
    _write(figures, value, ce, nll, tl.load(entropy + row), top == tl.load(ids), top == label)


@triton.jit
def _log_sums(z, vocab_size, inverse_t, same: tl.constexpr, block: tl.constexpr):
    """Of a row: log-sum-exp of z and of z / T, the number of the largest entry, and the sum."""
    highest = LOWEST
    top = 0
    mass = 0.0
    soft = 0.0
    total = 0.0
    for start in range(0, vocab_size, block):
        entries = start + tl.arange(0, block)
        inside = entries < vocab_size
        logits = tl.load(z + entries, mask=inside, other=float("-inf")).to(tl.float32)
        largest, at = tl.max(logits, 0, return_indices=True)
        before = highest
        highest = tl.maximum(before, largest)
        top = tl.where(largest > before, start + at, top)
        mass = mass * tl.exp(before - highest) + tl.sum(tl.exp(logits - highest))
        if not same:
            softened = tl.exp((logits - highest) * inverse_t)
            soft = soft * tl.exp((before - highest) * inverse_t) + tl.sum(softened)
        total += tl.sum(tl.where(inside, logits, 0.0))
    log_z = highest + tl.log(mass)
    soft_z = log_z
    if not same:
        soft_z = highest * inverse_t + tl.log(soft)
    return log_z, soft_z, top, total


@triton.jit
def _log_p(z, entries, inside, inverse_t, soft_z):
    logits = tl.load(z + entries, mask=inside, other=0.0).to(tl.float32)
    return logits * inverse_t - soft_z


@triton.jit
def _value(log_p, log_q, divergence: tl.constexpr):
    """A class's part of a divergence, as in divergence.py."""
    if divergence == FORWARD:
        value = tl.exp(log_p) * (log_p - log_q)
    elif divergence == REVERSE:
        value = tl.exp(log_q) * (log_q - log_p)
    elif divergence == JEFFREYS:
        value = (tl.exp(log_p) - tl.exp(log_q)) * (log_p - log_q)
    else:  # js
        log_m = _log_mean(log_p, log_q)
        value = (tl.exp(log_p) * (log_p - log_m) + tl.exp(log_q) * (log_q - log_m)) / 2
    return value


@triton.jit
def _q_times_gradient(log_p, log_q, divergence: tl.constexpr):
    """``h = q * dD/dq`` of a class, up to a multiple of q, as in divergence.py."""
    if divergence == FORWARD:
        h = -tl.exp(log_p)
    elif divergence == REVERSE:
        h = tl.exp(log_q) * (log_q - log_p)
    elif divergence == JEFFREYS:
        h = tl.exp(log_q) * (log_q - log_p) - tl.exp(log_p)
    else:  # js
        h = tl.exp(log_q) * (log_q - _log_mean(log_p, log_q)) / 2
    return h


@triton.jit
def _log_mean(log_p, log_q):
    highest = tl.maximum(log_p, log_q)
    return highest + tl.log(tl.exp(log_p - highest) + tl.exp(log_q - highest)) - LOG_2


@triton.jit
def _write(figures, value, ce, nll, entropy, agreed, correct):
    tl.store(figures, value)
    tl.store(figures + 1, ce)
    tl.store(figures + 2, nll)
    tl.store(figures + 3, entropy)
    tl.store(figures + 4, agreed.to(tl.float32))
    tl.store(figures + 5, correct.to(tl.float32))
