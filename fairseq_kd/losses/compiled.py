"""The loss of a chunk by torch.compile: a few passes over the logits in place of dozens."""

import functools
from dataclasses import replace
from typing import Callable, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed

from fairseq_kd.losses.soft_targets import SoftTargets, tensor_on
from fairseq_kd.losses.token_loss import LossOptions, loss_and_logit_gradient

SCHEDULED = ("alpha", "beta", "temperature")  # a number would be compiled into the program


def compiled_loss_and_logit_gradient(
    z: Tensor,
    gold: Tensor,
    teachers: Sequence[SoftTargets],
    options: LossOptions,
    gradient: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """As ``loss_and_logit_gradient``, within rounding.

    It is compiled when it is first called, and again for another number of tokens, after which
    that may change.

    Raises:
        ValueError: torch.compile does not work here.
    """
    numbers = tensor_on(z.device, [getattr(options, name) for name in SCHEDULED], z.dtype)
    fixed = replace(options, **dict.fromkeys(SCHEDULED, 1.0))
    try:
        return _program()(z, gold, teachers, fixed, gradient, numbers)
    except BackendCompilerFailed as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"torch.compile fails here ({reason}). Leave --kd-compile out.") from error


@functools.cache
def _program() -> Callable[..., Tuple[Tensor, Optional[Tensor]]]:
    return torch.compile(_loss_and_logit_gradient)


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
