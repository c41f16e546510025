"""Distances between encoders across languages, against loops in float64."""

import math

import pytest
import torch
from plain_losses import made

from fairseq_kd.losses.hidden_states import linked_distance, pooled_distance

B, S, P, CS, CT = 3, 5, 4, 6, 7


@pytest.fixture
def batch():
    """(student, its mask, teacher, its mask, tokens, W): pads on the left, some hold NaN."""
    student, teacher = made(B, S, CS, seed=1), made(B, P, CT, seed=2)
    ours, theirs = torch.ones(B, S, dtype=torch.bool), torch.ones(B, P, dtype=torch.bool)
    ours[1, :2] = ours[2, :4] = theirs[0, :3] = theirs[2, :1] = False
    return student, ours, teacher, theirs, torch.tensor([4, 0, 9]), made(CT, CS, seed=3)


def distance_by_hand(name, a, b):
    if name == "mse":
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)
    norms = [math.sqrt(sum(x * x for x in each)) for each in (a, b)]
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / norms[0] / norms[1]


def mean_by_hand(states, mask):
    rows = [row.tolist() for row, real in zip(states, mask, strict=True) if real]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def mapped(w, row):
    return [sum(w[i, j].item() * row[j] for j in range(len(row))) for i in range(len(w))]


@pytest.mark.parametrize("name", ["mse", "cosine"])
def test_pooled_distance_is_its_definition(batch, name):
    student, ours, teacher, theirs, tokens, w = batch
    want = 0.0
    for b in range(B):
        row = mapped(w, mean_by_hand(student[b], ours[b]))
        want += tokens[b].item() * distance_by_hand(name, row, mean_by_hand(teacher[b], theirs[b]))
    got = pooled_distance(student, ours, teacher, theirs, tokens, name, lambda x: x @ w.T)
    assert got.item() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("name", ["mse", "cosine"])
def test_linked_distance_is_its_definition(batch, name):
    student, _, teacher, _, tokens, w = batch
    links = {0: [(0, 3), (4, 1), (4, 2)], 1: [(2, 0)], 2: []}
    want = 0.0
    for b, pairs in links.items():
        values = [
            distance_by_hand(name, mapped(w, student[b, i].tolist()), teacher[b, j].tolist())
            for i, j in pairs
        ]
        want += tokens[b].item() * sum(values) / len(values) if values else 0.0
    rows = torch.tensor([(b, i, j) for b, pairs in links.items() for i, j in pairs])
    got = linked_distance(student, teacher, rows, tokens, name, lambda x: x @ w.T)
    assert got.item() == pytest.approx(want, rel=1e-9)


def test_pads_reach_neither_value_nor_gradient(batch):
    student, ours, teacher, theirs, tokens, w = batch
    want = pooled_distance(student, ours, teacher, theirs, tokens, "mse", lambda x: x @ w.T)
    student, teacher = student.clone(), teacher.clone()
    student[~ours] = teacher[~theirs] = float("nan")
    student.requires_grad_()
    got = pooled_distance(student, ours, teacher, theirs, tokens, "mse", lambda x: x @ w.T)
    got.backward()
    assert torch.equal(got, want)
    assert (student.grad[~ours] == 0).all()
    assert student.grad[ours].isfinite().all()


def test_equal_states_are_at_no_distance(batch):
    student, ours, _, _, tokens, _ = batch
    for name in ("mse", "cosine"):
        assert pooled_distance(student, ours, student, ours, tokens, name).item() == 0.0
        links = torch.tensor([(0, 1, 1), (2, 4, 4)])
        assert linked_distance(student, student, links, tokens, name).item() == 0.0


def test_the_teacher_gets_no_gradient_and_the_student_the_right_one(batch):
    student, ours, teacher, theirs, tokens, w = batch
    student.requires_grad_(), teacher.requires_grad_()
    links = torch.tensor([(0, 0, 3), (0, 4, 1), (2, 2, 0)])
    for term in (
        lambda s: pooled_distance(s, ours, teacher, theirs, tokens, "mse", lambda x: x @ w.T),
        lambda s: linked_distance(s, teacher, links, tokens, "cosine", lambda x: x @ w.T),
    ):
        assert torch.autograd.gradcheck(term, (student,))
        term(student).backward()
    assert teacher.grad is None


def test_nothing_real_gives_zero(batch):
    student, ours, teacher, theirs, tokens, w = batch
    none = torch.zeros_like(tokens)
    got = pooled_distance(student, ours & False, teacher, theirs, none, "mse", lambda x: x @ w.T)
    assert got.item() == 0.0
    links = torch.zeros(0, 3, dtype=torch.long)
    assert linked_distance(student, student, links, tokens).item() == 0.0


def test_a_mean_that_float16_holds_is_right_where_the_sum_is_none_that_it_holds(batch):
    student, ours, teacher, theirs, tokens, _ = batch
    student, teacher = torch.full_like(student, 3e4).half(), torch.full_like(teacher, 3e4).half()
    got = pooled_distance(student, ours, teacher[..., :CS], theirs, tokens)
    assert got.item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(batch, dtype):
    student, ours, teacher, theirs, tokens, _ = batch
    student, teacher = student.to(dtype), teacher[..., :CS].to(dtype)
    got = pooled_distance(student, ours, teacher, theirs, tokens)
    want = pooled_distance(student.double(), ours, teacher.double(), theirs, tokens)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(want.item(), rel=2e-2)
