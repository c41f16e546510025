"""The loss of a chunk by torch.compile: a few passes over the logits in place of dozens."""

import functools
from dataclasses import replace
from typing import Callable, Optional, Sequence, Tuple

import torch
from torch import Tensor

from fairseq_kd.losses.soft_targets import SoftTargets, TopK, tensor_on
from fairseq_kd.losses.token_loss import LossOptions, loss_and_logit_gradient

SCHEDULED = ("alpha", "beta", "temperature")  # a number would be compiled into the program
Loss = Callable[..., Tuple[Tensor, Optional[Tensor]]]


def compiled_loss_and_logit_gradient(
    z: Tensor,
    gold: Tensor,
    teachers: Sequence[SoftTargets],
    options: LossOptions,
    gradient: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """As ``loss_and_logit_gradient``, within rounding.

    It is compiled when it is first called with a gradient and without one, and once more for any
    number of tokens. A single token, for which it would be compiled too, is computed as ever.

    Raises:
        ValueError: torch.compile does not work here.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes a second, which only this is worth

    if len(z) == 1:
        return loss_and_logit_gradient(z, gold, teachers, options, gradient)
    numbers = tensor_on(z.device, [getattr(options, name) for name in SCHEDULED], z.dtype)
    fixed = replace(options, **dict.fromkeys(SCHEDULED, 1.0))
    alone = [_on_its_own(teacher) for teacher in teachers]
    try:
        return _program()(z, gold.clone(), alone, fixed, gradient, numbers)
    except TorchDynamoException as error:
        raise _refusal(error) from error


@functools.cache
def _program() -> Loss:
    try:
        return torch.compile(_loss_and_logit_gradient)
    except RuntimeError as error:  # it knows no such Python, or no such system
        raise _refusal(error) from error


def _refusal(error: Exception) -> ValueError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = next((line for line in lines if "error:" in line), lines[0])
    return ValueError(f"torch.compile fails here ({reason}). Leave --kd-compile out.")


def _on_its_own(teacher: SoftTargets) -> SoftTargets:
    """Without places in the memory of the batch, of which each would get a program of its own."""
    if not isinstance(teacher, TopK):
        return teacher
    names = ("ids", "log_p", "log_tail")
    return replace(teacher, **{name: getattr(teacher, name).clone() for name in names})


def _loss_and_logit_gradient(
    z: Tensor,
    gold: Tensor,
    teachers: Sequence[SoftTargets],
    options: LossOptions,
    gradient: bool,
    numbers: Tensor,
) -> Tuple[Tensor, Optional[Tensor]]:
    options = replace(options, **dict(zip(SCHEDULED, numbers.unbind(), strict=True)))
    return loss_and_logit_gradient(z, gold, teachers, options, gradient)
