"""Accuracy of stored distributions, against float64 over the whole vocabulary.

The distributions are those of trained translation models: some words that the context makes likely,
above a frequency prior and noise. Without label smoothing the tail's log-probabilities lie 15 to 20
nats apart, with it 5.
"""

import numpy as np
import pytest
import torch
from stores import unpacked

from fairseq_kd.losses import FORMER_TAIL_POWERS, TopK
from fairseq_kd.teachers.store_records import pack

K, TOKENS = 64, 24
TEMPERATURES = (0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.5, 1.8, 2.5, 3.5, 5.0, 8.0, 30.0)


def peaked(words, prior, noise, seed=1):
    """(TOKENS, words) float64 logits of a teacher that was trained without label smoothing."""
    random = np.random.default_rng(seed)
    z = -prior * np.log(np.arange(1, words + 1)) + noise * random.normal(size=(TOKENS, words))
    for row in z:
        row[random.integers(words, size=8)] += random.uniform(4, 14, size=8)
    return torch.from_numpy(z)


def smoothed(words):
    """The same of one that was trained with label smoothing of 0.1."""
    noise = 0.3 * np.random.default_rng(2).normal(size=(TOKENS, words))
    p = 0.9 * peaked(words, 1, 2.5).softmax(-1) + 0.1 / words
    return p.log() + torch.from_numpy(noise)


TEACHERS = {
    "without smoothing": peaked(4_000, 1, 2.5),
    "without smoothing, sharp": peaked(32_000, 1.5, 2.5),
    "without smoothing, no prior": peaked(32_000, 0, 3),
    "with smoothing": smoothed(32_000),
    "a large vocabulary": peaked(70_000, 1, 2)[:4],
}


def errors(z, temperature, powers=None):
    """The largest errors after packing: tail mass, relative and absolute, and entropy, nats."""
    made = TopK.of_logits(z, K) if powers is None else TopK.of_logits(z, K, powers)
    got = unpacked(pack(made), z.size(-1), made.powers).distribution_(temperature)
    p = (z / temperature).softmax(-1)
    tail = p.scatter(-1, got.ids, 0.0).sum(-1)
    entropy = -(p * p.log()).sum(-1)
    mass = got.log_p[:, -1].double().exp()
    wrong = ((mass / tail - 1).abs(), (mass - tail).abs(), (got.entropy - entropy).abs())
    return [error.max().item() for error in wrong]


@pytest.mark.parametrize("name", TEACHERS)
def test_at_any_temperature_from_one_half_on_a_record_is_as_exact_as_the_page_says(name):
    for temperature in TEMPERATURES:
        relative, absolute, entropy = errors(TEACHERS[name], temperature)
        assert relative < (0.001 if temperature >= 1 else 0.003)
        assert absolute < 3e-4
        assert entropy < 0.005


def test_the_former_format_is_as_exact_as_the_page_says_from_1_on_and_not_below():
    worst = {t: np.zeros(3) for t in TEMPERATURES}
    for z in TEACHERS.values():
        if z.size(-1) < 1 << 16:
            for t in TEMPERATURES:
                worst[t] = np.maximum(worst[t], errors(z, t, FORMER_TAIL_POWERS))
    from_one_on = np.max([worst[t] for t in TEMPERATURES if t >= 1], 0)
    assert (from_one_on < (0.02, 0.005, 0.04)).all()
    assert worst[0.7][0] > 0.1
