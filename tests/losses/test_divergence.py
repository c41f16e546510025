"""The divergences against their definition: loops over tokens and words, in float64."""

import math

import pytest
import torch
from plain_losses import (
    PLAIN,
    forward_kl,
    jeffreys,
    jensen_shannon,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    todi,
    total_variation,
)

from fairseq_kd.losses import DIVERGENCES


def kl(p, q):
    return sum(p[v] * math.log(p[v] / q[v]) for v in range(len(p)) if p[v] > 0)


def js(p, q):
    m = [(p[v] + q[v]) / 2 for v in range(len(p))]
    return (kl(p, m) + kl(q, m)) / 2


def skewed(p, q):
    return kl(p, [0.1 * p[v] + 0.9 * q[v] for v in range(len(p))])


def weighted(p, q, shares):
    forward = [p[v] * math.log(p[v] / q[v]) for v in range(len(p))]
    reverse = [q[v] * math.log(q[v] / p[v]) for v in range(len(p))]
    return sum(a * f + (1 - a) * r for a, f, r in zip(shares, forward, reverse, strict=True))


def shares_of(p, q):
    return [p[v] / (p[v] + q[v]) for v in range(len(p))]


DEFINITIONS = {
    forward_kl: lambda p, q, t: t * t * kl(p, q),
    reverse_kl: lambda p, q, t: t * t * kl(q, p),
    jeffreys: lambda p, q, t: t * t * (kl(p, q) + kl(q, p)),
    jensen_shannon: lambda p, q, t: t * t * js(p, q),
    total_variation: lambda p, q, t: (
        t
        * max(  # the largest difference over all sets of words
            sum(p[v] - q[v] for v in range(len(p)) if p[v] > q[v]),
            sum(q[v] - p[v] for v in range(len(p)) if q[v] > p[v]),
        )
    ),
    skew_kl: lambda p, q, t: t * t * skewed(p, q),
    skew_reverse_kl: lambda p, q, t: t * t * skewed(q, p),
    todi: lambda p, q, t: t * t * weighted(p, q, shares_of(p, q)),
}
FUNCTIONS = pytest.mark.parametrize("divergence", DEFINITIONS, ids=PLAIN)
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])


def real_tokens(*tensors, real):
    for b in range(real.shape[0]):
        for t in range(real.shape[1]):
            if real[b, t]:
                yield tuple(tensor[b, t].tolist() for tensor in tensors)


@FUNCTIONS
@TEMPERATURES
def test_a_divergence_equals_its_definition(batch, softmax, divergence, temperature):
    student, teacher, real = batch
    want = 0.0
    for z_student, z_teacher in real_tokens(student, teacher, real=real):
        q, p = softmax(z_student, temperature), softmax(z_teacher, temperature)
        want += DEFINITIONS[divergence](p, q, temperature)
    assert divergence(student, teacher, real, temperature).item() == pytest.approx(want, rel=1e-12)


@FUNCTIONS
def test_weights_scale_the_tokens_terms(batch, divergence):
    student, teacher, real = batch
    weights = torch.arange(real.numel(), dtype=torch.float64).reshape(real.shape) / 2
    want = sum(
        weights[b, t] * divergence(student[b : b + 1, t : t + 1], teacher[b : b + 1, t : t + 1],
                                   real[b : b + 1, t : t + 1], 3.0)
        for b in range(real.shape[0]) for t in range(real.shape[1])
    )  # fmt: skip
    got = divergence(student, teacher, real, 3.0, weights)
    assert got.item() == pytest.approx(want.item(), rel=1e-12)


@FUNCTIONS
def test_it_is_exactly_zero_for_equal_logits(batch, divergence):
    student, _, real = batch
    assert divergence(student, student, real, 4.0).item() == pytest.approx(0.0, abs=1e-14)
    half = student.half()
    assert divergence(half, half, real, 4.0).item() == pytest.approx(0.0, abs=1e-5)


@FUNCTIONS
def test_pads_reach_neither_value_nor_gradient(batch, divergence):
    student, teacher, real = batch
    want = divergence(student, teacher, real, 2.0)
    student, teacher = student.clone(), teacher.clone()
    student[~real] = teacher[~real] = float("nan")
    student.requires_grad_()
    got = divergence(student, teacher, real, 2.0)
    got.backward()
    assert torch.equal(got, want)
    assert (student.grad[~real] == 0).all()
    assert student.grad[real].isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradient_of_forward_kl_is_t_times_the_difference_of_the_probabilities(
    batch, softmax, temperature
):
    student, teacher, real = batch
    student = student.clone().requires_grad_()
    forward_kl(student, teacher, real, temperature).backward()
    for b, t in real.nonzero().tolist():
        q = softmax(student[b, t].tolist(), temperature)
        p = softmax(teacher[b, t].tolist(), temperature)
        want = [temperature * (qv - pv) for qv, pv in zip(q, p, strict=True)]
        assert student.grad[b, t].tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("divergence", [each for each in DEFINITIONS if each is not todi])
def test_it_passes_gradcheck_and_gives_the_teacher_nothing(batch, divergence):
    student, teacher, real = batch
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: divergence(z, teacher, real, 3.0), (student,))
    divergence(student, teacher, real, 3.0).backward()
    assert teacher.grad is None


@TEMPERATURES
def test_the_gradient_of_todi_takes_its_weights_as_constants(batch, softmax, temperature):
    student, teacher, real = batch
    student = student.clone().requires_grad_()
    todi(student, teacher, real, temperature).backward()
    step = 1e-5
    for b, t in real.nonzero().tolist():
        z, p = student[b, t].tolist(), softmax(teacher[b, t].tolist(), temperature)
        shares = shares_of(p, softmax(z, temperature))
        for v in range(len(z)):
            sides = [
                weighted(p, softmax([*z[:v], z[v] + d, *z[v + 1 :]], temperature), shares)
                for d in (step, -step)
            ]
            want = temperature**2 * (sides[0] - sides[1]) / (2 * step)
            assert student.grad[b, t, v].item() == pytest.approx(want, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize(
    ("divergence", "share"),
    [
        (forward_kl, 1 / 2),
        (reverse_kl, 1 / 2),
        (jeffreys, 1),
        (jensen_shannon, 1 / 8),
        (skew_kl, 0.9**2 / 2),
        (skew_reverse_kl, 0.9**2 / 2),
        (todi, 1),
    ],
)
def test_a_hot_softmax_leaves_a_share_of_the_variance_of_the_logit_gap(batch, divergence, share):
    student, teacher, real = batch
    want = 0.0
    for z_student, z_teacher in real_tokens(student, teacher, real=real):
        gap = [s - t for s, t in zip(z_student, z_teacher, strict=True)]
        mean = sum(gap) / len(gap)
        want += share * sum((g - mean) ** 2 for g in gap) / len(gap)
    got = divergence(student, teacher, real, 1e4).item()
    assert got == pytest.approx(want, rel=1e-2)  # the next term is of the order of gap / T


def test_a_hot_total_variation_is_half_the_mean_distance_of_the_logit_gap(batch):
    student, teacher, real = batch
    want = 0.0
    for z_student, z_teacher in real_tokens(student, teacher, real=real):
        gap = [s - t for s, t in zip(z_student, z_teacher, strict=True)]
        mean = sum(gap) / len(gap)
        want += sum(abs(g - mean) for g in gap) / len(gap) / 2
    assert total_variation(student, teacher, real, 1e4).item() == pytest.approx(want, rel=1e-2)


@FUNCTIONS
def test_an_entry_that_the_teacher_rules_out_leaves_all_finite(batch, softmax, divergence):
    student, teacher, real = batch
    teacher = teacher.clone()
    teacher[..., 0] = float("-inf")
    student = student.clone().requires_grad_()
    got = divergence(student, teacher, real, 2.0)
    got.backward()
    smallest, want = torch.finfo(torch.float32).tiny, 0.0
    for z_student, z_teacher in real_tokens(student.detach(), teacher, real=real):
        q, p = softmax(z_student, 2.0), softmax(z_teacher, 2.0)
        want += DEFINITIONS[divergence]([smallest, *p[1:]], q, 2.0)
    assert got.item() == pytest.approx(want, rel=1e-12)
    assert student.grad.isfinite().all()


@FUNCTIONS
def test_a_batch_with_nothing_real_gives_zero_with_a_gradient(batch, divergence):
    student, teacher, real = batch
    student = student.clone().requires_grad_()
    loss = divergence(student, teacher, torch.zeros_like(real), 4.0)
    loss.backward()
    assert loss.item() == 0.0
    assert (student.grad == 0).all()


@FUNCTIONS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(batch, divergence, dtype):
    student, teacher, real = batch
    student, teacher = student.to(dtype), teacher.to(dtype)
    got = divergence(student, teacher, real, 4.0)
    assert got.dtype == torch.float32
    want = divergence(student.double(), teacher.double(), real, 4.0)
    assert got.item() == pytest.approx(want.item(), rel=1e-4)  # float32 rounding alone


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_gradient_times_q_is_that_of_the_value(batch, name):
    student, teacher, _ = batch
    log_p, z = teacher.flatten(0, 1).log_softmax(-1), student.flatten(0, 1).requires_grad_()
    log_q = z.log_softmax(-1)
    want = torch.autograd.grad(DIVERGENCES[name].value(log_p, log_q).sum(), z)[0]
    h = DIVERGENCES[name].q_times_gradient(log_p, log_q.detach())
    got = h - log_q.exp() * h.sum(-1, keepdim=True)
    torch.testing.assert_close(got, want)
