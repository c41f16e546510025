"""Attention and the distances between two of them against their definition: loops, in float64."""

import math

import pytest
import torch

from fairseq_kd.losses.attention import (
    attention_kl,
    attention_mse,
    attention_scores,
    head_groups,
    log_attention,
    mean_of_heads,
    repeat_heads,
)

SHAPES = [(1, 1, 1, 1, 2), (2, 3, 5, 4, 6), (3, 2, 2, 7, 5)]  # B, H, L, S, d
DISTANCES = {"mse": attention_mse, "kl": attention_kl}


@pytest.fixture(params=SHAPES, ids=str)
def batch(request):
    """((Q, K) of the student, (Q, K) of the teacher, visible, tokens): every second sentence has
    pads among its queries and keys, and sees a triangle."""
    b, h, length, s, d = request.param
    generator = torch.Generator().manual_seed(sum(request.param))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    visible = torch.ones(b, length, s, dtype=torch.bool)
    for sentence in range(1, b, 2):
        visible[sentence] = visible[sentence].tril()
        visible[sentence, -1] = False
        visible[sentence, :, -1] = False
    tokens = torch.randint(1, 9, (b,), generator=generator)
    pairs = [(normal(b, length, h * d), normal(b, s, h * d)) for _ in range(2)]
    return (*pairs, visible, tokens)


def maps(pair, heads, visible):
    return log_attention(attention_scores(*pair, heads), visible)


def attention_of(query, keys, sizes, head, seen):
    """One row, by hand: a list over keys, 0 where a key is not seen."""
    first = sum(sizes[:head])
    dims = range(first, first + sizes[head])
    weights = [
        math.exp(sum(query[c] * key[c] for c in dims) / math.sqrt(sizes[head])) if see else 0.0
        for key, see in zip(keys, seen, strict=True)
    ]
    return [weight / sum(weights) for weight in weights]


def loop(student, teacher, heads, visible, tokens, name):
    """The definition, for heads of equal size."""
    sizes = [student[0].size(-1) // heads] * heads
    total = 0.0
    for b in range(len(visible)):
        cells = visible[b].sum().item()
        queries = [i for i in range(visible.size(1)) if visible[b, i].any()]
        found = 0.0
        for head in range(heads):
            for i in queries:
                seen = visible[b, i].tolist()
                rows = [
                    attention_of(q[b, i].tolist(), k[b].tolist(), sizes, head, seen)
                    for q, k in (student, teacher)
                ]
                for ours, theirs, see in zip(*rows, seen, strict=True):
                    if see and name == "mse":
                        found += (ours - theirs) ** 2 / cells
                    elif see:
                        found += theirs * math.log(theirs / ours) / len(queries)
        total += tokens[b].item() * found
    return total


@pytest.mark.parametrize("name", DISTANCES)
def test_the_distance_is_its_definition(batch, name, request):
    student, teacher, visible, tokens = batch
    heads = request.node.callspec.params["batch"][1]
    want = loop(student, teacher, heads, visible, tokens, name)
    got = DISTANCES[name](*(maps(each, heads, visible) for each in batch[:2]), visible, tokens)
    assert got.item() == pytest.approx(want, rel=1e-6)  # the weight of a position is float32


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5])
def test_any_number_of_heads_cuts_the_width(heads):
    generator = torch.Generator().manual_seed(heads)
    q, k = (torch.randn(1, n, 5, generator=generator, dtype=torch.float64) for n in (2, 3))
    sizes = {1: [5], 2: [3, 2], 3: [2, 2, 1], 4: [2, 1, 1, 1], 5: [1] * 5}[heads]
    seen = torch.ones(1, 2, 3, dtype=torch.bool)
    got = maps((q, k), heads, seen).exp()
    assert got.shape == (1, heads, 2, 3)
    for head in range(heads):
        for i in range(2):
            row = attention_of(q[0, i].tolist(), k[0].tolist(), sizes, head, [True] * 3)
            assert got[0, head, i].tolist() == pytest.approx(row, rel=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_it_is_exactly_zero_for_equal_attention(batch, name):
    student, _, visible, tokens = batch
    for dtype in (torch.float64, torch.float32, torch.float16):
        attention = maps([each.to(dtype) for each in student], 1, visible)
        assert attention.dtype == torch.promote_types(dtype, torch.float32)
        assert DISTANCES[name](attention, attention, visible, tokens).item() == 0.0


@pytest.mark.parametrize("name", DISTANCES)
def test_invisible_cells_have_no_influence(batch, name):
    student, teacher, visible, tokens = [maps(each, 1, batch[2]) for each in batch[:2]] + list(
        batch[2:]
    )
    want = DISTANCES[name](student, teacher, visible, tokens)
    hidden = ~visible.unsqueeze(1)
    student, teacher = (each.masked_fill(hidden, float("nan")) for each in (student, teacher))
    assert torch.equal(DISTANCES[name](student, teacher, visible, tokens), want)


@pytest.mark.parametrize("name", DISTANCES)
def test_sentences_add_up_whatever_batch_they_are_in(batch, name):
    attention = [maps(each, 1, batch[2]) for each in batch[:2]]
    parts = [*attention, *batch[2:]]
    whole = DISTANCES[name](*parts)
    alone = sum(DISTANCES[name](*(each[b : b + 1] for each in parts)) for b in range(len(batch[2])))
    assert alone.item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_gradient_is_right_and_finite_at_pads(batch, name):
    (q, k), teacher, visible, tokens = batch
    taught = maps(teacher, 1, visible).requires_grad_()
    inputs = tuple(each.clone().requires_grad_() for each in (q, k))

    def loss(q, k):
        return DISTANCES[name](maps((q, k), 1, visible), taught, visible, tokens)

    assert torch.autograd.gradcheck(loss, inputs)
    loss(*inputs).backward()
    assert taught.grad is None
    assert (inputs[0].grad[~visible.any(-1)] == 0).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_nothing_visible_gives_zero_with_a_gradient(batch, name):
    (q, k), teacher, visible, tokens = batch
    nothing = torch.zeros_like(visible)
    q.requires_grad_()
    loss = DISTANCES[name](maps((q, k), 1, nothing), maps(teacher, 1, nothing), nothing, tokens)
    loss.backward()
    assert loss.item() == 0.0
    assert (q.grad == 0).all()


def test_head_groups_are_neighbours_of_nearly_equal_number():
    assert head_groups(8, 4) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert head_groups(7, 3) == [[0, 1], [2, 3], [4, 5, 6]]
    for many in range(1, 13):
        for few in range(1, many + 1):
            groups = head_groups(many, few)
            assert [head for group in groups for head in group] == list(range(many))
            sizes = {len(group) for group in groups}
            assert len(groups) == few
            assert max(sizes) - min(sizes) <= 1


def test_heads_are_averaged_in_groups_and_repeated():
    probabilities = torch.rand(2, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    means = mean_of_heads(probabilities.log(), 3).exp()
    want = (probabilities[:, 4] + probabilities[:, 5] + probabilities[:, 6]) / 3
    torch.testing.assert_close(means[:, 2], want)
    assert means.shape == (2, 3, 3, 4)
    repeated = repeat_heads(probabilities[:, :3], 7)
    assert torch.equal(repeated, probabilities[:, [0, 0, 1, 1, 2, 2, 2]])
    for unchanged in (mean_of_heads, repeat_heads):
        assert unchanged(probabilities, 7) is probabilities
