"""Loads a teacher checkpoint with its own task and dictionaries, or says why it cannot."""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

from fairseq import checkpoint_utils
from fairseq.data.data_utils import infer_language_pair
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY, FairseqEncoderDecoderModel
from fairseq.models.nat import FairseqNATModel
from fairseq.tasks import TASK_REGISTRY, FairseqTask

import fairseq_kd.checkpoints  # noqa: F401  (lets torch read what fairseq writes)


def load_teacher(
    path: str, flag: str = "--kd-teacher"
) -> Tuple[FairseqEncoderDecoderModel, FairseqTask]:
    """The model and the task of a fairseq checkpoint, built from that checkpoint alone.

    The teacher gets its own task: built with the student's, its sequence generator would replace
    the student's and ``--eval-bleu`` would measure the teacher. Its dictionaries come from the
    checkpoint's own folder if they lie there, else from the data folder that the checkpoint names,
    never from the student's: they are to be compared.

    Args:
        path: the checkpoint, as the user typed it.
        flag: how the user named it.

    Raises:
        FileNotFoundError: no such file, or no dictionaries for it.
        ValueError: not a fairseq checkpoint, holds more than data, or is no autoregressive
            translation model.
    """
    name = f"{flag} {path}"
    state = _read_translation_model(path, name)
    cfg = state["cfg"]
    if any(".adaptive_softmax." in key for key in state["model"]):
        raise ValueError(
            f"{name} uses an adaptive softmax, which gives no logits to distil from. Train the "
            "teacher without --adaptive-softmax-cutoff."
        )
    cfg.task.source_lang, cfg.task.target_lang = _languages(name, cfg.task)
    folder = _dictionary_folder(path, name, cfg.task)
    checkpoint_utils.overwrite_args_by_name(cfg, {"data": folder, "eval_bleu": False})
    try:
        (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([path], state=state)
    except (RuntimeError, ValueError) as error:  # by torch for the weights, by fairseq for sharing
        raise ValueError(
            f"{name} does not fit the dictionaries in {folder}: {_first_lines(error)} "
            "Put the dictionaries that it was trained with beside it."
        ) from error
    return model, task


def teacher_languages(path: str, flag: str = "--kd-teacher") -> Tuple[str, str]:
    """The source and the target language of a fairseq checkpoint; no model is built.

    Args:
        path: the checkpoint, as the user typed it.
        flag: how the user named it.

    Raises:
        FileNotFoundError, ValueError: as ``load_teacher``, but for the dictionaries.
    """
    name = f"{flag} {path}"
    return _languages(name, _read_translation_model(path, name)["cfg"].task)


def _read_translation_model(path: str, name: str) -> Dict[str, Any]:
    """As ``_read_checkpoint``, of a file that is there and holds what can be distilled."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{name} does not exist. Give the path of a fairseq checkpoint.")
    state = _read_checkpoint(path, name)
    _refuse_other_family(name, state["cfg"])
    return state


def _read_checkpoint(path: str, name: str) -> Dict[str, Any]:
    """The state in a checkpoint, with its configuration as ``cfg`` whatever fairseq wrote it."""
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(path)
    except pickle.UnpicklingError as error:
        raise ValueError(_unreadable(name, str(error))) from error
    except (EOFError, KeyError, RuntimeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} is not a fairseq checkpoint: {_first_lines(error)}") from error
    if state.get("args") is not None:  # written before fairseq had configurations
        state["cfg"], state["args"] = convert_namespace_to_omegaconf(state["args"]), None
    missing = [key for key in ("model", "cfg") if state.get(key) is None]
    if missing:
        raise ValueError(f"{name} is not a fairseq checkpoint: it holds no '{missing[0]}'.")
    return state


def _unreadable(name: str, reason: str) -> str:
    """Tells a file that is no checkpoint from one that could run code if it were loaded."""
    forbidden = re.search(r"GLOBAL (\S+)", reason)
    if forbidden is None:
        return f"{name} is not a fairseq checkpoint: torch cannot read it."
    return (
        f"{name} holds a Python object besides weights, {forbidden[1]}, and is not "
        "loaded, since loading could run its code. If you trust the file, save it again with "
        "nothing but 'model', 'args' or 'cfg', 'optimizer_history' and 'extra_state'."
    )


def _refuse_other_family(name: str, cfg: Any) -> None:
    """Refuses what its configuration shows to be no translation model, or an unknown one."""
    architecture = getattr(cfg.model, "_name", None) or getattr(cfg.model, "arch", None)
    family = ARCH_MODEL_REGISTRY.get(architecture) or MODEL_REGISTRY.get(architecture)
    for what, called, known in (
        ("architecture", architecture, family is not None),
        ("task", cfg.task._name, cfg.task._name in TASK_REGISTRY),
    ):
        if not known:
            raise ValueError(
                f"{name} was trained with the {what} '{called}', which fairseq does not "
                "know. Import the plugin that registers it in your --user-dir, beside "
                "fairseq_kd.plugin."
            )
    if issubclass(family, FairseqNATModel) or not issubclass(family, FairseqEncoderDecoderModel):
        raise ValueError(
            f"{name} has the architecture '{architecture}', but must be an "
            "autoregressive encoder-decoder, such as transformer, lstm or fconv, which gives one "
            "distribution for each target token."
        )
    if not hasattr(cfg.task, "source_lang"):
        raise ValueError(
            f"{name} was trained on the task '{cfg.task._name}', which has no language pair. Give "
            "a teacher that translates one language into another."
        )


def _languages(name: str, task_cfg: Any) -> Tuple[str, str]:
    """As recorded, or as its data tell where the training was left to infer it from them."""
    pair = (task_cfg.source_lang, task_cfg.target_lang)
    if None not in pair:
        return pair
    pairs = [infer_language_pair(part) for part in _data_folders(task_cfg) if os.path.isdir(part)]
    if not pairs or None in pairs[0]:
        raise ValueError(
            f"{name} does not tell its language pair, and no data of one are in "
            f"{task_cfg.data}, which it was trained on. Put that folder back, or give a "
            "teacher that was trained with --source-lang and --target-lang."
        )
    return tuple(pairs[0])


def _data_folders(task_cfg: Any) -> List[str]:
    return [part for part in (task_cfg.data or "").split(os.pathsep) if part]


def _dictionary_folder(path: str, name: str, task_cfg: Any) -> str:
    """The folder to read the teacher's dictionaries from."""
    files = [f"dict.{language}.txt" for language in (task_cfg.source_lang, task_cfg.target_lang)]
    beside = Path(path).resolve().parent
    for folder in (beside, *map(Path, _data_folders(task_cfg))):
        if all((folder / file).is_file() for file in files):
            return str(folder)
    raise FileNotFoundError(
        f"The dictionaries {' and '.join(files)} of {name} are neither beside it nor in "
        f"{task_cfg.data}, the data folder that it was trained on. Copy them into {beside}."
    )


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines else type(error).__name__
    return text[:300].rstrip(".") + "."
