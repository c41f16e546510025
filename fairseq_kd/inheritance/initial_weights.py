"""Initialises a student from a teacher's weights: chosen layers, heads and feed-forward units.

A narrower student keeps whole attention heads and feed-forward units, the most important ones, and
the same dimensions of the hidden states everywhere. ``importance`` has the measures.

The kept dimensions are evenly spread over the teacher's, because fairseq's position embedding goes
from fast to slow over them: so the student's positions, which are not weights, fit what it
inherits. Embeddings are scaled so that what enters the first layer keeps its size.
"""

from typing import Dict, List, Optional, Sequence, Tuple

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from fairseq_kd.inheritance.importance import Importance, importance_by_weights, most_important
from fairseq_kd.models.capture import Point
from fairseq_kd.models.layer_map import spread
from fairseq_kd.models.projection import refuse_adaptive_softmax
from fairseq_kd.models.structure import (
    ATTENTION,
    SIDES,
    Structure,
    computes_usual_attention,
    learned_positions,
)


@torch.no_grad()
def inherit(
    student: Structure,
    teacher: Structure,
    layers: Dict[str, Optional[Sequence[int]]],
    importance: Optional[Importance] = None,
) -> List[str]:
    """Copies a teacher's weights into a student.

    Args:
        student: built, with any weights; all of them are overwritten.
        teacher: the teacher, at least as wide.
        layers: for each side the teacher layer that each student layer starts from; None for those
            that were measured as most important, or evenly spread ones with the first and the last.
        importance: of the teacher's parts; None: by their weights.

    Returns:
        What was copied from where, a line for each part.

    Raises:
        ValueError: this student cannot start from this teacher.
    """
    refuse_adaptive_softmax(student.model)
    ranked = {} if importance is None else importance.layers
    chosen = {
        side: _choose_layers(student, teacher, side, layers[side], ranked.get(side))
        for side in SIDES
    }
    _refuse_other_form(student, teacher)
    importance = importance or importance_by_weights(teacher)
    for parameter in student.model.parameters():
        parameter.fill_(float("nan"))  # which no weight of a teacher is
    dims = {side: kept_dimensions(student.width(side), teacher.width(side)) for side in SIDES}
    lines = _copy_embeddings(student, teacher, dims)
    for side in SIDES:
        for index, source in enumerate(chosen[side]):
            kept = _copy_layer(
                student.layers(side)[index],
                teacher.layers(side)[source],
                (side, source),
                importance,
                dims[side],
                dims["encoder"],
            )
            lines.append(f"{side} layer {index}: layer {source}, {kept}")
        ours, theirs = (getattr(each.model, side) for each in (student, teacher))
        for name in ("layernorm_embedding", "layer_norm"):
            if getattr(ours, name) is not None:
                _copy_norm(getattr(ours, name), getattr(theirs, name), dims[side])
    left = [name for name, each in student.model.named_parameters() if each.isnan().any()]
    if left:
        raise ValueError(
            f"The student has the weights {left[0]}, for which the teacher has none. Leave out the "
            "flag that adds them, after --."
        )
    return lines


def kept_dimensions(n_student: int, n_teacher: int) -> Tensor:
    """The dimensions of the hidden states that a student keeps, (n_student,).

    Evenly spread within the first and the second half, which hold the sines and the cosines of the
    positions, from fast to slow.
    """
    if n_student == n_teacher or n_student % 2 or n_teacher % 2:
        return torch.tensor(spread(n_student, n_teacher))
    half = torch.tensor(spread(n_student // 2, n_teacher // 2))
    return torch.cat([half, half + n_teacher // 2])


def _choose_layers(
    student: Structure,
    teacher: Structure,
    side: str,
    given: Optional[Sequence[int]],
    ranked: Optional[Tensor],
) -> List[int]:
    n_student, n_teacher = (len(each.layers(side)) for each in (student, teacher))
    if given is None and ranked is not None:
        return most_important(ranked, n_student).tolist()
    if given is None:
        return spread(n_student, n_teacher)
    if len(given) != n_student:
        raise ValueError(
            f"--{side}-layers names {len(given)} layers of the teacher, but the student's {side} "
            f"has {n_student}. Name as many, or add -- --{side}-layers {len(given)} for another "
            "student."
        )
    for layer in given:
        if not 0 <= layer < n_teacher:
            raise ValueError(
                f"--{side}-layers names layer {layer}, but the layers of the teacher's {side} are "
                f"0 to {n_teacher - 1}. Name one of these."
            )
    return list(given)


def _refuse_other_form(student: Structure, teacher: Structure) -> None:
    """Refuses students whose structure does not allow copying of the teacher's weights."""
    for side in SIDES:
        ours, theirs = (getattr(each.model, side) for each in (student, teacher))
        if student.width(side) > teacher.width(side):
            raise ValueError(
                f"The student's {side} is {student.width(side)} wide, and the teacher's "
                f"{teacher.width(side)}: a student cannot be wider than its teacher. Choose a "
                "student that is at most as wide."
            )
        norms = [each.layers(side)[0].normalize_before for each in (student, teacher)]
        if norms[0] != norms[1]:
            where = ["before" if norm else "after" for norm in norms]
            raise ValueError(
                f"The student's {side} normalizes {where[0]} each block, and the teacher's "
                f"{where[1]}. Choose an --arch that normalizes at the same place as the teacher, "
                "such as transformer."
            )
        for name in ("layer_norm", "layernorm_embedding", "embed_positions"):
            parts = [getattr(each, name) for each in (ours, theirs)]
            if type(parts[0]) is not type(parts[1]):
                raise ValueError(
                    f"The student's {side} has {_kind(parts[0])} as {name}, and the teacher's "
                    f"{_kind(parts[1])}. Give the student the teacher's flags, after --."
                )
        lengths = [learned_positions(each) for each in (ours, theirs)]
        if None not in lengths and lengths[0] > lengths[1]:
            raise ValueError(
                f"The student's {side} learns {lengths[0]} positions, and the teacher's has "
                f"{lengths[1]}. Give the student the teacher's --max-source-positions and "
                "--max-target-positions, after --."
            )
    for each in (student, teacher):
        _refuse_unusual_attention(each)
        decoder = each.model.decoder
        if decoder.project_in_dim is not None or decoder.project_out_dim is not None:
            raise ValueError(
                f"{each.called} has word embeddings that differ in width from its decoder, which "
                "cannot be inherited. Choose models without --decoder-input-dim and "
                "--decoder-output-dim."
            )
    if _shares(student) and not _shares(teacher):
        raise ValueError(
            "The student shares the embeddings of both languages, and the teacher does not. Leave "
            "out --share-all-embeddings."
        )
    if _ties(student) and not _ties(teacher):
        raise ValueError(
            "The student's output shares the decoder's embeddings, and the teacher's does not. "
            "Leave out --share-decoder-input-output-embed."
        )


def _refuse_unusual_attention(structure: Structure) -> None:
    """Refuses attention with more than its four projections, of which only these are copied."""
    for side, name in set(ATTENTION.values()):
        for index, layer in enumerate(structure.layers(side)):
            block = getattr(layer, name, None)
            if block is not None and not computes_usual_attention(block):
                raise ValueError(
                    f"{structure.called} has an unusual {name} in layer {index} of its {side}, "
                    "such as one with rotary positions, which cannot be inherited. Choose models "
                    "with fairseq's own attention."
                )


def _kind(part: Optional[nn.Module]) -> str:
    return "none" if part is None else f"a {type(part).__name__}"


def _shares(structure: Structure) -> bool:
    return structure.model.encoder.embed_tokens is structure.model.decoder.embed_tokens


def _ties(structure: Structure) -> bool:
    decoder = structure.model.decoder
    return decoder.output_projection.weight is decoder.embed_tokens.weight


def _copy_embeddings(student: Structure, teacher: Structure, dims: Dict[str, Tensor]) -> List[str]:
    lines = []
    for side in SIDES:
        ours, theirs = (getattr(each.model, side) for each in (student, teacher))
        scale = theirs.embed_scale / ours.embed_scale
        rows = len(ours.embed_tokens.weight)  # a teacher's language tokens are behind them
        ours.embed_tokens.weight.copy_(theirs.embed_tokens.weight[:rows, dims[side]] * scale)
        if isinstance(ours.embed_positions, nn.Embedding):  # learned
            ours.embed_positions.weight.copy_(
                theirs.embed_positions.weight[: len(ours.embed_positions.weight), dims[side]]
            )
        lines.append(f"{side} embeddings: {_of(len(dims[side]), teacher.width(side))} dimensions")
    if not _ties(student):
        ours, theirs = (each.model.decoder.output_projection for each in (student, teacher))
        ours.weight.copy_(theirs.weight[: len(ours.weight), dims["decoder"]])
    return lines


def _copy_layer(
    ours: nn.Module,
    theirs: nn.Module,
    source: Point,
    importance: Importance,
    stream: Tensor,
    memory: Tensor,
) -> str:
    """Copies a layer, and returns a description of the copied parts.

    Args:
        ours: the student's layer.
        theirs: the teacher's.
        source: the side and the index of the teacher's.
        importance: of the teacher's parts.
        stream: dimensions that are kept of the layer's own hidden states.
        memory: dimensions that are kept of the encoder's output.
    """
    side, index = source
    where = f"layer {index} of the teacher's {side}"
    units = len(ours.fc1.weight)
    if units > len(theirs.fc1.weight):
        raise ValueError(
            f"The student has {units} feed-forward units, but {where} has {len(theirs.fc1.weight)}."
            " Choose a student with at most as many."
        )
    kept = most_important(importance.units[source], units)
    _copy_linear(ours.fc1, theirs.fc1, kept, stream)
    _copy_linear(ours.fc2, theirs.fc2, stream, kept)
    for name in ("self_attn_layer_norm", "final_layer_norm", "encoder_attn_layer_norm"):
        if getattr(ours, name, None) is not None:
            _copy_norm(getattr(ours, name), getattr(theirs, name), stream)
    heads = []
    for kind, (owner, name) in ATTENTION.items():
        if owner != side or getattr(ours, name, None) is None:
            continue
        blocks = getattr(ours, name), getattr(theirs, name)
        _refuse_larger_heads(*blocks, where)
        rows, described = _kept_heads(*blocks, (kind, index), importance)
        _copy_attention(*blocks, *rows, stream, memory if kind == "cross" else stream)
        heads.append(described)
    return f"{', '.join(heads)}, {_of(units, len(theirs.fc1.weight))} units"


def _refuse_larger_heads(ours: MultiheadAttention, theirs: MultiheadAttention, where: str) -> None:
    if ours.num_heads > theirs.num_heads or ours.head_dim > theirs.head_dim:
        raise ValueError(
            f"The student has {ours.num_heads} heads of {ours.head_dim} dimensions, but {where} "
            f"has {theirs.num_heads} of {theirs.head_dim}. Choose a student with at most as many, "
            "and at most as large."
        )


def _kept_heads(
    ours: MultiheadAttention, theirs: MultiheadAttention, point: Point, importance: Importance
) -> Tuple[Tuple[Tensor, Tensor], str]:
    """The rows of W_Q and W_K, and those of W_V, that are kept; and a description of the heads."""
    size, full = ours.head_dim, theirs.head_dim
    heads = most_important(importance.heads[point], ours.num_heads)
    scores = _kept_rows(heads, size, full, importance.scores[point])
    content = _kept_rows(heads, size, full, importance.content[point])
    named = "all heads"
    if ours.num_heads < theirs.num_heads:
        named = f"heads {','.join(map(str, heads.tolist()))}"
    return (scores, content), named if size == full else f"{named} ({_of(size, full)} each)"


def _copy_attention(
    ours: MultiheadAttention,
    theirs: MultiheadAttention,
    scores: Tensor,
    content: Tensor,
    stream: Tensor,
    memory: Tensor,
) -> None:
    _copy_linear(ours.q_proj, theirs.q_proj, scores, stream)
    _copy_linear(ours.k_proj, theirs.k_proj, scores, memory)
    _copy_linear(ours.v_proj, theirs.v_proj, content, memory)
    _copy_linear(ours.out_proj, theirs.out_proj, stream, content)


def _kept_rows(heads: Tensor, size: int, full: int, importance: Tensor) -> Tensor:
    """The rows of a projection that are kept: in each kept head the most important ``size``."""
    return torch.cat(
        [
            head * full + most_important(importance[head * full : (head + 1) * full], size)
            for head in heads.tolist()
        ]
    )


def _copy_linear(ours: nn.Linear, theirs: nn.Linear, rows: Tensor, columns: Tensor) -> None:
    ours.weight.copy_(theirs.weight[rows][:, columns])
    if ours.bias is not None:
        ours.bias.copy_(theirs.bias[rows])


def _copy_norm(ours: nn.LayerNorm, theirs: nn.LayerNorm, dims: Tensor) -> None:
    ours.weight.copy_(theirs.weight[dims])
    ours.bias.copy_(theirs.bias[dims])


def _of(kept: int, whole: int) -> str:
    return f"all {whole}" if kept == whole else f"{kept} of {whole}"
