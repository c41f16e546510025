"""The loss in float16 on a GPU has the gradients of float64, to the digits that float16 has."""

import math
from dataclasses import replace

import pytest
import torch
from on_gpu import NEEDS_GPU

from fairseq_kd.losses import LossOptions, TeacherLogits, TopK, chunked_loss
from fairseq_kd.losses.kernel_choice import DIVERGENCES_OF_KERNEL, adds_in_float32, fault

pytestmark = NEEDS_GPU
TOKENS, WIDTH, WORDS = 300, 64, 1000


WAYS = {"kernel": {}, "eager": {"fused": False}, "compiled": {"fused": False, "compiled": True}}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_kernel_passes_its_check_on_this_gpu(dtype):
    assert fault(torch.device("cuda", 0), dtype) == ""
    assert adds_in_float32(torch.device("cuda", 0), dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stored", [False, True], ids=["live", "store"])
@pytest.mark.parametrize("divergence", DIVERGENCES_OF_KERNEL)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradients_are_those_of_float64(temperature, divergence, stored, way):
    drawn = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=drawn).half()

    states = [normal(TOKENS, WIDTH), normal(WORDS, WIDTH) / 8, normal(WORDS)]
    taught, gold = normal(TOKENS, WORDS) * 3, torch.randint(WORDS, (TOKENS,), generator=drawn)
    exactly = LossOptions(0.7, 0.4, 0.1, temperature, divergence, chunk_tokens=128, fused=False)
    found = []
    for device, dtype in (("cuda", torch.float16), ("cpu", torch.float64)):
        own = [tensor.to(device, dtype).requires_grad_() for tensor in states]
        logits = taught.to(device, dtype)
        teachers = [TopK.of_logits(logits.float(), 16) if stored else TeacherLogits(logits)]
        options = replace(exactly, **{"fused": None, **WAYS[way]}) if device == "cuda" else exactly
        loss = chunked_loss(*own, gold.to(device), teachers, options).loss
        found.append([loss, *torch.autograd.grad(loss, own)])
    for ours, exact in zip(*found, strict=True):
        assert (ours.double().cpu() - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("way", WAYS)
def test_it_keeps_gradients_that_float16_cannot_hold(way):
    """A probability of 1e-8 is 0 in float16; scaled by fairseq's loss scale it is not."""
    words, loss_scale = 64, 2.0**16
    hidden, weight = torch.ones(1, 8).half().cuda(), torch.zeros(words, 8).half().cuda()
    weight[0] = 18.0 / 8
    weight.requires_grad_()
    options = LossOptions(0.0, 1.0, 0.0, 1.0, **WAYS[way])
    taught = [TeacherLogits(torch.zeros(1, words).cuda())]
    loss = chunked_loss(hidden, weight, None, torch.zeros(1).long().cuda(), taught, options).loss
    (grad,) = torch.autograd.grad(loss_scale * loss, weight)
    want = loss_scale * math.exp(-18) / (1 + (words - 1) * math.exp(-18))
    assert grad[1, 0].item() == pytest.approx(want, rel=1e-2)
