"""Checks that the checkpoints from which trainings start fit them, before any step runs."""

from argparse import Namespace
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Tuple

from fairseq_kd.flag_types import flag_name
from fairseq_kd.inheritance.options import InheritOptions
from fairseq_kd.pipeline.training_flags import SIZES as SIZE_FLAGS
from fairseq_kd.pipeline.workflow import LaidOutStep

START = "finetune_from_model"
SIDES = ("encoder", "decoder")
SIZES = tuple(flag.replace("-", "_") for flag in SIZE_FLAGS)
SHARING = ("share_all_embeddings", "share_decoder_input_output_embed")  # a student may omit it
STRUCTURE = (  # options that determine which weights exist
    *SHARING,
    *(f"{side}_{what}" for side in SIDES for what in ("normalize_before", "learned_pos")),
    "no_token_positional_embeddings",
    "layernorm_embedding",
)
EQUAL = (*SIZES, *STRUCTURE, "no_scale_embedding", "activation_fn")  # in a start and its training


def check_starts(
    path: Path, steps: Sequence[LaidOutStep], trainings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuses initial weights that ``inherit`` or fairseq-train would refuse later.

    Args:
        path: of the run file.
        steps: of the run.
        trainings: the parsed fairseq-train flags of each training, by step.

    Raises:
        ValueError: the weights do not fit the model; the message names both and the option.
    """
    from fairseq_kd.checkpoints.reading import check_start
    from fairseq_kd.models.transformer_options import is_transformer

    inheriting = {step.makes[0]: step for step in steps if step.kind == "inherit"}
    trained = {step.makes[0]: step.name for step in steps if step.name in trainings}
    for name, training in trainings.items():
        start = training.get(START)
        if start in inheriting:
            options = inheriting[start].command
            of_teacher = trained.get(options.teacher)
            begun = _inherited(path, name, options, of_teacher, trainings)
            _refuse_another_model(path, name, training, begun, "its start has")
        elif start in trained:
            begun = Namespace(**trainings[trained[start]])
            _refuse_another_model(path, name, training, begun, f"{trained[start]} has")
        elif start and Path(start).exists() and is_transformer(training["arch"]):
            check_start(start, f"{path}: the checkpoint {start}")
            _refuse_another_model(path, name, training, _of_checkpoint(path, start), f"{start} has")


def _inherited(
    path: Path,
    name: str,
    options: InheritOptions,
    trained: Optional[str],
    trainings: Mapping[str, Mapping[str, Any]],
) -> Namespace:
    """The options of the model that ``inherit`` will write.

    Args:
        path: of the run file.
        name: the training that starts from the model.
        options: of ``inherit``.
        trained: the step that trains the model to inherit from; None if it exists.
        trainings: the parsed fairseq-train flags of each training, by step.

    Raises:
        ValueError: it is larger than the model it inherits from, or has another structure; or a
            setting has no effect.
    """
    from fairseq_kd.models.transformer_options import is_transformer, model_args

    if trained is not None:
        called, teacher = trained, Namespace(**trainings[trained])
    else:
        called, teacher = options.teacher, _of_checkpoint(path, options.teacher)
    if not is_transformer(teacher.arch):
        raise ValueError(
            f"{path}: {name} cannot start from the layers of {called}, which is not a transformer. "
            "Set start: cold."
        )
    begun, _ = model_args(options.arch, teacher, options.model_flags)
    for what, ours, theirs in _measures(begun, teacher):
        if ours > theirs:
            raise ValueError(
                f"{path}: {name} cannot start from the layers of {called}: its {what} are {ours}, "
                f"and those of {called} are {theirs}. Set start: cold, or choose smaller sizes."
            )
    for key in STRUCTURE:
        ours, theirs = _value(begun, key), _value(teacher, key)
        if ours != theirs and (ours or key not in SHARING):
            raise ValueError(
                f"{path}: {name} cannot start from the layers of {called}: its {flag_name(key)} is "
                f"{_on_or_off(ours)}, and that of {called} is {_on_or_off(theirs)}. Set start: "
                "cold, or choose an arch of the same structure."
            )
    same = all(_value(begun, key) == _value(teacher, key) for key in SIZES)
    if same and options.importance == "data":
        raise ValueError(
            f"{path}: {name} has importance: data, which has no effect on a student of the size of "
            f"{called}. Leave it out."
        )
    return begun


def _measures(ours: Namespace, theirs: Namespace) -> Sequence[Tuple[str, int, int]]:
    """Sizes in which a student cannot exceed its teacher: name, student's, teacher's."""
    sizes = []
    for side in SIDES:
        for what in ("embed_dim", "ffn_embed_dim", "attention_heads"):
            key = f"{side}_{what}"
            names = {"embed_dim": "dimensions", "ffn_embed_dim": "feed-forward units"}
            called = f"{side} {names.get(what, 'attention heads')}"
            sizes.append((called, getattr(ours, key), getattr(theirs, key)))
        heads = [
            getattr(each, f"{side}_embed_dim") // getattr(each, f"{side}_attention_heads")
            for each in (ours, theirs)
        ]
        sizes.append((f"{side} dimensions of a head", *heads))
    return sizes


def _refuse_another_model(
    path: Path, name: str, training: Mapping[str, Any], begun: Namespace, gives: str
) -> None:
    """Refuses a start whose model differs from that of the training."""
    for key in EQUAL:
        trained, given = _value(Namespace(**training), key), _value(begun, key)
        if trained != given:
            raise ValueError(
                f"{path}: {name} is trained with {flag_name(key)} {_on_or_off(trained)}, but "
                f"{gives} {_on_or_off(given)}. Make them equal by train: or arch of the stage, or "
                "set start: cold."
            )


def _value(args: Namespace, key: str) -> Any:
    """An option's value; embeddings that are all shared are shared with the output, too."""
    if key == SHARING[1] and getattr(args, SHARING[0], False):
        return True
    return getattr(args, key, None) or False


def _of_checkpoint(path: Path, checkpoint: str) -> Namespace:
    from fairseq_kd.sizing.teacher_structure import TeacherStructure

    return TeacherStructure.of_checkpoint(checkpoint, f"{path}: the checkpoint").args


def _on_or_off(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
