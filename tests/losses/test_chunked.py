"""The chunked loss against its formula written out by loops, and its gradients against autograd."""

import math

import pytest
import torch
from plain_losses import PLAIN, made

from fairseq_kd.losses import (
    DIVERGENCES,
    LossOptions,
    TeacherLogits,
    TeacherStates,
    TopK,
    chunked_loss,
    default_chunk,
)

N, C, V, K = 11, 5, 23, 6


@pytest.fixture
def student():
    """(hidden, weight, bias, gold)"""
    hidden, weight, bias = made(N, C, seed=1), made(V, C, seed=2), made(V, seed=3)
    gold = torch.arange(N) * 7 % V
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), gold


@pytest.fixture
def teachers():
    """Two teachers: one with an output projection, one with logits."""
    projected = TeacherStates(made(N, 3, seed=4), made(V, 3, seed=5), made(V, seed=6))
    return [projected, TeacherLogits(made(N, V, seed=7, scale=2.0))]


def reference(student, teachers, options):
    """The formula by autograd over the whole batch: log-probabilities, no closed form."""
    hidden, weight, bias, gold = student
    z = torch.nn.functional.linear(hidden, weight, bias)
    taught = [
        t.states @ t.weight.T + t.bias if isinstance(t, TeacherStates) else t.logits
        for t in teachers
    ]
    loss = kd = ce = torch.zeros((), dtype=z.dtype)
    for i in range(len(z)):
        t = options.temperature
        if options.by_confidence:
            confidence = sum(y[i].softmax(-1).max() for y in taught) / len(taught)
            t = (1 + confidence * (t - 1)).item()
        p = sum((y[i] / t).softmax(-1) for y in taught) / len(taught)
        one = torch.ones(1, 1, dtype=torch.bool)
        kd = kd + PLAIN[options.divergence](z[i][None, None], t * p.log()[None, None], one, t)
        log_q = z[i].log_softmax(-1)
        for v in range(V):
            smoothed = options.smoothing / (V - 1)
            ce = ce - (1 - options.smoothing if v == gold[i] else smoothed) * log_q[v]
    loss = options.alpha * kd + options.beta * ce
    return loss, kd, ce


@pytest.mark.parametrize("n_teachers", [1, 2])
@pytest.mark.parametrize("by_confidence", [False, True], ids=["uniform", "confidence"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_values_and_gradients_are_those_of_the_formula(
    student, teachers, divergence, temperature, by_confidence, n_teachers
):
    teachers = teachers[:n_teachers]
    options = LossOptions(0.7, 0.4, 0.1, temperature, divergence, by_confidence, chunk_tokens=4)
    terms = chunked_loss(*student, teachers, options)
    want, kd, ce = reference(student, teachers, options)
    assert terms.loss.item() == pytest.approx(want.item(), rel=1e-9)
    assert terms.kd.item() == pytest.approx(kd.item(), rel=1e-9)
    assert terms.ce.item() == pytest.approx(ce.item(), rel=1e-9)
    got = torch.autograd.grad(3 * terms.loss, student[:3])
    expected = torch.autograd.grad(3 * want, student[:3])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("chunk", [0, 1, 3, 11, 100, None])
def test_the_size_of_the_chunks_changes_nothing(student, teachers, chunk):
    def all_of(size):
        options = LossOptions(0.7, 0.4, 0.1, 2.0, chunk_tokens=size)
        terms = chunked_loss(*student, teachers[:1], options)
        return [*terms, *torch.autograd.grad(terms.loss, student[:3])]

    for got, want in zip(all_of(chunk), all_of(4), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_logged_terms_are_what_they_say(student, teachers):
    hidden, weight, bias, gold = student
    options = LossOptions(0.7, 0.4, 0.1, 2.5, chunk_tokens=4)
    terms = chunked_loss(*student, teachers[1:], options)
    nll = entropy = agreed = correct = 0
    for i in range(N):
        z = (hidden[i] @ weight.T + bias).tolist()
        y = teachers[1].logits[i].tolist()
        nll -= math.log(math.exp(z[gold[i]]) / sum(math.exp(each) for each in z))
        p = [math.exp(each / 2.5) / sum(math.exp(other / 2.5) for other in y) for each in y]
        entropy -= sum(each * math.log(each) for each in p)
        agreed += z.index(max(z)) == y.index(max(y))
        correct += z.index(max(z)) == gold[i]
    assert terms.nll.item() == pytest.approx(nll)
    assert terms.entropy.item() == pytest.approx(entropy)
    assert terms.temperature.item() == pytest.approx(2.5 * N)
    assert (terms.agreed, terms.correct) == (agreed, correct)


def test_without_a_projection_the_states_are_the_logits(student, teachers):
    hidden, weight, bias, gold = student
    options = LossOptions(0.7, 0.4, 0.1, 2.5, chunk_tokens=4)
    z = (hidden @ weight.T + bias).detach().requires_grad_()
    got = chunked_loss(z, None, None, gold, teachers, options)
    want, *_ = reference((z, torch.eye(V, dtype=z.dtype), None, gold), teachers, options)
    assert got.loss.item() == pytest.approx(want.item(), rel=1e-9)
    (a,), (b,) = torch.autograd.grad(got.loss, z), torch.autograd.grad(want, z)
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_equal_models_leave_exactly_nothing_to_learn(student):
    hidden, weight, bias, gold = (each.detach() for each in student)
    teacher = TeacherStates(hidden.float(), weight.float(), bias.float())
    for temperature in (1.0, 4.0):
        options = LossOptions(1.0, 0.0, 0.1, temperature, chunk_tokens=4)
        student = hidden.float().requires_grad_()
        terms = chunked_loss(student, weight.float(), bias.float(), gold, [teacher], options)
        assert terms.loss.item() == terms.kd.item() == 0.0
        assert (torch.autograd.grad(terms.loss, student)[0] == 0).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_an_entry_that_the_teacher_rules_out_leaves_all_finite(student, divergence):
    taught = made(N, V, seed=8)
    taught[:, 3] = float("-inf")
    options = LossOptions(0.7, 0.4, 0.1, 2.5, divergence, chunk_tokens=4)
    terms = chunked_loss(*student, [TeacherLogits(taught)], options)
    assert all(term.isfinite() for term in terms)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(terms.loss, student[:3]))


def test_no_tokens_give_zero_with_a_gradient(student, teachers):
    hidden, weight, bias, gold = student
    options = LossOptions(0.7, 0.4, 0.1, 2.5)
    none = [teachers[0][:0]]
    terms = chunked_loss(hidden[:0], weight, bias, gold[:0], none, options)
    assert [term.item() for term in terms] == [0.0] * len(terms)
    assert all(
        (grad == 0).all() for grad in torch.autograd.grad(terms.loss, (hidden, weight, bias))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(student, teachers, dtype):
    hidden, weight, bias, gold = student
    options = LossOptions(0.7, 0.4, 0.1, 2.5, chunk_tokens=4)
    half = [tensor.detach().to(dtype).requires_grad_() for tensor in (hidden, weight, bias)]
    taught = [TeacherLogits(teachers[1].logits.to(dtype))]
    terms = chunked_loss(*half, gold, taught, options)
    assert all(term.dtype == torch.float32 for term in terms)
    exact = [tensor.detach().double().requires_grad_() for tensor in half]
    want = chunked_loss(*exact, gold, [TeacherLogits(taught[0].logits.double())], options)
    assert terms.loss.item() == pytest.approx(want.loss.item(), rel=1e-2)  # bfloat16 has 8 bits
    loss_scale = 128.0  # as fairseq scales the loss of float16
    got = torch.autograd.grad(loss_scale * terms.loss, half)
    for a, b in zip(got, torch.autograd.grad(loss_scale * want.loss, exact), strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() < 2e-2 * b.norm()


def test_float16_keeps_gradients_that_float16_cannot_hold():
    """A probability of 1e-8 is 0 in float16; scaled by fairseq's loss scale it is not."""
    words, loss_scale = 64, 2.0**16
    hidden, weight = torch.ones(1, 1).half(), torch.zeros(words, 1).half()
    weight[0] = 18.0
    weight.requires_grad_()
    options = LossOptions(0.0, 1.0, 0.0, 1.0)
    taught = [TeacherLogits(torch.zeros(1, words))]
    loss = chunked_loss(hidden, weight, None, torch.zeros(1).long(), taught, options).loss
    (grad,) = torch.autograd.grad(loss_scale * loss, weight)
    want = loss_scale * math.exp(-18) / (1 + (words - 1) * math.exp(-18))
    assert grad[1].item() == pytest.approx(want, rel=1e-2)


@pytest.mark.parametrize(("dtype", "during"), [("float16", "tf32"), ("float32", "ieee")])
def test_products_of_float16_gradients_may_use_tf32_and_no_others(
    student, teachers, monkeypatch, dtype, during
):
    cuda, seen, add = torch.backends.cuda.matmul, [], torch.Tensor.addmm_
    before = cuda.fp32_precision

    def addmm_(*given):
        seen.append(cuda.fp32_precision)
        return add(*given)

    monkeypatch.setattr(torch.Tensor, "addmm_", addmm_)
    *states, gold = student
    states = [tensor.detach().to(getattr(torch, dtype)).requires_grad_() for tensor in states]
    taught = [TeacherLogits(teachers[1].logits.float())]
    try:
        cuda.fp32_precision = "ieee"
        chunked_loss(*states, gold, taught, LossOptions(0.7, 0.4, 0.1, 2.5, chunk_tokens=64))
        assert cuda.fp32_precision == "ieee"
    finally:
        cuda.fp32_precision = before
    assert set(seen) == {during}


def test_autocast_trains_float32_weights(student, teachers):
    hidden, weight, bias, gold = (each.detach() for each in student)
    weights = [tensor.float().requires_grad_() for tensor in (weight, bias)]
    options = LossOptions(0.7, 0.4, 0.1, 2.5, chunk_tokens=4)
    taught = [TeacherLogits(teachers[1].logits.float())]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = hidden.bfloat16().requires_grad_()
        terms = chunked_loss(states, *weights, gold, taught, options)
    grads = torch.autograd.grad(terms.loss, (states, *weights))
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32, torch.float32]
    exact, *_ = reference((hidden, weight, bias, gold), teachers[1:], options)
    assert terms.loss.item() == pytest.approx(exact.item(), rel=2e-2)


def test_nothing_is_computed_backwards_when_nothing_is_trained(student, teachers, monkeypatch):
    options = LossOptions(0.7, 0.4, 0.1, 2.5, chunk_tokens=4)
    want = chunked_loss(*student, teachers, options)
    monkeypatch.setattr(torch.Tensor, "addmm_", None)  # what gathers the gradient of the weight
    with torch.no_grad():
        got = chunked_loss(*student, teachers, options)
    assert [term.tolist() for term in got] == [term.tolist() for term in want]


def test_the_loss_may_be_scaled_in_place(student, teachers):
    """As fairseq does to the batch of a worker that has run out of batches."""
    loss = chunked_loss(*student, teachers, LossOptions(0.7, 0.4, 0.1, 2.5)).loss
    loss *= 0
    assert all((grad == 0).all() for grad in torch.autograd.grad(loss, student[:3]))


def test_no_tensor_is_as_large_as_all_logits(student, teachers):
    """Every tensor that autograd keeps or an operation makes is smaller than (N, V)."""
    tokens, words = 400, 300
    hidden = made(tokens, C, seed=1).requires_grad_()
    weight = made(words, C, seed=2).requires_grad_()
    teacher = TeacherStates(made(tokens, 3, seed=3), made(words, 3, seed=4))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for each in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(each, torch.Tensor):
                    largest = max(largest, each.untyped_storage().nbytes() // each.itemsize)
            return out

    options = LossOptions(0.7, 0.4, 0.1, 2.5, chunk_tokens=16)
    gold = torch.zeros(tokens, dtype=torch.long)
    with Watch():
        chunked_loss(hidden, weight, None, gold, [teacher], options).loss.backward()
    assert 0 < largest <= 16 * words


def test_the_default_chunk_shrinks_with_the_vocabulary():
    cpu = torch.device("cpu")
    assert default_chunk(4_000, cpu) > default_chunk(32_000, cpu) > default_chunk(128_000, cpu) - 1
    assert default_chunk(10**9, cpu) == 16


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_top_k_teacher_is_compared_over_its_words_and_one_class_of_the_others(
    student, softmax, divergence, temperature
):
    hidden, weight, bias, gold = student
    taught = made(N, V, seed=9, scale=2.0)
    stored = TopK.of_logits(taught, K)
    options = LossOptions(1.0, 0.0, 0.0, temperature, divergence, chunk_tokens=4)
    terms = chunked_loss(hidden, weight, bias, gold, [stored], options)
    total = torch.zeros((), dtype=torch.float64)
    z = hidden @ weight.T + bias
    for i in range(N):
        kept = sorted(range(V), key=lambda v, i=i: -taught[i, v])[:K]
        other = [v for v in range(V) if v not in kept]
        p, q = (taught[i] / temperature).softmax(-1), (z[i] / temperature).softmax(-1)
        p, q = (torch.cat([each[kept], each[other].sum()[None]]) for each in (p, q))
        one = torch.ones(1, 1, dtype=torch.bool)
        logits = [temperature * each.log()[None, None] for each in (q, p)]
        total = total + PLAIN[divergence](*logits, one, temperature)
    assert terms.kd.item() == pytest.approx(total.item(), rel=2e-3)  # the tail is interpolated
    got, want = (torch.autograd.grad(each, student[:3]) for each in (terms.loss, total))
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() < 5e-3 * b.norm() + 1e-9


def test_two_stores_mix_as_their_teachers_do_where_both_name_the_words(student):
    """With K one below V nothing is left in the tail: the mixture is that of the live teachers."""
    live = [TeacherLogits(made(N, V, seed=seed, scale=2.0)) for seed in (10, 11)]
    stored = [TopK.of_logits(each.logits, V - 1) for each in live]
    for divergence in DIVERGENCES:
        options = LossOptions(0.7, 0.4, 0.1, 2.0, divergence, chunk_tokens=4)
        got, want = (chunked_loss(*student, each, options) for each in (stored, live))
        assert got.loss.item() == pytest.approx(want.loss.item(), rel=1e-6)
        assert got.entropy.item() == pytest.approx(want.entropy.item(), rel=1e-6)
        grads = [torch.autograd.grad(each.loss, student[:3]) for each in (got, want)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_two_copies_of_one_store_are_that_store(student):
    stored = TopK.of_logits(made(N, V, seed=12, scale=2.0), K)
    for divergence in DIVERGENCES:
        options = LossOptions(1.0, 0.0, 0.0, 2.0, divergence, chunk_tokens=4)
        one, two = (chunked_loss(*student, [stored] * count, options) for count in (1, 2))
        assert two.loss.item() == pytest.approx(one.loss.item(), rel=1e-9)
        grads = [torch.autograd.grad(each.loss, student[:3]) for each in (one, two)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
