"""The output projection of a translation model, separate from the decoder states."""

import inspect
from typing import Any, Dict, NamedTuple, Optional

from fairseq.models.transformer import TransformerDecoderBase
from torch import Tensor, nn

from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.models.structure import unwrapped


class DecoderOutput(NamedTuple):
    """A decoder's output at N real tokens, and the projection to logits that remains to be done.

    Args:
        output: (N, C) states before the projection; without a weight, (N, V) logits.
        weight: (V, C), or None if the logits are not a linear map of states, as of an lstm.
        bias: (V,), or None.
    """

    output: Tensor
    weight: Optional[Tensor] = None
    bias: Optional[Tensor] = None

    def over(self, vocab_size: Optional[int]) -> "DecoderOutput":
        """The same over the first so many entries of the vocabulary, or all if None."""
        if vocab_size is None:
            return self
        if self.weight is None:
            return DecoderOutput(self.output[:, :vocab_size])
        bias = None if self.bias is None else self.bias[:vocab_size]
        return DecoderOutput(self.output, self.weight[:vocab_size], bias)


def decoder_output(model: nn.Module, net_input: Dict[str, Any], real: RealTokens) -> DecoderOutput:
    """A model's output at the real tokens of a batch.

    Args:
        model: an encoder-decoder of fairseq, in a wrapper of distributed training or not.
        net_input: fairseq's ``sample["net_input"]``.
        real: the real tokens.
    """
    projection = output_projection(model)
    if projection is None:
        return DecoderOutput(real.of(model(**net_input)[0]))
    states = model(**net_input, features_only=True)[0]
    return DecoderOutput(real.of(states), projection.weight, projection.bias)


def output_projection(model: nn.Module) -> Optional[nn.Linear]:
    """The linear map from a decoder's states to logits; None if that is not the whole last step."""
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
    """Refuses a wrapper that treats the output projection as unused and fails at its gradient.

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
                "--find-unused-parameters treats the output projection, which the loss reads "
                "directly, as unused, and torch then fails. Leave it out, train by --ddp-backend "
                "legacy_ddp, or share the projection with the embeddings "
                "(--share-decoder-input-output-embed)."
            )
        model = model.module


def refuse_adaptive_softmax(model: nn.Module, name: str = "The student") -> None:
    """Refuses a model without logits over the whole vocabulary."""
    if getattr(getattr(model, "decoder", None), "adaptive_softmax", None) is not None:
        raise ValueError(
            f"{name} has an adaptive softmax, which gives no logits to compare with another "
            "model's. Train without --adaptive-softmax-cutoff."
        )
