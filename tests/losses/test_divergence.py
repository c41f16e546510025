"""The divergences against their definition: loops over tokens and words, in float64."""

import math

import pytest
import torch

from fairseq_kd.losses import forward_kl, forward_kl_and_entropy, top1_agreement

SHAPES = [(1, 1, 2), (2, 5, 7), (3, 1, 41)]  # odd on purpose: a transposed axis cannot hide


@pytest.fixture(params=SHAPES, ids=str)
def batch(request):
    """(student, teacher, real): float64 logits and a mask that leaves out the last token of each
    sentence but the first."""
    generator = torch.Generator().manual_seed(sum(request.param))
    student, teacher = (
        3 * torch.randn(request.param, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    real = torch.ones(request.param[:2], dtype=torch.bool)
    real[1:, -1] = False
    return student, teacher, real


def teacher_entropy(teacher, real, temperature):
    return forward_kl_and_entropy(torch.zeros_like(teacher), teacher, real, temperature)[1]


def softmax(logits, temperature):
    weights = [math.exp(z / temperature) for z in logits]
    return [weight / sum(weights) for weight in weights]


def real_tokens(*tensors, real):
    for b in range(real.shape[0]):
        for t in range(real.shape[1]):
            if real[b, t]:
                yield tuple(tensor[b, t].tolist() for tensor in tensors)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_forward_kl_is_its_definition(batch, temperature):
    student, teacher, real = batch
    want = 0.0
    for z_student, z_teacher in real_tokens(student, teacher, real=real):
        q, p = softmax(z_student, temperature), softmax(z_teacher, temperature)
        want += temperature**2 * sum(p[v] * math.log(p[v] / q[v]) for v in range(len(p)))
    assert forward_kl(student, teacher, real, temperature).item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_teacher_entropy_is_its_definition(batch, temperature):
    _, teacher, real = batch
    want = 0.0
    for (z,) in real_tokens(teacher, real=real):
        want -= sum(p * math.log(p) for p in softmax(z, temperature))
    assert teacher_entropy(teacher, real, temperature).item() == pytest.approx(want, rel=1e-12)


def test_top1_agreement_counts_real_tokens_with_the_same_likeliest_word(batch):
    student, teacher, real = batch
    pairs = real_tokens(student, teacher, real=real)
    want = sum(s.index(max(s)) == t.index(max(t)) for s, t in pairs)
    assert top1_agreement(student, teacher, real).item() == want
    assert top1_agreement(teacher, teacher, real).item() == real.sum().item()


def test_forward_kl_is_exactly_zero_for_equal_logits(batch):
    student, _, real = batch
    assert forward_kl(student, student, real, 4.0).item() == 0.0
    half = student.half()
    assert forward_kl(half, half, real, 4.0).item() == 0.0


def test_forward_kl_ignores_pads_in_value_and_gradient(batch):
    student, teacher, real = batch
    want = forward_kl(student, teacher, real, 2.0)
    student, teacher = student.clone(), teacher.clone()
    student[~real] = teacher[~real] = float("nan")
    student.requires_grad_()
    got = forward_kl(student, teacher, real, 2.0)
    got.backward()
    assert torch.equal(got, want)
    assert (student.grad[~real] == 0).all()
    assert student.grad[real].isfinite().all()


def test_entropy_and_agreement_ignore_pads(batch):
    student, teacher, real = batch
    entropy, agreed = teacher_entropy(teacher, real, 2.0), top1_agreement(student, teacher, real)
    teacher = teacher.clone()
    teacher[~real] = float("nan")
    assert torch.equal(teacher_entropy(teacher, real, 2.0), entropy)
    assert torch.equal(top1_agreement(student, teacher, real), agreed)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradient_of_forward_kl_is_t_times_the_difference_of_the_probabilities(batch, temperature):
    student, teacher, real = batch
    student = student.clone().requires_grad_()
    forward_kl(student, teacher, real, temperature).backward()
    for b, t in real.nonzero().tolist():
        q = softmax(student[b, t].tolist(), temperature)
        p = softmax(teacher[b, t].tolist(), temperature)
        want = [temperature * (qv - pv) for qv, pv in zip(q, p, strict=True)]
        assert student.grad[b, t].tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_forward_kl_passes_gradcheck(batch):
    student, teacher, real = batch
    student = student.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: forward_kl(z, teacher, real, 3.0), (student,))


def test_forward_kl_of_a_hot_softmax_is_half_the_variance_of_the_logit_gap(batch):
    student, teacher, real = batch
    want = 0.0
    for z_student, z_teacher in real_tokens(student, teacher, real=real):
        gap = [s - t for s, t in zip(z_student, z_teacher, strict=True)]
        mean = sum(gap) / len(gap)
        want += sum((g - mean) ** 2 for g in gap) / len(gap) / 2
    got = forward_kl(student, teacher, real, 1e4).item()
    assert got == pytest.approx(want, rel=1e-2)  # the next term is of the order of gap / T


def test_a_word_that_the_teacher_rules_out_adds_nothing(batch):
    student, teacher, real = batch
    teacher = teacher.clone()
    teacher[..., 0] = float("-inf")
    student = student.clone().requires_grad_()
    got = forward_kl(student, teacher, real, 2.0)
    got.backward()
    want = 0.0
    for z_student, z_teacher in real_tokens(student.detach(), teacher, real=real):
        q, p = softmax(z_student, 2.0), softmax(z_teacher, 2.0)
        want += 4 * sum(p[v] * math.log(p[v] / q[v]) for v in range(1, len(p)))
    assert got.item() == pytest.approx(want, rel=1e-12)
    assert student.grad.isfinite().all()
    assert teacher_entropy(teacher, real, 2.0).isfinite()


def test_a_batch_with_nothing_real_gives_zero_with_a_gradient(batch):
    student, teacher, real = batch
    student = student.clone().requires_grad_()
    loss = forward_kl(student, teacher, torch.zeros_like(real), 4.0)
    loss.backward()
    assert loss.item() == 0.0
    assert (student.grad == 0).all()
    assert teacher_entropy(teacher, torch.zeros_like(real), 4.0).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(batch, dtype):
    student, teacher, real = batch
    student, teacher = student.to(dtype), teacher.to(dtype)
    got = forward_kl(student, teacher, real, 4.0)
    assert got.dtype == torch.float32
    want = forward_kl(student.double(), teacher.double(), real, 4.0)
    assert got.item() == pytest.approx(want.item(), rel=1e-4)  # float32 rounding alone
