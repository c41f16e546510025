"""The distances between hidden states against their definition: loops, in float64."""

import math

import pytest
import torch
from torch import nn

from fairseq_kd.losses.hidden_states import DISTANCES, hidden_distance

SHAPES = [(1, 1, 2, 3), (2, 5, 7, 4), (3, 4, 1, 6)]  # B, L, C of the student, C of the teacher


@pytest.fixture(params=SHAPES, ids=str)
def batch(request):
    """(student, teacher, real, tokens, projection), with the last positions of all sentences but
    the first not real."""
    b, length, ours, theirs = request.param
    generator = torch.Generator().manual_seed(sum(request.param))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    real = torch.ones(b, length, dtype=torch.bool)
    for sentence in range(1, b):
        real[sentence, -sentence:] = False
    tokens = torch.randint(1, 9, (b,), generator=generator)
    projection = nn.Linear(ours, theirs, bias=False, dtype=torch.float64)
    projection.weight.data = normal(theirs, ours)
    return normal(b, length, ours), normal(b, length, theirs), real, tokens, projection


def distance_of(name, s, t):
    if name == "mse":
        return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(t)
    lengths = [math.sqrt(sum(a * a for a in row)) for row in (s, t)]
    return 1 - sum(a * b for a, b in zip(s, t, strict=True)) / lengths[0] / lengths[1]


@pytest.mark.parametrize("name", DISTANCES)
def test_the_distance_is_its_definition(batch, name):
    student, teacher, real, tokens, projection = batch
    want = 0.0
    for b in range(len(real)):
        found = []
        for i in range(real.size(1)):
            if real[b, i]:
                mapped = [
                    sum(w * s for w, s in zip(row, student[b, i].tolist(), strict=True))
                    for row in projection.weight.tolist()
                ]
                found.append(distance_of(name, mapped, teacher[b, i].tolist()))
        want += tokens[b].item() * sum(found) / len(found)
    got = hidden_distance(student, teacher, real, tokens, name, projection)
    assert got.item() == pytest.approx(want, rel=1e-6)  # the weight of a position is float32


def test_a_projection_with_a_bias_counts_at_real_positions_alone():
    student, teacher = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
    real = torch.tensor([[True, False, False]])
    got = hidden_distance(student, teacher, real, torch.tensor([4]), "mse", lambda x: x + 1)
    assert got.item() == 4.0  # four target tokens, each with the mean of 1


@pytest.mark.parametrize("name", DISTANCES)
def test_it_is_exactly_zero_for_equal_states(batch, name):
    _, teacher, real, tokens, _ = batch
    for dtype in (torch.float64, torch.float32, torch.float16):
        states = teacher.to(dtype)
        assert hidden_distance(states, states, real, tokens, name).item() == 0.0


@pytest.mark.parametrize("name", DISTANCES)
def test_what_is_not_real_has_no_influence_and_gets_no_gradient(batch, name):
    student, teacher, real, tokens, projection = batch
    gradients = []
    for content in (0.0, float("nan")):
        s, t = (each.clone() for each in (student, teacher))
        s[~real] = t[~real] = content
        s.requires_grad_()
        projection.zero_grad()
        loss = hidden_distance(s, t, real, tokens, name, projection)
        loss.backward()
        assert (s.grad[~real] == 0).all()
        gradients.append((loss.detach(), s.grad[real], projection.weight.grad.clone()))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", DISTANCES)
def test_sentences_add_up_whatever_batch_they_are_in(batch, name):
    student, teacher, real, tokens, projection = batch
    whole = hidden_distance(student, teacher, real, tokens, name, projection)
    alone = sum(
        hidden_distance(*(each[b : b + 1] for each in batch[:4]), name, projection)
        for b in range(len(real))
    )
    assert alone.item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_gradient_is_right_and_the_teacher_gets_none(batch, name):
    student, teacher, real, tokens, projection = batch
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s, w: hidden_distance(s, teacher, real, tokens, name, lambda x: x @ w.T),
        (student.clone().requires_grad_(), projection.weight),
    )
    hidden_distance(student, teacher, real, tokens, name, projection).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("name", DISTANCES)
def test_nothing_real_gives_zero_with_a_gradient(batch, name):
    student, teacher, real, tokens, projection = batch
    student.requires_grad_()
    nothing = torch.zeros_like(real)
    loss = hidden_distance(student, teacher, nothing, tokens, name, projection)
    loss.backward()
    assert loss.item() == 0.0
    assert (student.grad == 0).all()
    assert (projection.weight.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(batch, dtype):
    _, teacher, real, tokens, _ = batch
    half = [each.to(dtype) for each in (teacher.flip(0), teacher)]
    got = hidden_distance(*half, real, tokens)
    assert got.dtype == torch.float32
    want = hidden_distance(*(each.double() for each in half), real, tokens)
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
