"""The parts of a fairseq transformer: its layers, widths, attention blocks and positions."""

import copy
from typing import Any, Callable, Optional

import torch
from fairseq import models
from fairseq.modules import MultiheadAttention
from fairseq.tasks import FairseqTask
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

SIDES = ("encoder", "decoder")
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "out_proj"}
ATTENTION = {  # kind: (side, name of the block in a layer)
    "encoder": ("encoder", "self_attn"),
    "decoder": ("decoder", "self_attn"),
    "cross": ("decoder", "encoder_attn"),
}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of the wrappers of distributed training."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return model


def on_meta_device(build: Callable[[], nn.Module]) -> nn.Module:
    """A model without memory for its weights, to read its structure.

    BART copies its initial weights through the CPU, which tensors of the meta device cannot be. So
    it is built of fake tensors, which take longer.

    Args:
        build: builds the model.
    """
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:
        with FakeTensorMode():
            return build()


@torch.no_grad()
def computes_usual_attention(block: nn.Module) -> bool:
    """Whether a block computes ``softmax(Q K^T / sqrt(d)) V`` by its four projections alone.

    Forks of fairseq change attention, such as by rotary positions, mostly in a class of the same
    name. So the block is tried on random inputs. One without memory for its weights, or one that
    xformers computes on a GPU, cannot be; it must have the parts of fairseq's own class.
    """
    if not isinstance(block, MultiheadAttention):
        return False
    if {name for name, _ in block.named_children()} - PROJECTIONS - {"dropout_module"}:
        return False
    weight, elsewhere = block.q_proj.weight, getattr(block, "use_xformers", False)
    if weight.is_meta or isinstance(weight, FakeTensor) or elsewhere:
        return block.bias_k is None and not block.add_zero_attn
    block = copy.deepcopy(block).float().eval()
    draw = torch.Generator(block.q_proj.weight.device).manual_seed(1)
    shapes = ((3, block.embed_dim), (3 if block.self_attention else 4, block.kdim))
    query, key = (
        torch.randn(length, 1, width, generator=draw, device=draw.device)
        for length, width in shapes
    )
    key = query if block.self_attention else key
    q, k, v = (
        part(states).view(len(states), block.num_heads, -1).transpose(0, 1)  # (H, L, C / H)
        for part, states in ((block.q_proj, query), (block.k_proj, key), (block.v_proj, key))
    )
    weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
    expected = block.out_proj((weights @ v).transpose(0, 1).reshape(3, 1, -1))
    actual = block(query, key, key)[0]
    return torch.allclose(actual, expected, rtol=1e-3, atol=1e-4, equal_nan=True)


class Structure:
    """The parts of an encoder-decoder transformer, read from the model itself.

    Args:
        model: a model of fairseq, in a wrapper of distributed training or not.
        called: how errors name it.

    Raises:
        ValueError: it has no transformer layers.
    """

    def __init__(self, model: nn.Module, called: str):
        model = unwrapped(model)
        self.model, self.called = model, called
        for side in SIDES:
            layers = getattr(getattr(model, side, None), "layers", None)
            if not isinstance(layers, nn.ModuleList) or not hasattr(layers[0], "self_attn"):
                raise ValueError(
                    f"{called} has no transformer {side} whose layers could be compared. Distil "
                    "from and into transformers, or by word_kd, which takes any architecture."
                )

    def layers(self, side: str) -> nn.ModuleList:
        """The layers of the encoder or the decoder."""
        return getattr(self.model, side).layers

    def width(self, side: str) -> int:
        """The width C of the hidden states."""
        return self.layers(side)[0].embed_dim

    def attention(self, kind: str, layer: int) -> MultiheadAttention:
        """An attention block.

        Args:
            kind: ``encoder`` or ``decoder`` for self-attention, ``cross``.
            layer: counted from 0.

        Raises:
            ValueError: the layer has none, or one that is not fairseq's usual kind.
        """
        side, name = ATTENTION[kind]
        owner = self.layers(side)[layer]
        block = getattr(owner, name, None)
        if block is None:
            raise ValueError(
                f"{self.called} has no {kind} attention in layer {layer} of its {side}. Leave "
                f"{kind} out of --kd-attention-kinds."
            )
        usual = computes_usual_attention(block) and not getattr(block, "use_xformers", False)
        if not usual or (kind == "decoder" and getattr(owner, "cross_self_attention", False)):
            raise ValueError(
                f"{self.called} has an unusual {kind} attention in layer {layer} of its {side}, "
                f"whose maps cannot be compared. Leave {kind} out of --kd-attention-kinds."
            )
        return block

    def refuse_dropped_layers(self, side: str) -> None:
        """Refuses a student that skips layers at random: a skipped layer cannot be compared."""
        rate = getattr(self.layers(side), "p", 0.0)
        if rate > 0:
            raise ValueError(
                f"--{side}-layerdrop is {rate}, which skips layers that are to be compared. "
                f"Train with --{side}-layerdrop 0."
            )

    def refuse_checkpoints(self, purpose: str, *sides: str) -> None:
        """Refuses a model that recomputes its layers in the backward pass.

        Args:
            purpose: what needs their first outputs, for the error.
            sides: encoder, decoder or both.
        """
        for side in sides:
            if hasattr(self.layers(side)[0], "precheckpoint_forward"):
                raise ValueError(
                    f"--checkpoint-activations frees what {purpose} needs. Train without one of "
                    "them."
                )


def student_structure(cfg: Any, task: FairseqTask) -> Structure:
    """The structure of the student, for a criterion before the first batch.

    fairseq gives a criterion the configuration but not the model, so the same model is built once
    more, without memory for its weights.

    Args:
        cfg: the criterion's part of the configuration.
        task: the task of the training.
    """
    with torch.random.fork_rng(devices=[]):
        model = on_meta_device(lambda: models.build_model(cfg._get_root().model, task))
    return Structure(model, "The student")


def learned_positions(side: Optional[nn.Module]) -> Optional[int]:
    """The number of an encoder's or decoder's learned positions; None if they have no limit."""
    positions = getattr(side, "embed_positions", None)
    return positions.max_positions if isinstance(positions, nn.Embedding) else None
