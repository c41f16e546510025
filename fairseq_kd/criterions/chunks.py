"""The flags of a loss that goes by chunks of tokens; they change memory and speed alone."""

from dataclasses import field
from typing import Any

from fairseq_kd.flag_types import Range, number_field


def chunk_tokens_flag() -> Any:
    """The field ``kd_chunk_tokens``, an optional int."""
    return number_field(
        None,
        Range(int, 0, 1_000_000_000),
        "target tokens that are projected to the vocabulary at once; 0: the whole "
        "batch; changes memory and speed, not the result (default: by the vocabulary's size)",
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
