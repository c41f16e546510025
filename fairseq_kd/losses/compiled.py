"""The loss of a chunk compiled by torch.compile: a few passes over the logits, not dozens."""

import functools
from dataclasses import replace
from typing import Callable, Optional, Sequence, Tuple

import torch
from torch import Tensor

from fairseq_kd.losses.soft_targets import Chunk, TopK, tensor_on
from fairseq_kd.losses.token_loss import LossOptions, loss_and_logit_gradient_

SCHEDULED = ("alpha", "beta", "temperature")  # passed as tensors: floats would be constants
Loss = Callable[..., Tuple[Tensor, Optional[Tensor]]]


def compiled_loss_and_logit_gradient_(
    z: Tensor,
    gold: Tensor,
    teachers: Sequence[Chunk],
    options: LossOptions,
    gradient: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """As ``loss_and_logit_gradient_``, within rounding.

    The first calls with and without a gradient compile it, and once more for a variable number of
    tokens. A single token, which would be compiled separately, is computed without compilation.

    Raises:
        ValueError: torch.compile does not work here.
    """
    from torch._dynamo.exc import TorchDynamoException  # here, as it takes a second

    if len(z) == 1:
        return loss_and_logit_gradient_(z, gold, teachers, options, gradient)
    numbers = tensor_on(z.device, [getattr(options, name) for name in SCHEDULED], z.dtype)
    fixed = replace(options, **dict.fromkeys(SCHEDULED, 1.0))
    alone = [_contiguous(teacher) for teacher in teachers]
    try:
        return _program()(z, gold.clone(), alone, fixed, gradient, numbers)
    except TorchDynamoException as error:
        raise _refusal(error) from error


@functools.cache
def _program() -> Loss:
    try:
        return torch.compile(_with_numbers)
    except RuntimeError as error:  # this Python or this system is not supported
        raise _refusal(error) from error


def _refusal(error: Exception) -> ValueError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = next((line for line in lines if "error:" in line), lines[0])
    return ValueError(f"torch.compile fails here ({reason}). Leave --kd-compile out.")


def _contiguous(teacher: Chunk) -> Chunk:
    """A copy instead of a view of the batch: each offset would be compiled separately."""
    if not isinstance(teacher, TopK):
        return teacher
    names = ("ids", "log_p", "log_tail")
    return replace(teacher, **{name: getattr(teacher, name).clone() for name in names})


def _with_numbers(
    z: Tensor,
    gold: Tensor,
    teachers: Sequence[Chunk],
    options: LossOptions,
    gradient: bool,
    numbers: Tensor,
) -> Tuple[Tensor, Optional[Tensor]]:
    options = replace(options, **dict(zip(SCHEDULED, numbers.unbind(), strict=True)))
    return loss_and_logit_gradient_(z, gold, teachers, options, gradient)
