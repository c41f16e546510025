"""Captures hidden states and attention of an unmodified fairseq model while it runs, by hooks.

Hidden states are the outputs of layers. Attention is computed again from the inputs of an attention
block by the block's own weights: fairseq's fast attention returns no map of a single head, and its
slow one would change the run. Only the requested points are kept, the outputs of the model stay the
same, and no hook is left after the run.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, Iterator, Optional, Tuple

import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from fairseq_kd.models.structure import ATTENTION, Structure, unwrapped

Point = Tuple[str, int]  # (side or kind of attention, layer)


@dataclass(frozen=True)
class AttentionInputs:
    """The inputs of an attention block, from which its queries, keys and values follow.

    Args:
        block: the block.
        query: (L, B, C), fairseq's axis order.
        key: (S, B, C), the source of the values too.
    """

    block: MultiheadAttention
    query: Tensor
    key: Tensor

    def queries(self, real: Tensor) -> Tensor:
        """(B, L, C) for all heads, before scaling.

        Args:
            real: (B, L) bool; what other positions hold has no influence.
        """
        return _project(self.block.q_proj, self.query, real)

    def keys(self, real: Tensor) -> Tensor:
        """(B, S, C) for all heads; ``real`` is (B, S)."""
        return _project(self.block.k_proj, self.key, real)

    def values(self, real: Tensor) -> Tensor:
        """(B, S, C) for all heads; ``real`` is (B, S)."""
        return _project(self.block.v_proj, self.key, real)


@dataclass(frozen=True)
class CapturePoints:
    """The points of a model that are captured.

    Args:
        states: hidden states, by side and layer.
        attention: attention blocks, by kind and layer.
        encoder: whether to keep the output of the encoder.
    """

    states: FrozenSet[Point] = frozenset()
    attention: FrozenSet[Point] = frozenset()
    encoder: bool = False

    def __or__(self, other: "CapturePoints") -> "CapturePoints":
        return CapturePoints(
            self.states | other.states,
            self.attention | other.attention,
            self.encoder or other.encoder,
        )

    @property
    def in_layers(self) -> FrozenSet[Point]:
        """The points inside of layers, which only transformers have."""
        return self.states | self.attention


@dataclass
class Captured:
    """The values at the points in the last run.

    Args:
        states: (B, L, C) after each layer, by side and layer.
        attention: the inputs of the attention blocks, by kind and layer.
        encoder: the output of the encoder, as fairseq's decoders take it.
        encoder_states: (B, S, C), the final states in it, of a transformer.
    """

    states: Dict[Point, Tensor] = field(default_factory=dict)
    attention: Dict[Point, AttentionInputs] = field(default_factory=dict)
    encoder: Optional[Any] = None
    encoder_states: Optional[Tensor] = None

    def __bool__(self) -> bool:
        return bool(self.states or self.attention or self.encoder)


@contextmanager
def capture(model: nn.Module, points: CapturePoints) -> Iterator[Captured]:
    """Captures a model's runs inside of the ``with``, whatever wrapper it is called through."""
    captured = Captured()
    with ExitStack() as undo:
        if points.in_layers:
            structure = Structure(model, "The model")
        for point in points.states:
            layer = structure.layers(point[0])[point[1]]
            hook = layer.register_forward_hook(_save_state(captured, point))
            undo.callback(hook.remove)
        for point in points.attention:
            side, name = ATTENTION[point[0]]
            block = getattr(structure.layers(side)[point[1]], name)
            hook = block.register_forward_pre_hook(_save_inputs(captured, point), with_kwargs=True)
            undo.callback(hook.remove)
        if points.encoder:
            hook = unwrapped(model).encoder.register_forward_hook(_save_encoder(captured))
            undo.callback(hook.remove)
        yield captured


def _save_encoder(captured: Captured):
    def hook(encoder, inputs, output):
        captured.encoder = output
        if isinstance(output, dict):
            captured.encoder_states = output["encoder_out"][0].transpose(0, 1)

    return hook


def _save_state(captured: Captured, point: Point):
    def hook(layer, inputs, output):
        state = output[0] if isinstance(output, tuple) else output  # (L, B, C)
        captured.states[point] = state.transpose(0, 1)

    return hook


def _save_inputs(captured: Captured, point: Point):
    def hook(block, positional, named):
        query, key = (*positional[:2], *(named[name] for name in ("query", "key") if name in named))
        captured.attention[point] = AttentionInputs(block, query, key)

    return hook


def _project(linear: nn.Linear, states: Tensor, real: Tensor) -> Tensor:
    states = states.transpose(0, 1).masked_fill(~real.unsqueeze(-1), 0.0)  # (B, L, C)
    return F.linear(states, linear.weight, linear.bias)  # the weights alone: no quantisation noise
