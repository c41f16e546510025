"""Reads hidden states and attention of an unmodified fairseq transformer while it runs, by hooks.

Hidden states are what the layers return. Attention is computed anew from what goes into an
attention block, by its own weights: fairseq's fast attention gives no map of a single head, and
asking for its slow one would change the run. Only the layers that are asked for are kept, the
outputs of the model stay the same, and no hook is left when the run is over.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Dict, FrozenSet, Iterator, List, Tuple

import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from fairseq_kd.models.structure import ATTENTION, SIDES, Structure
from fairseq_kd.projection import unwrapped

Place = Tuple[str, int]  # (side or kind of attention, layer)


@dataclass(frozen=True)
class AttentionInputs:
    """What one attention block was given, from which its queries, keys and values follow.

    Args:
        block: the block.
        query: (L, B, C) as fairseq has it.
        key: (S, B, C), the source also of the values.
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


@dataclass
class Reading:
    """What was read in the last run.

    Args:
        states: (B, L, C) after each layer, by side and layer.
        attention: what the attention blocks were given, by kind and layer.
    """

    states: Dict[Place, Tensor] = field(default_factory=dict)
    attention: Dict[Place, AttentionInputs] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.states or self.attention)


@dataclass(frozen=True)
class Taps:
    """The places of a transformer that are read.

    Args:
        states: hidden states, by side and layer.
        attention: attention blocks, by kind and layer.
    """

    states: FrozenSet[Place] = frozenset()
    attention: FrozenSet[Place] = frozenset()

    def __or__(self, other: "Taps") -> "Taps":
        return Taps(self.states | other.states, self.attention | other.attention)

    @contextmanager
    def reading(self, model: nn.Module) -> Iterator[Reading]:
        """Reads a model's runs inside of the ``with``, whatever wrapper it is called through."""
        structure = Structure(model, "The model")
        seen = Reading()
        with ExitStack() as undo:
            for side in SIDES:
                _keep_from_fused_kernels(structure.layers(side), undo)
            for place in self.states:
                layer = structure.layers(place[0])[place[1]]
                hook = layer.register_forward_hook(_save_state(seen, place))
                undo.callback(hook.remove)
            for place in self.attention:
                side, name = ATTENTION[place[0]]
                block = getattr(structure.layers(side)[place[1]], name)
                hook = block.register_forward_pre_hook(_save_inputs(seen, place), with_kwargs=True)
                undo.callback(hook.remove)
            yield seen


@contextmanager
def encoder_outputs(model: nn.Module) -> Iterator[List[Tensor]]:
    """The final states (B, S, C) of a model's encoder, one for each run inside of the ``with``."""
    states: List[Tensor] = []

    def keep(module, inputs, output):
        states.append(output["encoder_out"][0].transpose(0, 1))  # of (S, B, C)

    hook = unwrapped(model).encoder.register_forward_hook(keep)
    try:
        yield states
    finally:
        hook.remove()


def _save_state(seen: Reading, place: Place):
    def hook(layer, inputs, output):
        state = output[0] if isinstance(output, tuple) else output  # (L, B, C)
        seen.states[place] = state.transpose(0, 1)

    return hook


def _save_inputs(seen: Reading, place: Place):
    def hook(block, positional, named):
        query, key = (*positional[:2], *(named[name] for name in ("query", "key") if name in named))
        seen.attention[place] = AttentionInputs(block, query, key)

    return hook


def _keep_from_fused_kernels(layers: nn.ModuleList, undo: ExitStack) -> None:
    """Turns off fairseq 0.12.2's inference path through whole encoders, which passes by hooks."""
    for index in range(len(layers)):
        layer = layers[index]
        if getattr(layer, "can_use_fastpath", False):
            layer.can_use_fastpath = False
            undo.callback(setattr, layer, "can_use_fastpath", True)


def _project(linear: nn.Linear, states: Tensor, real: Tensor) -> Tensor:
    states = states.transpose(0, 1).masked_fill(~real.unsqueeze(-1), 0.0)  # (B, L, C)
    return F.linear(states, linear.weight, linear.bias)  # the weights alone: no quantisation noise
