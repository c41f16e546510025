"""Losses and gradients of every criterion on a GPU are those of the CPU, in half precision too."""

import pytest
import torch
from fairseq.utils import apply_to_sample
from harness import Setup
from on_gpu import NEEDS_GPU

pytestmark = NEEDS_GPU


def loss_and_gradients(distillation, device, dtype):
    """The summed loss of three sentences, and its gradients by all that is trained."""
    folder, flags = distillation
    setup = Setup(folder, *flags, "--train-subset", "valid", "--dropout", "0")
    for module in (setup.model, setup.criterion):
        module.to(device, dtype)
    sample = apply_to_sample(lambda tensor: tensor.to(device), setup.batch(0, 1, 2))
    loss = setup.criterion(setup.model, sample)[0]
    loss.backward()
    trained = [*setup.model.parameters(), *setup.criterion.parameters()]
    gradients = [p.grad.flatten().double().cpu() for p in trained if p.grad is not None]
    return loss.item(), torch.cat(gradients)


@pytest.mark.parametrize(
    ("dtype", "loss_error", "gradient_error"),
    [(torch.float32, 1e-5, 1e-4), (torch.float16, 2e-2, 3e-2), (torch.bfloat16, 2e-2, 1e-1)],
    ids=["float32", "float16", "bfloat16"],
)
def test_losses_and_gradients_are_those_of_the_cpu_in_float32(
    distillation, dtype, loss_error, gradient_error
):
    want, expected = loss_and_gradients(distillation, "cpu", torch.float32)
    got, gradients = loss_and_gradients(distillation, "cuda", dtype)
    assert got == pytest.approx(want, rel=loss_error)
    assert (gradients - expected).norm() < gradient_error * expected.norm()
    assert expected.norm() > 0
