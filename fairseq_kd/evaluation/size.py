"""How large a model is: its parameters by part, and its bytes."""

from pathlib import Path
from typing import Dict

from torch import nn

PARTS = ("embeddings", "encoder", "decoder")


def parameters_by_part(model: nn.Module) -> Dict[str, int]:
    """Numbers in the embeddings (and the projection to words), the encoder and the decoder.

    What two parts share is counted once: embeddings that serve source, target and projection too.

    Args:
        model: an encoder-decoder of fairseq.

    Returns:
        By part; the sum is the model's number of parameters.
    """
    found, counted = dict.fromkeys(PARTS, 0), set()
    for name, parameter in model.named_parameters():
        if id(parameter) not in counted:
            counted.add(id(parameter))
            found[part_of(name)] += parameter.numel()
    return found


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name."""
    embeds = any(word in name for word in ("embed_tokens", "embed_positions", "output_projection"))
    if embeds:
        return "embeddings"
    return "encoder" if name.startswith("encoder.") else "decoder"


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers as they are in memory, shared ones once."""
    tensors = {id(each): each for each in (*model.parameters(), *model.buffers())}
    return sum(each.numel() * each.element_size() for each in tensors.values())


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
