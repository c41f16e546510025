"""Checks the sizes in the options of a checkpoint before a model of them is built.

fairseq builds the model first, in memory of any size, and compares it with the weights then.
"""

import re
from collections.abc import Mapping
from typing import Any, Dict, Iterator, Optional, Tuple

from torch import Tensor

from fairseq_kd.checkpoints.option_check import plain_value
from fairseq_kd.fairseq_flags import range_of
from fairseq_kd.flag_types import Range

POSITIONS = Range(int, 1, 100_000)  # of sinusoids, which a file does not contain
PADDING = 1  # the id of padding; fconv counts it and what is before among its learned positions
SIZES = (  # options that are the sizes of layers and tensors
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    *("decoder_layers", "decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_attention_heads"),
    *("max_source_positions", "max_target_positions"),
)
HELD = (  # the end of an option's name, a tensor of fairseq's models and the dimension of that size
    ("embed_dim", "embed_tokens.weight", 1),
    ("ffn_embed_dim", "layers.0.fc1.weight", 0),
    ("conv_dim", "layers.0.linear2.weight", 1),
    ("hidden_size", "lstm.weight_hh_l0", 1),
    ("hidden_size", "layers.0.weight_hh", 1),
    ("output_dim", "output_projection.weight", 1),
    ("out_embed_dim", "fc_out.weight", 1),
    ("out_embed_dim", "fc2.weight_v", 0),
)
LAYER = re.compile(r"(encoder|decoder)\.(?:layers\.(\d+)\.|lstm\.weight_ih_l(\d+))")
KNOWN = ("fairseq", "fairseq_kd")  # packages of architectures whose weights have known names
SIDES = {"encoder": "max_source_positions", "decoder": "max_target_positions"}


def check_sizes(
    name: str, options: Mapping, weights: Dict[str, Tensor], family: Optional[type]
) -> None:
    """Refuses sizes that are none, or other ones than the weights have.

    Args:
        name: how errors name the checkpoint.
        options: of the model.
        weights: by their names.
        family: the class of the model; weights have known names if it is fairseq's or ours.

    Raises:
        ValueError: naming the first option that is wrong.
    """
    of_fairseq = family is not None and family.__module__.partition(".")[0] in KNOWN
    for option in SIZES:
        called, size = _option(options, *option.split("_", 1))
        right = range_of(option, int)
        if isinstance(size, (int, float)) and not right.holds(size):
            raise ValueError(_wrong(name, called, right, size))
    for side, positions in SIDES.items() if of_fairseq else ():
        for called, size, held in _sizes(options, weights, side):
            if size != held:
                raise ValueError(_wrong(name, called, f"{held} by its weights", size))
        size, learned = options.get(positions), weights.get(f"{side}.embed_positions.weight")
        rows = 0 if learned is None else len(learned)
        right = Range(int, rows - PADDING - 1, rows) if rows else POSITIONS
        if isinstance(size, (int, float)) and not right.holds(size):
            raise ValueError(_wrong(name, positions, right, size))


def check_limits(name: str, options: Mapping) -> None:
    """Refuses lengths of sentences among the options of a task that are none.

    Args:
        name: how errors name the checkpoint.
        options: of the task.

    Raises:
        ValueError: naming the first option that is wrong.
    """
    for positions in SIDES.values():
        size = options.get(positions)
        if size is not None and not (type(size) is int and POSITIONS.holds(size)):
            raise ValueError(_wrong(name, positions, POSITIONS, size))


def _wrong(name: str, called: str, right: Any, size: Any) -> str:
    return (
        f"{name} has the option {called}, which must be {right}, but is {size}. Give a file that "
        "fairseq-train wrote."
    )


def _sizes(
    options: Mapping, weights: Dict[str, Tensor], side: str
) -> Iterator[Tuple[str, Any, Any]]:
    """The sizes of the encoder or the decoder: an option, its value, and what the weights have."""
    for end, tensor, dimension in HELD:
        called, size = _option(options, side, end)
        weight = weights.get(f"{side}.{tensor}")
        if isinstance(size, int) and weight is not None and weight.dim() == 2:
            yield called, size, weight.shape[dimension]
    called, layers = _option(options, side, "layers")
    matches = [LAYER.match(weight) for weight in weights]
    numbers = [int(each[2] or each[3]) for each in matches if each and each[1] == side]
    if isinstance(layers, int) and numbers:
        yield called, layers, 1 + max(numbers)
    convolutions = plain_value(layers) if isinstance(layers, str) else None
    if isinstance(convolutions, list):  # (channels, width, ...) of each layer of fconv
        for number, each in enumerate(convolutions):
            channels = weights.get(f"{side}.convolutions.{number}.bias", ())
            width = weights.get(f"{side}.convolutions.{number}.weight_v", ())
            yield f"{called}[{number}]", tuple(each[:2]), (len(channels) // 2, len(width))


def _option(options: Mapping, side: str, end: str) -> Tuple[str, Any]:
    """An option's name and value, by the names of fairseq-train or of fairseq-hydra-train."""
    inner = options.get(side)
    if isinstance(inner, Mapping) and end in inner:
        return f"{side}.{end}", inner[end]
    return f"{side}_{end}", options.get(f"{side}_{end}")
