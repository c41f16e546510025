"""Loads a teacher checkpoint with its own task and dictionaries, after checking it."""

import os
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

from fairseq import checkpoint_utils
from fairseq.data.data_utils import infer_language_pair
from fairseq.dataclass.utils import omegaconf_no_object_check
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY, FairseqEncoderDecoderModel
from fairseq.models.nat import FairseqNATModel
from fairseq.tasks import TASK_REGISTRY, FairseqTask
from fairseq.tasks.translation import TranslationTask
from omegaconf import OmegaConf

import fairseq_kd.checkpoints.safe_loading  # noqa: F401  (fairseq loads data alone)
from fairseq_kd.checkpoints.plain_options import unopened_files
from fairseq_kd.checkpoints.reading import data_folders, options_of, read_model
from fairseq_kd.dictionaries import read_dictionary
from fairseq_kd.files.names import plain_languages
from fairseq_kd.teachers.sizes import check_sizes

KNOWN = ("fairseq", "fairseq_kd")  # packages of architectures whose weights have known names


def load_teacher(
    path: str, flag: str = "--kd-teacher"
) -> Tuple[FairseqEncoderDecoderModel, FairseqTask]:
    """The model and the task of a fairseq checkpoint, built from that checkpoint alone.

    The teacher gets its own task: built with the student's, its sequence generator would replace
    the student's and ``--eval-bleu`` would measure the teacher. Its dictionaries come from the
    checkpoint's own folder if they lie there, else from the data folder that the checkpoint names
    (``data_folders``), never from the student's: they are to be compared.

    Args:
        path: the checkpoint, as the user typed it.
        flag: how the user named it.

    Raises:
        FileNotFoundError: no such file, or no dictionaries for it.
        ValueError: not a fairseq checkpoint, holds more than data or a weight that is not finite,
            or is not an autoregressive translation model of one language pair.
    """
    name = f"{flag} {path}"
    state = read_translation_model(path, name)
    cfg = state["cfg"]
    if any(".adaptive_softmax." in key for key in state["model"]):
        raise ValueError(
            f"{name} uses an adaptive softmax, which gives no logits to distil from. Train the "
            "teacher without --adaptive-softmax-cutoff."
        )
    cfg.task.source_lang, cfg.task.target_lang = _languages(path, name, cfg.task)
    folder = _dictionary_folder(path, name, cfg.task)
    changes = {"data": folder, "eval_bleu": False, **unopened_files(cfg)}
    checkpoint_utils.overwrite_args_by_name(cfg, changes)
    try:
        (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([path], state=state)
    except (RuntimeError, ValueError) as error:  # by torch for the weights, by fairseq for sharing
        loading = "loading state_dict" in str(error) and not _has_vocabularies(state, folder)
        if isinstance(error, RuntimeError) and not loading:
            raise ValueError(_unusable(name, error)) from error  # such as no memory for the sizes
        raise ValueError(
            f"{name} does not fit the dictionaries in {folder}: {_first_lines(error)} "
            "Put the dictionaries that it was trained with beside it."
        ) from error
    except (
        *(ArithmeticError, AssertionError, AttributeError, LookupError),
        *(MemoryError, NameError, TypeError),
    ) as error:
        raise ValueError(_unusable(name, error)) from error
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
    return _languages(path, name, read_translation_model(path, name)["cfg"].task)


def check_family(name: str, state: Dict[str, Any]) -> None:
    """Refuses a checkpoint whose options are not those of a known model of plain translation.

    Args:
        name: how errors name the checkpoint.
        state: as ``read_checkpoint`` gives it.

    Raises:
        ValueError: naming its architecture, its task or a size that is not that of its weights.
    """
    options = options_of(state, "model")
    architecture, task = options["_name"], options_of(state, "task")["_name"]
    family = ARCH_MODEL_REGISTRY.get(architecture) or MODEL_REGISTRY.get(architecture)
    for what, called, known in (
        ("architecture", architecture, family is not None),
        ("task", task, task in TASK_REGISTRY),
    ):
        if not known:
            raise ValueError(
                f"{name} was trained with the {what} '{called}', which fairseq does not know. Give "
                "the plugin that registers it by --user-dir; for fairseq-train, which takes one "
                "plugin, let it also import fairseq_kd.plugin."
            )
    if issubclass(family, FairseqNATModel) or not issubclass(family, FairseqEncoderDecoderModel):
        raise ValueError(
            f"{name} has the architecture '{architecture}', but must be an autoregressive "
            "encoder-decoder, such as transformer, lstm or fconv, which predicts one distribution "
            "per target token."
        )
    check_task(name, task)
    check_sizes(name, options, state["model"], family.__module__.partition(".")[0] in KNOWN)


def check_task(name: str, task: str) -> None:
    """Refuses a task that gives a model other input than the task ``translation`` does.

    Args:
        name: how errors name the checkpoint.
        task: its registered name.

    Raises:
        ValueError: it loads data by code of its own, as those do that put tokens of languages into
            sentences, and does not have ``reads_plain_sentences = True``.
    """
    family = TASK_REGISTRY[task]
    plain = issubclass(family, TranslationTask) and (
        family.load_dataset is TranslationTask.load_dataset
        or getattr(family, "reads_plain_sentences", False)
    )
    if not plain:
        raise ValueError(
            f"{name} was trained on --task {task}, but must be trained on --task translation: such "
            "tasks change the model's input, for example by language tokens, so it would get wrong "
            "input here. Fine-tune it on one language pair with --task translation, or give "
            "another checkpoint."
        )


def read_translation_model(path: str, name: str) -> Dict[str, Any]:
    """The content of a checkpoint that can be distilled, with fairseq's configuration as ``cfg``.

    Args:
        path: the checkpoint, as the user typed it.
        name: how errors name it.

    Raises:
        FileNotFoundError, ValueError: as ``read_model`` and ``check_family``.
    """
    state = read_model(path, name)
    check_family(name, state)
    try:
        if state.get("args") is None:
            with omegaconf_no_object_check():  # models of fairseq-train have Namespaces in it
                state["cfg"] = OmegaConf.create(state["cfg"])
        state = checkpoint_utils._upgrade_state_dict(state)
    except Exception as error:  # those of hydra and omegaconf have no common class
        raise ValueError(_unusable(name, error)) from error
    state["args"] = None  # which fairseq would take instead
    return state


def _unusable(name: str, error: Exception) -> str:
    return (
        f"{name} has options that fairseq cannot use: {_first_lines(error)} Give a file that "
        "fairseq-train wrote."
    )


def _languages(path: str, name: str, task_cfg: Any) -> Tuple[str, str]:
    """The recorded pair, or that of the data where the training inferred it from them."""
    pair = (task_cfg.source_lang, task_cfg.target_lang)
    if None not in pair:
        return plain_languages(pair, name)
    folders = data_folders(path, task_cfg.data)
    pairs = [infer_language_pair(str(folder)) for folder in folders if folder.is_dir()]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs:
        raise ValueError(
            f"{name} does not record its language pair, and no data with a language pair was found "
            f"in {task_cfg.data}, which it was trained on{_searched(folders)}. Put that folder "
            "back, or give a teacher that was trained with --source-lang and --target-lang."
        )
    return plain_languages(pairs[0], name)


def _dictionary_folder(path: str, name: str, task_cfg: Any) -> str:
    """The folder to read the teacher's dictionaries from."""
    files = [f"dict.{language}.txt" for language in (task_cfg.source_lang, task_cfg.target_lang)]
    beside, folders = Path(path).resolve().parent, data_folders(path, task_cfg.data)
    for folder in (beside, *folders):
        if all((folder / file).is_file() for file in files):
            for file in files:
                read_dictionary(folder / file, distinct=False)
            if os.pathsep in str(folder):
                raise ValueError(
                    f"{name} has its dictionaries in {folder}, but fairseq separates folders by "
                    f"{os.pathsep}. Rename the folder."
                )
            return str(folder)
    raise FileNotFoundError(
        f"The dictionaries {' and '.join(files)} of {name} are neither beside it nor in "
        f"{task_cfg.data}, the data folder that it was trained on{_searched(folders)}. Copy them "
        f"into {beside}."
    )


def _has_vocabularies(state: Dict[str, Any], folder: str) -> bool:
    """Whether the embeddings of a model have as many tokens as the dictionaries in a folder."""
    task = state["cfg"].task
    return all(
        len(read_dictionary(Path(folder, f"dict.{language}.txt"), distinct=False))
        == len(state["model"].get(f"{side}.embed_tokens.weight", ()))
        for side, language in (("encoder", task.source_lang), ("decoder", task.target_lang))
    )


def _searched(folders: Sequence[Path]) -> str:
    """The places of the data, where they are not only those that a checkpoint names."""
    if all(folder.is_absolute() for folder in folders):
        return ""
    return f" (searched: {', '.join(str(folder.absolute()) for folder in folders)})"


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines else type(error).__name__
    return text[:300].rstrip(".") + "."
