"""The importance of a teacher's layers, heads and feed-forward units, by weights or on data.

Weights alone, with Frobenius norms:

    head                    |W_V| * |W_O|
    dimension of a head     |W_Q row| * |W_K row|, |W_V row| * |W_O column|
    feed-forward unit       |fc1 row| * |fc2 column|

On data, with means over the real tokens of sentences that the teacher reads with teacher forcing;
q, k and z are the queries, the keys and the output of attention before W_O, a is the output of the
activation function:

    head                    mean |W_O z|, its part of the block's output
    dimension of a head     rms(q) * std(k), and mean |z| * |W_O column|
    feed-forward unit       mean |a| * |fc2 column|
    layer                   nll_loss without the layer

std(k) and not rms(k), because what all keys have in common shifts all scores of a query alike.

Source: Muralidharan et al. 2024, arXiv:2407.14679, section 2.2. There heads are ranked by |z| and
units without fc2; layers by perplexity, as here, or by the cosine of input and output.
"""

import math
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Collection, Dict, Iterable, Iterator, NamedTuple, Tuple

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from fairseq_kd.losses import default_chunk
from fairseq_kd.losses.attention import attention_scores, log_attention
from fairseq_kd.models.capture import AttentionInputs, CapturePoints, Point, capture
from fairseq_kd.models.projection import decoder_output
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.models.structure import ATTENTION, SIDES, Structure


@dataclass
class Importance:
    """The importance of a teacher's parts; the largest are kept.

    Args:
        heads: (H,) by kind of attention and layer.
        scores: (C,) of the rows of W_Q and W_K, likewise.
        content: (C,) of the rows of W_V and the columns of W_O, likewise.
        units: (F,) by side and layer.
        layers: nll_loss without each layer, (L,) in bits per token, by side, where it was measured.
        loss: nll_loss of the whole teacher on the same sentences.
    """

    heads: Dict[Point, Tensor] = field(default_factory=dict)
    scores: Dict[Point, Tensor] = field(default_factory=dict)
    content: Dict[Point, Tensor] = field(default_factory=dict)
    units: Dict[Point, Tensor] = field(default_factory=dict)
    layers: Dict[str, Tensor] = field(default_factory=dict)
    loss: float = math.nan

    @property
    def is_finite(self) -> bool:
        """Whether all measures are finite numbers."""
        measures = (self.heads, self.scores, self.content, self.units, self.layers)
        return all(bool(each.isfinite().all()) for kind in measures for each in kind.values())


class Batch(NamedTuple):
    """Sentences that a model reads with teacher forcing.

    Args:
        net_input: the inputs of the model.
        real: the real target tokens, where they are in its output.
        target: (N,) the ids of these tokens.
        sentences: their number.
    """

    net_input: Dict[str, Any]
    real: RealTokens
    target: Tensor
    sentences: int


def head_importance(block: MultiheadAttention) -> Tensor:
    """``|W_V| * |W_O|`` of every head, (H,), with Frobenius norms."""
    values = block.v_proj.weight.unflatten(0, (block.num_heads, -1)).flatten(1)
    outputs = block.out_proj.weight.T.unflatten(0, (block.num_heads, -1)).flatten(1)
    return values.norm(dim=1) * outputs.norm(dim=1)


def unit_importance(layer: nn.Module) -> Tensor:
    """``|fc1 row| * |fc2 column|`` of every feed-forward unit, (F,)."""
    return layer.fc1.weight.norm(dim=1) * layer.fc2.weight.norm(dim=0)


@torch.no_grad()
def importance_by_weights(teacher: Structure) -> Importance:
    """The importance of heads and units by the norms of their weights; layers are not ranked."""
    found = Importance()
    for point, block in _blocks(teacher).items():
        queries, keys, values = (
            getattr(block, f"{name}_proj").weight.norm(dim=1) for name in ("q", "k", "v")
        )
        found.heads[point] = head_importance(block)
        found.scores[point] = queries * keys
        found.content[point] = values * block.out_proj.weight.norm(dim=0)
    for point, layer in _layers(teacher).items():
        found.units[point] = unit_importance(layer)
    return found


@torch.no_grad()
def importance_on_data(
    teacher: Structure,
    batches: Iterable[Batch],
    vocab_size: int,
    sides: Collection[str],
    progress: Callable[[int], None] = lambda sentences: None,
) -> Importance:
    """The importance of heads, units and layers, measured on sentences.

    Args:
        teacher: in evaluation mode; it is the same afterwards.
        batches: on its device. How the sentences are batched and padded has no influence.
        vocab_size: V, the entries of the vocabulary; any others are no part of the softmax.
        sides: those whose layers are left out, one at a time, in a further run for each.
        progress: is given the number of sentences of each batch that is done.
    """
    means = _Means()
    left_out = [point for point in _layers(teacher) if point[0] in sides]
    for batch in batches:
        _measure_parts(teacher, batch, vocab_size, means)
        for point in left_out:
            with _without_layer(teacher, *point):
                means.add(("without", point), _nll_loss(teacher, batch, vocab_size))
        progress(batch.sentences)
    found = Importance(loss=means["loss", None].item())
    for point, block in _blocks(teacher).items():
        found.heads[point] = means["heads", point]
        queries, keys, squares = (means[name, point] for name in ("q^2", "k", "k^2"))
        found.scores[point] = (queries * (squares - keys.square()).clamp(min=0)).sqrt()
        found.content[point] = means["|z|", point] * block.out_proj.weight.norm(dim=0).cpu()
    for point, layer in _layers(teacher).items():
        found.units[point] = means["|a|", point] * layer.fc2.weight.norm(dim=0).cpu()
    for side in sides:
        losses = [means["without", point] for point in left_out if point[0] == side]
        found.layers[side] = torch.stack(losses)
    return found


def most_important(importance: Tensor, n_kept: int) -> Tensor:
    """The indices of the ``n_kept`` largest, in ascending order."""
    return importance.topk(n_kept).indices.sort().values


class _Means:
    """Means over tokens, by the name of a quantity and its place, summed in float64."""

    def __init__(self) -> None:
        self._sums: Dict[Any, Tensor] = {}
        self._tokens: Counter = Counter()

    def add(self, key: Tuple[str, Any], values: Tensor) -> None:
        """Adds the values, (N, ...), of N real tokens."""
        total = values.sum(0, dtype=torch.float64)
        self._sums[key] = self._sums[key] + total if key in self._sums else total
        self._tokens[key] += len(values)

    def __getitem__(self, key: Tuple[str, Any]) -> Tensor:
        return (self._sums[key] / self._tokens[key]).cpu()


def _blocks(teacher: Structure) -> Dict[Point, MultiheadAttention]:
    """The attention blocks by kind and layer."""
    return {
        (kind, index): getattr(layer, name)
        for kind, (side, name) in ATTENTION.items()
        for index, layer in enumerate(teacher.layers(side))
        if getattr(layer, name, None) is not None
    }


def _layers(teacher: Structure) -> Dict[Point, nn.Module]:
    """The layers by side and index."""
    return {(side, i): each for side in SIDES for i, each in enumerate(teacher.layers(side))}


def _measure_parts(teacher: Structure, batch: Batch, vocab_size: int, means: _Means) -> None:
    """Adds the loss of a batch, and what heads and units compute for its real tokens."""
    model, inputs = teacher.model, batch.net_input
    source = inputs["src_tokens"].ne(model.encoder.padding_idx)  # (B, S)
    target = inputs["prev_output_tokens"].ne(model.decoder.padding_idx)  # (B, L)
    real = {"encoder": source, "decoder": target}
    points = CapturePoints(attention=frozenset(_blocks(teacher)))
    with capture(model, points) as captured, _inputs_of_fc2(teacher) as activations:
        means.add(("loss", None), _nll_loss(teacher, batch, vocab_size))
    for point, states in activations.items():
        means.add(("|a|", point), states.transpose(0, 1)[real[point[0]]].abs())
    for point, read in captured.attention.items():
        kind = point[0]
        keys = target if kind == "decoder" else source  # (B, S)
        queries = source if kind == "encoder" else target  # (B, L)
        visible = queries.unsqueeze(2) & keys.unsqueeze(1)  # (B, L, S)
        visible = visible.tril() if kind == "decoder" else visible
        _measure_attention(read, queries, keys, visible, point, means)


def _measure_attention(
    read: AttentionInputs,
    real: Tensor,
    real_keys: Tensor,
    visible: Tensor,
    point: Point,
    means: _Means,
) -> None:
    """Adds what an attention block computes.

    Args:
        read: its inputs.
        real: (B, L) the real queries.
        real_keys: (B, S) the real keys.
        visible: (B, L, S) the keys that a query sees.
        point: its kind and layer.
        means: to add to.
    """
    heads = read.block.num_heads
    queries, keys = read.queries(real), read.keys(real_keys)
    weights = log_attention(attention_scores(queries, keys, heads), visible).exp()
    values = read.values(real_keys).unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, S, d)
    outputs = (weights.to(values.dtype) @ values).transpose(1, 2)[real]  # (N, H, d)
    w_o = read.block.out_proj.weight.unflatten(1, (heads, -1)).transpose(0, 1)  # (H, C, d)
    root = torch.linalg.qr(w_o).R  # (H, d, d): |R z| = |W_O z|, with less to compute
    means.add(("heads", point), torch.einsum("hed,nhd->nhe", root, outputs).norm(dim=-1))
    means.add(("|z|", point), outputs.flatten(1).abs())
    means.add(("q^2", point), queries[real].square())
    means.add(("k", point), keys[real_keys])
    means.add(("k^2", point), keys[real_keys].square())


def _nll_loss(teacher: Structure, batch: Batch, vocab_size: int) -> Tensor:
    """``-log2 p`` of every real target token, (N,)."""
    output = decoder_output(teacher.model, batch.net_input, batch.real).over(vocab_size)
    step = default_chunk(vocab_size, batch.target.device)
    losses = []
    for states, ids in zip(output.output.split(step), batch.target.split(step), strict=True):
        logits = states if output.weight is None else F.linear(states, *output[1:])
        losses.append(F.cross_entropy(logits.float(), ids, reduction="none"))
    return torch.cat(losses) / math.log(2)


@contextmanager
def _inputs_of_fc2(teacher: Structure) -> Iterator[Dict[Point, Tensor]]:
    """The activations of the units in the last run, (L, B, F) by side and layer."""
    activations: Dict[Point, Tensor] = {}
    with ExitStack() as undo:
        for point, layer in _layers(teacher).items():
            hook = layer.fc2.register_forward_pre_hook(
                lambda fc2, inputs, point=point: activations.update({point: inputs[0]})
            )
            undo.callback(hook.remove)
        yield activations


@contextmanager
def _without_layer(teacher: Structure, side: str, layer: int) -> Iterator[None]:
    """Leaves a layer out of the model."""
    owner, layers = getattr(teacher.model, side), teacher.layers(side)
    owner.layers = nn.ModuleList(each for i, each in enumerate(layers) if i != layer)
    try:
        yield
    finally:
        owner.layers = layers
