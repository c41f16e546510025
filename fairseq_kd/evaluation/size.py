"""The size of a model: its parameters by part, and its bytes."""

from pathlib import Path
from typing import Dict

from torch import nn

PARTS = ("embeddings", "encoder", "decoder")
EMBEDDINGS = ("embed_tokens", "embed_positions", "output_projection")


def parameters_by_part(model: nn.Module) -> Dict[str, int]:
    """Parameters of the embeddings (with the output projection), the encoder and the decoder.

    Shared parameters count once, such as embeddings of source, target and projection.

    Args:
        model: an encoder-decoder of fairseq.

    Returns:
        By part; the sum is the model's number of parameters.
    """
    counts, seen = dict.fromkeys(PARTS, 0), set()
    for name, parameter in model.named_parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            counts[_part_of(name)] += parameter.numel()
    return counts


def _part_of(name: str) -> str:
    if any(each in name for each in EMBEDDINGS):
        return "embeddings"
    return "encoder" if name.startswith("encoder.") else "decoder"


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers in memory; shared ones count once."""
    tensors = {id(each): each for each in (*model.parameters(), *model.buffers())}
    return sum(each.numel() * each.element_size() for each in tensors.values())


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
