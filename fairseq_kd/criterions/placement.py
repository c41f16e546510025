"""Where the weights of a criterion are."""

from torch import nn


def follow(criterion: nn.Module, model: nn.Module) -> None:
    """Moves what a criterion trains to the device and the precision of the model.

    fairseq-train has done so before; fairseq-validate moves the model alone.

    Args:
        criterion: with or without weights of its own.
        model: the student.
    """
    own, other = (next(each.parameters(), None) for each in (criterion, model))
    if own is None or other is None or (own.device, own.dtype) == (other.device, other.dtype):
        return
    criterion.to(other.device, other.dtype)
