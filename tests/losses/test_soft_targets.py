"""Top-k distributions against the distributions from which they were made."""

import math

import pytest
import torch

from fairseq_kd.losses import FORMER_TAIL_POWERS, TAIL_POWERS, TeacherLogits, TopK
from fairseq_kd.losses.soft_targets import log_power_sums_

V, K = 500, 16


@pytest.fixture
def logits():
    """(6, V) float64 logits, from flat to peaked."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(6, V, generator=generator, dtype=torch.float64)
    return z * torch.linspace(0.5, 4.0, 6, dtype=torch.float64)[:, None]


def test_top_k_keeps_the_likeliest_tokens_in_order(logits):
    kept = TopK.of_logits(logits, K)
    for row, z in enumerate(logits):
        order = sorted(range(V), key=lambda v, z=z: -z[v].item())[:K]
        assert kept.ids[row].tolist() == order
        p = torch.exp(z) / torch.exp(z).sum()
        assert kept.log_p[row].exp().tolist() == pytest.approx(p[order].tolist())
    assert torch.equal(kept.top1, logits.argmax(-1))
    torch.testing.assert_close(kept.confidence, logits.softmax(-1).amax(-1))


def test_the_tail_is_summed_at_its_powers(logits):
    kept = TopK.of_logits(logits, K)
    for row, z in enumerate(logits):
        tail = z.softmax(-1).sort().values[: V - K]
        for column, power in enumerate(TAIL_POWERS):
            want = (tail**power).sum().log().item()
            assert kept.log_tail[row, column].item() == pytest.approx(want)


@pytest.mark.parametrize("temperature", [1 / power for power in TAIL_POWERS])
def test_at_a_known_power_the_distribution_is_exact(logits, temperature):
    kept, exact = (
        TopK.of_logits(logits, K).distribution_(temperature),
        (logits / temperature).softmax(-1),
    )
    torch.testing.assert_close(
        kept.log_p[:, :-1].exp(), exact.gather(-1, kept.ids), rtol=1e-9, atol=0
    )
    rest = 1 - exact.gather(-1, kept.ids).sum(-1)
    torch.testing.assert_close(kept.log_p[:, -1].exp(), rest, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.55, 0.8, 1.1, 1.5, 3.0, 5.0, 10.0, 40.0])
def test_between_the_powers_it_is_close(logits, temperature):
    kept, exact = (
        TopK.of_logits(logits, K).distribution_(temperature),
        (logits / temperature).softmax(-1),
    )
    p = kept.log_p[:, :-1].exp()
    torch.testing.assert_close(p, exact.gather(-1, kept.ids), rtol=1e-3, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 0.7, 1.0, 1.2, 2.0, 6.0])
def test_the_entropy_is_that_of_the_whole_distribution(logits, temperature):
    got = TopK.of_logits(logits, K).distribution_(temperature).entropy
    want = TeacherLogits(logits).distribution_(temperature).entropy
    torch.testing.assert_close(got, want, rtol=0, atol=5e-3)


def test_a_tail_of_equal_words_is_exact_at_any_temperature():
    z = torch.zeros(2, V, dtype=torch.float64)
    z[1, :K] = 3.0
    for temperature in (0.3, 0.7, 1.1, 20.0):
        kept, exact = TopK.of_logits(z, K).distribution_(temperature), (z / temperature).softmax(-1)
        rest = 1 - exact.gather(-1, kept.ids).sum(-1)
        torch.testing.assert_close(kept.log_p[:, -1].exp(), rest, rtol=1e-9, atol=0)


def test_what_was_kept_at_the_former_powers_is_read(logits):
    kept = TopK.of_logits(logits, K, FORMER_TAIL_POWERS)
    for temperature in (1.0, 2.0, 4.0, 8.0):
        exact = (logits / temperature).softmax(-1)
        p = kept[1:4].distribution_(temperature).log_p[:, :-1].exp()
        torch.testing.assert_close(p, exact.gather(-1, kept.ids)[1:4], rtol=1e-9, atol=0)
    words = torch.arange(V).expand(6, V)
    assert torch.equal(kept.log_p_of(words), TopK.of_logits(logits, K).log_p_of(words))


def test_each_token_may_have_its_own_temperature(logits):
    temperatures = torch.tensor([1.0, 1.5, 2.0, 3.0, 4.0, 8.0], dtype=torch.float64)[:, None]
    together = TopK.of_logits(logits, K).distribution_(temperatures)
    for row, temperature in enumerate(temperatures.flatten().tolist()):
        alone = TopK.of_logits(logits[row : row + 1], K).distribution_(temperature)
        torch.testing.assert_close(together.log_p[row], alone.log_p[0])
        torch.testing.assert_close(together.entropy[row], alone.entropy[0])


def test_words_have_their_probability_and_those_of_the_tail_an_even_share_of_it(logits):
    kept, exact = TopK.of_logits(logits, K), logits.softmax(-1)
    order = exact.argsort(-1, descending=True)
    words = order[:, [3, K - 1, K, V - 1]]  # two that are kept, two of the tail
    got, live = kept.log_p_of(words).exp(), TeacherLogits(logits).log_p_of(words).exp()
    torch.testing.assert_close(live, exact.gather(-1, words))
    torch.testing.assert_close(got[:, :2], exact.gather(-1, words[:, :2]))
    for row in range(len(logits)):
        tail = sum(exact[row, v].item() for v in order[row, K:].tolist())
        assert got[row, 2:].tolist() == pytest.approx([tail / (V - K)] * 2)


@pytest.mark.parametrize("scale", [0.0, 1.0, 40.0])
def test_the_sums_of_powers_are_those_of_the_definition_however_sharp(scale):
    log_p = torch.log_softmax(scale * torch.randn(7, 300, dtype=torch.float64), dim=-1)
    log_p[:, ::3] = float("-inf")
    log_p[3, 1:] = float("-inf")
    log_p[3, 0] = -700.0
    powers = (0.0625, 1.0, 2.0)
    exact = [
        [
            math.log(math.fsum(math.exp(b * (x - row.max())) for x in row.tolist())) + b * row.max()
            for b in powers
        ]
        for row in log_p
    ]
    got = log_power_sums_(log_p.float(), powers)
    torch.testing.assert_close(got.double(), torch.tensor(exact).double(), rtol=1e-6, atol=2e-6)
