"""The last step of a translation model taken apart: hidden states, and the projection to words."""

import inspect
from typing import Any, Dict, Optional, Tuple

from fairseq.models.transformer import TransformerDecoderBase
from torch import Tensor, nn

RealHidden = Tuple[Tensor, Optional[Tensor], Optional[Tensor]]


def real_hidden(model: nn.Module, net_input: Dict[str, Any], real: Tensor) -> RealHidden:
    """A model's states before its output projection, at real tokens, and that projection.

    Args:
        model: an encoder-decoder of fairseq, in a wrapper of its distributed training or not.
        net_input: fairseq's ``sample["net_input"]``.
        real: (B, L) bool, True at real tokens.

    Returns:
        (N, C) states in the order of ``real``, (V, C) weight and (V,) bias or None. Of a model
        whose logits are no linear map of its states, such as an lstm: (N, V) logits, None, None.
    """
    projection = output_projection(model)
    if projection is None:
        return model(**net_input)[0][real], None, None
    hidden = model(**net_input, features_only=True)[0]
    return hidden[real], projection.weight, projection.bias


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of the wrappers of a distributed training."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return model


def output_projection(model: nn.Module) -> Optional[nn.Linear]:
    """The linear map from a decoder's states to logits; None if there is more to it than that."""
    model = unwrapped(model)
    decoder = model.decoder
    plain = getattr(type(decoder), "output_layer", None) is TransformerDecoderBase.output_layer
    whole = getattr(decoder, "adaptive_softmax", None) is None
    takes_features_only = "features_only" in inspect.signature(model.forward).parameters
    if not (plain and whole and takes_features_only):
        return None
    linear = decoder.output_projection
    return linear if type(linear) is nn.Linear else None


def refuse_unseen_projection(model: nn.Module) -> None:
    """Refuses a wrapper that would take an output projection for unused, and fail at its gradient.

    The loss reads the weights of the projection outside of the model. With
    ``--find-unused-parameters`` torch then counts their gradient twice, unless they are the
    embeddings that the decoder reads inside of it.
    """
    projection = output_projection(model)
    embeddings = getattr(unwrapped(model).decoder, "embed_tokens", None)
    if projection is None or projection.weight is getattr(embeddings, "weight", None):
        return
    while isinstance(getattr(model, "module", None), nn.Module):
        if getattr(model, "find_unused_parameters", False):
            raise ValueError(
                "--find-unused-parameters takes the output projection, which the loss reads by "
                "itself, for unused, and torch then fails. Leave it out, train by --ddp-backend "
                "legacy_ddp, or share the projection with the embeddings "
                "(--share-decoder-input-output-embed)."
            )
        model = model.module
