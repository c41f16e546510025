"""Refuses a training's start that ``inherit`` or fairseq-train would refuse when its turn comes."""

from argparse import Namespace
from pathlib import Path
from typing import Any, Mapping, Sequence, Tuple

from fairseq_kd.pipeline.workflow import Step

START = "finetune_from_model"
SIDES = ("encoder", "decoder")
SIZES = tuple(
    f"{side}_{size}"
    for side in SIDES
    for size in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
)
SHARING = ("share_all_embeddings", "share_decoder_input_output_embed")  # a student may give it up
FORM = (  # what weights are made for, beside their sizes
    *SHARING,
    *(f"{side}_{what}" for side in SIDES for what in ("normalize_before", "learned_pos")),
    "no_token_positional_embeddings",
    "layernorm_embedding",
)
SAME = (*SIZES, *FORM, "no_scale_embedding", "activation_fn")  # in a start and its training


def check_starts(
    path: Path, steps: Sequence[Step], trainings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuses starts that do not fit.

    Args:
        path: of the run file.
        steps: of the run.
        trainings: by step, what fairseq-train makes of its flags.

    Raises:
        ValueError: naming the model, what it starts from, and the number that does not fit.
    """
    from fairseq_kd.checkpoints import check_start
    from fairseq_kd.models.form import is_transformer

    inheriting = {step.makes[0]: step for step in steps if step.kind == "inherit"}
    for name, training in trainings.items():
        start = training.get(START)
        if start in inheriting:
            begun = _inherited(path, name, inheriting[start], trainings)
            _refuse_another_model(path, name, training, begun, "its start has")
        elif start and Path(start).exists() and is_transformer(training["arch"]):
            check_start(start, f"{path}: the checkpoint {start}")
            _refuse_another_model(path, name, training, _of_checkpoint(path, start), f"{start} has")


def _inherited(
    path: Path, name: str, step: Step, trainings: Mapping[str, Mapping[str, Any]]
) -> Namespace:
    """The model that ``inherit`` will write.

    Raises:
        ValueError: it is larger than what it is taken from, or of another form.
    """
    from fairseq_kd.models.form import is_transformer, model_args

    command = step.commands[0]
    named = {flag: command[command.index(flag) + 1] for flag in ("--teacher", "--arch")}
    if step.after:
        called, teacher = step.after[0], Namespace(**trainings[step.after[0]])
    else:
        called, teacher = named["--teacher"], _of_checkpoint(path, named["--teacher"])
    if not is_transformer(teacher.arch):
        raise ValueError(
            f"{path}: {name} cannot start from the layers of {called}, which is no transformer. "
            "Say start: cold."
        )
    begun, _ = model_args(named["--arch"], teacher, command[command.index("--") + 1 :])
    for what, ours, theirs in _measures(begun, teacher):
        if ours > theirs:
            raise ValueError(
                f"{path}: {name} cannot start from the layers of {called}: its {what} are {ours}, "
                f"and those of {called} {theirs}. Say start: cold, or choose smaller sizes."
            )
    for key in FORM:
        ours, theirs = _value(begun, key), _value(teacher, key)
        if ours != theirs and (ours or key not in SHARING):
            raise ValueError(
                f"{path}: {name} cannot start from the layers of {called}: its {_flag(key)} is "
                f"{_told(ours)}, and that of {called} {_told(theirs)}. Say start: cold, or choose "
                "an arch of the same form."
            )
    return begun


def _measures(ours: Namespace, theirs: Namespace) -> Sequence[Tuple[str, int, int]]:
    """What a student cannot have more of than its teacher, with both numbers."""
    found = []
    for side in SIDES:
        for what in ("embed_dim", "ffn_embed_dim", "attention_heads"):
            key = f"{side}_{what}"
            words = {"embed_dim": "dimensions", "ffn_embed_dim": "feed-forward units"}
            called = f"{side} {words.get(what, 'attention heads')}"
            found.append((called, getattr(ours, key), getattr(theirs, key)))
        heads = [
            getattr(each, f"{side}_embed_dim") // getattr(each, f"{side}_attention_heads")
            for each in (ours, theirs)
        ]
        found.append((f"{side} dimensions of a head", *heads))
    return found


def _refuse_another_model(
    path: Path, name: str, training: Mapping[str, Any], begun: Namespace, gives: str
) -> None:
    """A training goes on with the model that it starts from."""
    for key in SAME:
        trained, given = _value(Namespace(**training), key), _value(begun, key)
        if trained != given:
            raise ValueError(
                f"{path}: {name} is trained with {_flag(key)} {_told(trained)}, but {gives} "
                f"{_told(given)}. Make them equal by train: or arch of the rung, or say start: "
                "cold."
            )


def _value(args: Namespace, key: str) -> Any:
    """One of the arguments; embeddings that are all shared are shared with the output too."""
    if key == SHARING[1] and getattr(args, SHARING[0], False):
        return True
    return getattr(args, key, None) or False


def _of_checkpoint(path: Path, checkpoint: str) -> Namespace:
    from fairseq_kd.sizing.structure import Blueprint

    return Blueprint.of_checkpoint(checkpoint, f"{path}: the checkpoint").args


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _told(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
