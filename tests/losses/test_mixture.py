"""Mixtures of teachers against their definition by loops over tokens and words, in float64."""

import itertools
import math

import pytest
import torch
from plain_losses import PLAIN, made

from fairseq_kd.losses import (
    DIVERGENCES,
    MEANS,
    LossOptions,
    Mixture,
    TeacherLogits,
    TeacherStates,
    TopK,
    chunked_loss,
)
from fairseq_kd.losses.mixture import even_share

N, C, V, K = 9, 5, 19, 6
WEIGHTS = {
    "fixed": (0.5, 0.2, 0.3),
    "gold": "gold",
    "confidence": "confidence",
    "agreement": "agreement",
}


@pytest.fixture
def student():
    """(hidden, weight, bias, gold)"""
    hidden, weight, bias = made(N, C, seed=1), made(V, C, seed=2), made(V, seed=3)
    gold = torch.arange(N) * 7 % V
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), gold


@pytest.fixture
def logits():
    """The logits of three teachers, (N, V) each, from flat to peaked."""
    return [made(N, V, seed=4 + i, scale=scale) for i, scale in enumerate((0.7, 1.5, 3.0))]


def weights_by_hand(kind, p, gold, fixed):
    """Of one token: p holds each teacher's probabilities at T = 1, as lists."""
    if kind == "fixed":
        return fixed
    if kind == "gold":
        scores = [each[gold] for each in p]
    elif kind == "confidence":
        scores = [max(each) for each in p]
    else:
        words = [each.index(max(each)) for each in p]
        scores = [sum(each[word] for each in p) / len(p) for word in words]
    return [score / sum(scores) for score in scores]


def mixed_by_hand(logits, gold, options, softmax, kind):
    """The mixture's distribution of every token, (N, V), its weights and T."""
    rows, all_weights, temperatures = [], [], []
    for i in range(N):
        given = [z[i].tolist() for z in logits]
        p = [softmax(z, 1.0) for z in given]
        weights = weights_by_hand(kind, p, int(gold[i]), WEIGHTS["fixed"])
        t = options.temperature
        if options.by_confidence:
            t = 1 + sum(w * max(q) for w, q in zip(weights, p, strict=True)) * (t - 1)
        factors = options.mixture.temperatures or (1.0,) * len(given)
        warm = [softmax(z, t * factor) for z, factor in zip(given, factors, strict=True)]
        if options.mixture.mean == "probabilities":
            row = [sum(w * q[v] for w, q in zip(weights, warm, strict=True)) for v in range(V)]
        else:
            row = [
                math.prod(q[v] ** w for w, q in zip(weights, warm, strict=True)) for v in range(V)
            ]
        rows.append([each / sum(row) for each in row])
        all_weights.append(weights)
        temperatures.append(t)
    return torch.tensor(rows, dtype=torch.float64), all_weights, temperatures


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize(
    ("temperature", "factors", "by_confidence"),
    [(1.0, None, False), (2.5, (1.0, 0.5, 2.0), False), (2.5, None, True)],
)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_loss_is_that_of_the_mixture(
    student, logits, softmax, divergence, temperature, factors, by_confidence, kind, mean
):
    mixture = Mixture(WEIGHTS[kind], factors, mean)
    options = LossOptions(1.0, 0.0, 0.1, temperature, divergence, by_confidence, 4, mixture=mixture)
    hidden, weight, bias, gold = student
    terms = chunked_loss(*student, [TeacherLogits(z) for z in logits], options)
    p, weights, temperatures = mixed_by_hand(logits, gold, options, softmax, kind)
    z = hidden @ weight.T + bias
    one = torch.ones(1, 1, dtype=torch.bool)
    want = sum(
        PLAIN[divergence](z[i][None, None], t * p[i].log()[None, None], one, t)
        for i, t in enumerate(temperatures)
    )
    assert terms.loss.item() == pytest.approx(want.item(), rel=1e-9)
    assert terms.weights.tolist() == pytest.approx([sum(w) for w in zip(*weights, strict=True)])
    assert terms.entropy.item() == pytest.approx(-(p * p.log()).sum().item())
    assert terms.agreed == (z.argmax(-1) == p.argmax(-1)).sum()
    got, expected = (torch.autograd.grad(each, student[:3]) for each in (terms.loss, want))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def losses(student, teachers, weights=None, mean="probabilities", temperature=2.0):
    options = LossOptions(0.7, 0.4, 0.1, temperature, mixture=Mixture(weights, mean=mean))
    terms = chunked_loss(*student, teachers, options)
    return [terms.loss, *torch.autograd.grad(terms.loss, student[:3])]


def assert_same(got, want, rtol=1e-9):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-9)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("weights", [None, (0.3, 0.7), "gold", "confidence", "agreement"])
@pytest.mark.parametrize("stored", [False, True], ids=["live", "stored"])
def test_two_copies_of_one_teacher_are_that_teacher(student, logits, stored, weights, mean):
    teacher = TopK.of_logits(logits[1], K) if stored else TeacherLogits(logits[1])
    two = losses(student, [teacher, teacher], weights, mean)
    assert_same(two, losses(student, [teacher]))


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("stored", [(), (0,), (1,), (0, 1)], ids=str)
def test_weights_of_1_and_0_leave_the_first_teacher_alone(student, logits, stored, mean):
    """Beside a teacher that runs, a stored one is shared out over all words, K + 1 classes else."""
    teachers = [
        TopK.of_logits(z, V - 1) if i in stored else TeacherLogits(z)
        for i, z in enumerate(logits[:2])
    ]
    alone = losses(student, [TeacherLogits(logits[0])])
    rtol = 1e-2 if stored else 1e-9  # the tail of a store is interpolated between temperatures
    assert_same(losses(student, teachers, (1.0, 0.0), mean), alone, rtol)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("weights", [(0.5, 0.2, 0.3), "gold", "confidence", "agreement"])
@pytest.mark.parametrize("stored", [(), (1,), (0, 1, 2)], ids=str)
def test_the_order_of_the_teachers_does_not_matter(student, logits, stored, weights, mean):
    teachers = [
        TopK.of_logits(z, K) if i in stored else TeacherLogits(z) for i, z in enumerate(logits)
    ]
    turned = weights if isinstance(weights, str) else (*weights[1:], weights[0])
    forwards = losses(student, teachers, weights, mean)
    assert_same(losses(student, [*teachers[1:], teachers[0]], turned, mean), forwards, 1e-7)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_a_store_and_its_live_teacher_mix_to_that_teacher(student, logits, temperature):
    """The teacher that runs tells how the mass of the stored tail is shared out."""
    live, stored = TeacherLogits(logits[1]), TopK.of_logits(logits[1], K)
    both = losses(student, [live, stored], temperature=temperature)
    assert_same(both, losses(student, [live], temperature=temperature), rtol=5e-3)


def test_a_stored_teacher_keeps_its_words_and_its_tail_beside_live_ones(student, logits):
    stored, *live = TopK.of_logits(logits[0], K), *map(TeacherLogits, logits[1:])
    options = LossOptions(1.0, 0.0, 0.0, 1.0, mixture=Mixture((0.6, 0.1, 0.3)))
    hidden, weight, bias, _ = student
    got = chunked_loss(*student, [stored, *live], options).kd
    want = 0.0
    z = hidden @ weight.T + bias
    for i in range(N):
        p, *running = (z[i].softmax(-1) for z in logits)
        like = (running[0] + running[1]) / 2
        kept = set(sorted(range(V), key=lambda v, i=i: -logits[0][i, v])[:K])
        tail = sum(p[v] for v in range(V) if v not in kept)
        elsewhere = sum(like[v] for v in range(V) if v not in kept)
        mixed = [
            0.6 * (p[v] if v in kept else tail * like[v] / elsewhere)
            + 0.1 * running[0][v]
            + 0.3 * running[1][v]
            for v in range(V)
        ]
        q = z[i].log_softmax(-1)
        want += sum(m * (math.log(m) - q[v].item()) for v, m in enumerate(mixed))
    assert got.item() == pytest.approx(float(want), rel=1e-9)


@pytest.mark.parametrize("stored", [False, True], ids=["live", "stored"])
def test_teacher_nll_and_its_gradient_are_those_of_the_mixture_on_the_reference(
    student, logits, stored
):
    """weight_gradient is that of -teacher_nll in each weight, by finite differences."""
    teachers = [TopK.of_logits(z, V - 1) if stored else TeacherLogits(z) for z in logits]
    gold = student[3]

    def nll(weights):
        return -sum(
            math.log(
                sum(w * z[i].softmax(-1)[gold[i]] for w, z in zip(weights, logits, strict=True))
            )
            for i in range(N)
        )

    weights = [0.5, 0.2, 0.3]
    options = LossOptions(0.7, 0.4, 0.1, 2.0, chunk_tokens=4, mixture=Mixture(tuple(weights)))
    terms = chunked_loss(*student, teachers, options)
    assert terms.teacher_nll.item() == pytest.approx(nll(weights), rel=1e-9)
    for i in range(3):
        more = [w + 1e-6 * (i == j) for j, w in enumerate(weights)]
        gradient = (nll(more) - nll(weights)) / 1e-6
        assert terms.weight_gradient[i].item() == pytest.approx(-gradient, rel=1e-4)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_gate_weighs_the_terms_of_each_token(student, logits, divergence, temperature):
    hidden, weight, bias, gold = student
    options = LossOptions(0.7, 0.4, 0.1, temperature, divergence, chunk_tokens=4, gated=True)
    terms = chunked_loss(*student, [TeacherLogits(logits[2])], options)
    z = hidden @ weight.T + bias
    one = torch.ones(1, 1, dtype=torch.bool)
    want = gates = 0
    for i in range(N):
        g = logits[2][i].softmax(-1)[gold[i]].item()
        kd = PLAIN[divergence](z[i][None, None], logits[2][i][None, None], one, temperature)
        log_q = z[i].log_softmax(-1)
        ce = sum(-(0.9 if v == gold[i] else 0.1 / (V - 1)) * log_q[v] for v in range(V))
        want = want + 0.7 * 2 * (1 - g) * kd + 0.4 * 2 * g * ce
        gates += g
    assert terms.gate.item() == pytest.approx(gates)
    assert terms.loss.item() == pytest.approx(want.item(), rel=1e-9)
    got, expected = (torch.autograd.grad(each, student[:3]) for each in (terms.loss, want))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_a_teacher_in_two_minds_about_the_reference_opens_the_gate_half(student):
    """g = 1/2 for every token is no gate at all."""
    gold = student[3]
    z = torch.full((N, V), -40.0, dtype=torch.float64)
    z.scatter_(1, gold[:, None], 0.0).scatter_(1, (gold[:, None] + 1) % V, 0.0)
    plain, gated = (LossOptions(0.7, 0.4, 0.1, 1.0, gated=gated) for gated in (False, True))
    got, want = (chunked_loss(*student, [TeacherLogits(z)], each).loss for each in (gated, plain))
    assert got.item() == pytest.approx(want.item(), rel=1e-9)


@pytest.mark.parametrize("weights", [None, "gold", "confidence", "agreement"])
def test_a_word_that_all_teachers_rule_out_leaves_all_finite(student, logits, weights):
    gold = student[3]
    for z in logits:
        z.scatter_(1, gold[:, None], float("-inf"))
    for mean in MEANS:
        options = LossOptions(
            0.7, 0.4, 0.1, 2.0, gated=True, mixture=Mixture(weights, mean=mean), chunk_tokens=4
        )
        terms = chunked_loss(*student, [TeacherLogits(z) for z in logits], options)
        assert all(term.isfinite().all() for term in terms)
        assert all(g.isfinite().all() for g in torch.autograd.grad(terms.loss, student[:3]))


def test_memory_grows_by_chunks_and_not_by_tensors_of_all_tokens(student):
    """Every tensor that an operation makes is smaller than (N, V), with any number of teachers."""
    tokens, words = 400, 300
    hidden = made(tokens, C, seed=1).requires_grad_()
    weight = made(words, C, seed=2).requires_grad_()
    teachers = [TeacherStates(made(tokens, 3, seed=i), made(words, 3, seed=i)) for i in (3, 4, 5)]
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for each in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(each, torch.Tensor):
                    largest = max(largest, each.untyped_storage().nbytes() // each.itemsize)
            return out

    options = LossOptions(0.7, 0.4, 0.1, 2.5, chunk_tokens=16, mixture=Mixture("agreement"))
    with Watch():
        gold = torch.zeros(tokens, dtype=torch.long)
        chunked_loss(hidden, weight, None, gold, teachers, options).loss.backward()
    assert 0 < largest <= 16 * words


def entropy(weights):
    return -sum(w * math.log(w) for w in weights if w > 0)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("floor", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_weights_that_collapsed_have_just_that_entropy(count, floor):
    m = even_share(count, floor)
    collapsed = [(1 - m) * (i == 0) + m / count for i in range(count)]
    assert sum(collapsed) == pytest.approx(1)
    assert entropy(collapsed) == pytest.approx(floor * math.log(count), abs=1e-9)


def test_mixed_weights_have_at_least_the_entropy_of_the_floor():
    m = even_share(3, 0.5)
    grid = [i / 10 for i in range(11)]
    for a, b in itertools.product(grid, grid):
        if a + b <= 1:
            weights = [(1 - m) * s + m / 3 for s in (a, b, 1 - a - b)]
            assert entropy(weights) >= 0.5 * math.log(3) - 1e-9


def test_a_floor_of_0_leaves_the_softmax_alone_and_1_leaves_nothing_to_learn():
    assert even_share(2, 0.0) == 0.0
    assert even_share(2, 1.0) == pytest.approx(1.0)
