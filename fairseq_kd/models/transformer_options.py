"""Transformer options other than sizes, which a student takes from its teacher."""

import argparse
from argparse import Namespace
from typing import Optional, Sequence, Tuple

from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.nat import FairseqNATModel
from fairseq.models.transformer import TransformerModel

from fairseq_kd.fairseq_flags import Flags, range_of
from fairseq_kd.flag_types import flag_name
from fairseq_kd.models.architectures import ARCHITECTURES

FORM = (
    "share_all_embeddings",
    "share_decoder_input_output_embed",
    "encoder_normalize_before",
    "decoder_normalize_before",
    "encoder_learned_pos",
    "decoder_learned_pos",
    "no_token_positional_embeddings",
    "no_scale_embedding",
    "layernorm_embedding",
    "no_cross_attention",
    "cross_self_attention",
    "activation_fn",
    "max_source_positions",
    "max_target_positions",
)
POSITIONS = {"max_source_positions": 1024, "max_target_positions": 1024}  # of the translation task


def is_transformer(arch: Optional[str]) -> bool:
    """Whether an architecture is an autoregressive transformer."""
    family = ARCH_MODEL_REGISTRY.get(arch, object)
    return issubclass(family, TransformerModel) and not issubclass(family, FairseqNATModel)


def model_args(arch: str, form_of: Namespace, flags: Sequence[str]) -> Tuple[Namespace, Flags]:
    """The configuration of a model, and the flags of the options that it inherits.

    Args:
        arch: of the model: its sizes.
        form_of: the arguments of a model whose options it inherits, unless a flag sets them; empty
        for the architecture's own.
        flags: of fairseq-train, for the model.

    Raises:
        ValueError: the architecture is not a transformer, or a flag is unknown or out of range.
    """
    if not is_transformer(arch):
        raise ValueError(
            f"--arch must be a transformer of fairseq or one of {', '.join(ARCHITECTURES)}, but is "
            f"{arch}."
        )
    parser = _ModelFlags(argument_default=argparse.SUPPRESS, allow_abbrev=False, add_help=False)
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    given = vars(parser.parse_args(list(flags)))
    for key, value in given.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            range_of(key, type(value)).check(flag_name(key), value)
    usual = Namespace(arch=arch, **POSITIONS)
    ARCH_CONFIG_REGISTRY[arch](usual)
    form = {key: getattr(form_of, key, None) for key in FORM if key not in given}
    form = {key: value for key, value in form.items() if value and value != vars(usual).get(key)}
    if form.get("share_all_embeddings"):
        form.pop("share_decoder_input_output_embed", None)  # implied
    args = Namespace(arch=arch, _name=arch, **form, **given)
    ARCH_CONFIG_REGISTRY[arch](args)
    return args, {key.replace("_", "-"): value for key, value in form.items()}


def check_heads(called: str, args: Namespace) -> None:
    """Refuses a width that is no multiple of the number of attention heads.

    Args:
        called: how the error names the model.
        args: its configuration, with all defaults.
    """
    for side in ("encoder", "decoder"):
        width, heads = (getattr(args, f"{side}_{x}") for x in ("embed_dim", "attention_heads"))
        if width % heads:
            divisors = [count for count in range(1, width + 1) if width % count == 0]
            nearest = min(divisors, key=lambda count: abs(count - heads))
            raise ValueError(
                f"{called} has a width of {width} in its {side}, which {heads} heads do not "
                f"divide. The nearest that can be built has --{side}-attention-heads {nearest}."
            )


class _ModelFlags(argparse.ArgumentParser):
    """Parses the arguments after --, with errors of one sentence."""

    def error(self, message: str) -> None:
        raise ValueError(f"The flags after -- are not those of a fairseq transformer: {message}.")
