"""Loads a teacher checkpoint with its own task and dictionaries, after checking it."""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from fairseq import checkpoint_utils
from fairseq.data.data_utils import infer_language_pair
from fairseq.dataclass.utils import omegaconf_no_object_check
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY, FairseqEncoderDecoderModel
from fairseq.models.nat import FairseqNATModel
from fairseq.tasks import TASK_REGISTRY, FairseqTask
from fairseq.tasks.translation import TranslationTask
from omegaconf import OmegaConf

import fairseq_kd.checkpoints.safe_loading  # noqa: F401  (fairseq loads data alone)
from fairseq_kd.checkpoints.option_check import unopened_files
from fairseq_kd.checkpoints.reading import data_folders, options_of, read_model
from fairseq_kd.checkpoints.sizes import check_limits, check_sizes
from fairseq_kd.dictionaries import read_dictionary
from fairseq_kd.files.names import plain_languages
from fairseq_kd.teachers.languages import Languages, Pair
from fairseq_kd.teachers.multilingual import (
    TASKS,
    TeacherTask,
    check_languages,
    leave_one_pair,
    named_dictionaries,
    recorded_pairs,
    teacher_task,
)

ANY = Languages()


def load_teacher(
    path: str, flag: str = "--kd-teacher", languages: Languages = ANY
) -> Tuple[FairseqEncoderDecoderModel, FairseqTask]:
    """The model and the task of a fairseq checkpoint, built from that checkpoint alone.

    The teacher gets its own task: built with the student's, its sequence generator would replace
    the student's and ``--eval-bleu`` would measure the teacher. Its dictionaries come from the
    checkpoint's own folder if they lie there, else from the data folder that the checkpoint names
    (``data_folders``), never from the student's: they are to be compared.

    Args:
        path: the checkpoint, as the user typed it.
        flag: how the user named it.
        languages: the pair to translate, for a multilingual model or one with other names for its
            languages than the data.

    Returns:
        The model, and a task with the dictionaries that the student has, too. A model that reads
        tokens of languages has more entries behind these; see ``sentence_format``.

    Raises:
        FileNotFoundError: no such file, or no dictionaries for it.
        ValueError: not a fairseq checkpoint, holds more than data or a weight that is not finite,
            is not an autoregressive translation model, or does not translate the language pair.
    """
    name = f"{flag} {path}"
    state = read_translation_model(path, name, languages)
    cfg = state["cfg"]
    if any(".adaptive_softmax." in key for key in state["model"]):
        raise ValueError(
            f"{name} uses an adaptive softmax, which gives no logits to distil from. Train the "
            "teacher without --adaptive-softmax-cutoff."
        )
    pair = _languages(path, name, flag, cfg.task, languages)
    cfg.task.source_lang, cfg.task.target_lang = pair
    multilingual = options_of(state, "task")["_name"] in TASKS
    folder = _dictionary_folder(path, name, cfg.task)
    changes = {"data": folder, "eval_bleu": False, **unopened_files(cfg)}
    checkpoint_utils.overwrite_args_by_name(cfg, changes)
    try:
        task = teacher_task(path, name, state, languages, folder) if multilingual else None
    except (AttributeError, LookupError, TypeError) as error:  # options of another shape
        raise ValueError(_unusable(name, error)) from error
    if task is not None:
        task.reorder(state["model"])
    try:
        (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
            [path], state=state, task=task
        )
    except (RuntimeError, ValueError) as error:  # by torch for the weights, by fairseq for sharing
        loading = "loading state_dict" in str(error) and not _has_vocabularies(state, folder, task)
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
    if languages.teacher is not None and languages.data is not None:
        task.cfg.source_lang, task.cfg.target_lang = languages.data
    return model, task


def teacher_languages(
    path: str, flag: str = "--kd-teacher", languages: Languages = ANY
) -> Tuple[str, str]:
    """The source and the target language of a fairseq checkpoint; no model is built.

    Args:
        path: the checkpoint, as the user typed it.
        flag: how the user named it.
        languages: as for ``load_teacher``.

    Raises:
        FileNotFoundError, ValueError: as ``load_teacher``, but for the dictionaries.
    """
    name = f"{flag} {path}"
    cfg = read_translation_model(path, name, languages)["cfg"]
    return _languages(path, name, flag, cfg.task, languages)


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
    check_sizes(name, options, state["model"], family)
    check_limits(name, options_of(state, "task"))


def check_task(name: str, task: str) -> None:
    """Refuses a task that gives a model other input than is known.

    Args:
        name: how errors name the checkpoint.
        task: its registered name.

    Raises:
        ValueError: it loads data by code of its own, as those do that put tokens of languages into
            sentences, and does not have ``reads_plain_sentences = True``.
    """
    if task in TASKS:
        return
    family = TASK_REGISTRY[task]
    plain = issubclass(family, TranslationTask) and (
        family.load_dataset is TranslationTask.load_dataset
        or getattr(family, "reads_plain_sentences", False)
    )
    if not plain:
        raise ValueError(
            f"{name} was trained on --task {task}, but must be trained on --task translation, "
            f"{', '.join(TASKS[:-1])} or {TASKS[-1]}: other tasks may change the model's input in "
            "ways that are not known here. Import its translations by fairseq-kd "
            "import-translations, fine-tune it on one language pair with --task translation, or "
            "give another checkpoint."
        )


def read_translation_model(path: str, name: str, languages: Languages = ANY) -> Dict[str, Any]:
    """The content of a checkpoint that can be distilled, with fairseq's configuration as ``cfg``.

    Of several models of language pairs, that of one pair is left, as a plain transformer.

    Args:
        path: the checkpoint, as the user typed it.
        name: how errors name it.
        languages: the pair; the first of several if none is given.

    Raises:
        FileNotFoundError, ValueError: as ``read_model`` and ``check_family``.
    """
    state = read_model(path, name)
    leave_one_pair(state, name, languages.teacher or languages.data)
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


def _mapping(task_cfg: Any) -> Mapping[str, Any]:
    """The options of a task as a mapping whose ``get`` does not raise, as omegaconf 2.0's does."""
    if isinstance(task_cfg, Namespace):
        return vars(task_cfg)
    return OmegaConf.to_container(task_cfg) if OmegaConf.is_config(task_cfg) else task_cfg


def _languages(path: str, name: str, flag: str, task_cfg: Any, languages: Languages) -> Pair:
    """The given pair, the recorded one, or that of the data where the training inferred it."""
    pair = (task_cfg.source_lang, task_cfg.target_lang)
    options = _mapping(task_cfg)
    multilingual = options.get("_name") in TASKS
    if languages.teacher is not None:
        plain_languages(languages.teacher, _language_flags(flag))
    if languages.are_mixed_up():
        data = " and ".join(languages.data)
        raise ValueError(
            f"{_language_flags(flag)} say {'-'.join(languages.teacher)}, but the data are "
            f"{'-'.join(languages.data)}. Give the names of {data} in {name}, in this order."
        )
    if languages.teacher is not None and multilingual:
        check_languages(path, name, options, languages.teacher)
    if languages.teacher is not None:
        if not multilingual and pair == languages.data != languages.teacher:
            if languages.several:
                return languages.data
            raise ValueError(
                f"{_language_flags(flag)} have no effect: {name} itself names its languages "
                f"{' and '.join(pair)}. Leave them out."
            )
        if not multilingual and None not in pair and pair != languages.teacher:
            raise ValueError(
                f"{name} translates {'-'.join(pair)}, but {_language_flags(flag)} say "
                f"{'-'.join(languages.teacher)}. Give its own names."
            )
        return languages.teacher
    if None not in pair:
        return plain_languages(pair, name)
    if multilingual:
        pairs = [languages.data] if languages.data else recorded_pairs(path, name, options)
        if len(pairs) == 1:
            check_languages(path, name, options, pairs[0])
            return plain_languages(pairs[0], name)
        directions = ", ".join("-".join(each) for each in pairs[:20])
        raise ValueError(
            f"{name} translates several language pairs, such as {directions}. Give "
            f"{_language_flags(flag)}."
        )
    folders = data_folders(path, task_cfg.data)
    pairs = [infer_language_pair(str(folder)) for folder in folders if folder.is_dir()]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs:
        raise ValueError(
            f"{name} does not record its language pair, and no data with a language pair was found "
            f"in {task_cfg.data!s:.200}, which it was trained on{_searched(folders)}. Put that "
            f"folder back, or give {_language_flags(flag)}."
        )
    return plain_languages(pairs[0], name)


def _language_flags(flag: str) -> str:
    """What names the languages of a model that ``flag`` names, for a message."""
    if flag.startswith("--"):
        return f"{flag}-source-lang and {flag}-target-lang"
    return "teacher-languages: {source: NAME, target: NAME}"


def _dictionary_folder(path: str, name: str, task_cfg: Any) -> str:
    """The folder to read the teacher's dictionaries from."""
    options = _mapping(task_cfg)
    named = named_dictionaries(path, options)
    if None not in named:
        return str(named[0].parent)
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
    where = "not beside it"
    if task_cfg.data:
        trained_on = f"{task_cfg.data:.200}, the data folder that it was trained on"
        where = f"neither beside it nor in {trained_on}"
    raise FileNotFoundError(
        f"The dictionaries {' and '.join(files)} of {name} are {where}{_searched(folders)}. Copy "
        f"them into {beside}."
    )


def _has_vocabularies(state: Dict[str, Any], folder: str, task: Optional[TeacherTask]) -> bool:
    """Whether the embeddings of a model have as many tokens as the dictionaries in a folder."""
    pair = (state["cfg"].task.source_lang, state["cfg"].task.target_lang)
    files = [Path(folder, f"dict.{language}.txt") for language in pair]
    sides = task.whole if task else [read_dictionary(file, distinct=False) for file in files]
    return all(
        len(dictionary) == len(state["model"].get(f"{side}.embed_tokens.weight", ()))
        for side, dictionary in zip(("encoder", "decoder"), sides, strict=True)
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
