"""The flags of a loss that goes by chunks of tokens; they change memory and speed alone."""

from dataclasses import field
from typing import Any, Optional


def chunk_tokens_flag() -> Any:
    """The field ``kd_chunk_tokens``, an optional int."""
    return field(
        default=None,
        metadata={
            "help": "target tokens that are projected to the vocabulary at once; 0: the whole "
            "batch; changes memory and speed, not the result (default: by the vocabulary's size)"
        },
    )


def compile_flag() -> Any:
    """The field ``kd_compile``, a bool."""
    return field(
        default=False,
        metadata={
            "help": "compile the loss with torch.compile, in the first updates and the first "
            "validation: faster on a GPU, and the same within rounding (default: off)"
        },
    )


def check_chunk(tokens: Optional[int]) -> None:
    """Refuses a negative size of chunks."""
    if tokens is not None and tokens < 0:
        raise ValueError(f"--kd-chunk-tokens must be 0 or greater, but is {tokens}.")
