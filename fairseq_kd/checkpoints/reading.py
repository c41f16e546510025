"""Reads fairseq checkpoints as data: weights and plain options, never code.

Whatever reads a checkpoint in this package reads it here, completed as fairseq completes it when it
loads one, and takes what it needs by a function of this module.
"""

import argparse
import errno
import functools
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import torch

import fairseq_kd.checkpoints.arrays  # noqa: F401  (torch reads arrays of numbers)
from fairseq_kd.checkpoints.option_check import refuse_code, shown
from fairseq_kd.checkpoints.pickles import (
    AGAIN,
    CUT_OFF,
    DEEPEST,
    MOST_VALUES,
    ContentError,
    CutOffError,
    check_pickles,
    python_object,
    values_in,
)
from fairseq_kd.checkpoints.weights import are_weights, check_finite, check_weights
from fairseq_kd.checkpoints.zip_format import fault_of_records
from fairseq_kd.files.atomic_files import check_new_file
from fairseq_kd.files.json_files import NAMES
from fairseq_kd.files.names import why_no_file

# torch >= 2.6 unpickles weights only. fairseq keeps a model's options as a Namespace, and the
# counts of --eval-bleu as a numpy array, for which see stored_arrays. Both are data: naming them
# safe lets every fairseq command in this process read its own checkpoints again, while one that
# carries code is still refused.
torch.serialization.add_safe_globals([argparse.Namespace])

FLAG_OF = {"model": "arch"}  # that chooses a group's class; of all others it is called as the group
CODE = re.compile(r"GLOBAL (\S+)|unsupported class (\S+)|unrecognized function (\S+)")
PARENTS = 3  # a training is called at most so many folders above its --save-dir
ZIP = b"PK\x03\x04"
INHERITED = "inherited_updates"  # in the history of weights that were taken from a teacher
TEXTS = (  # options that are read here and must be text
    *("_name", "arch", "task", "criterion", "data", "source_lang", "target_lang"),
    *("finetune_from_model", "restore_file"),
)


def read_checkpoint(path: Union[str, Path], called: str = "") -> Dict[str, Any]:
    """The whole content of a checkpoint, its tensors on the CPU and read from the file when used.

    What its writer left out is filled in as ``fairseq.checkpoint_utils._upgrade_state_dict`` does:
    the last entry of ``optimizer_history`` has its ``num_updates``, 0 if it names none. That fails
    without ``optimizer_history`` and ``extra_state``, but this reads a file that holds no more than
    the weights of a model and its options, ``args`` or ``cfg``.

    Args:
        path: the checkpoint, as the user typed it.
        called: how errors name it; its path if this is empty.

    Returns:
        What torch reads; ``criterion`` is None and ``task_state`` empty if they are missing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a fairseq checkpoint, or holds anything but tensors, plain containers
            and Namespaces, which is not loaded.
    """
    called = called or str(path)
    state = read_state(path, called)
    for part, correct in (
        ("'model'", are_weights(state.get("model"))),
        ("'cfg' or 'args' of a model", _are_options(state)),
    ):
        if not correct:
            raise ValueError(
                f"{called} is not a fairseq checkpoint: it holds no {part}. Give a file that "
                "fairseq-train wrote."
            )
    check_weights(state["model"], called)
    return state


def read_state(path: Union[str, Path], called: str) -> Dict[str, Any]:
    """As ``read_checkpoint``, of a file that need not hold a model and its options.

    Args:
        path: the checkpoint, as the user typed it.
        called: how errors name it.

    Raises:
        FileNotFoundError, ValueError: as ``read_checkpoint``.
    """
    return _completed(unpickled(Path(path), called), called)


def read_model(path: Union[str, Path], called: str = "") -> Dict[str, Any]:
    """The content of a checkpoint whose model is to be used: all of its weights are finite.

    Args:
        path: the checkpoint, as the user typed it.
        called: how errors name it; its path if this is empty.

    Raises:
        FileNotFoundError, ValueError: as ``read_checkpoint`` and ``check_finite``.
    """
    state = read_checkpoint(path, called)
    check_finite(state["model"], called or str(path))
    return state


def check_start(path: Union[str, Path], called: str) -> None:
    """Refuses what ``fairseq-train --finetune-from-model`` cannot start from.

    Args:
        path: the checkpoint, as the user typed it.
        called: how errors name it.

    Raises:
        FileNotFoundError, ValueError: as ``read_model``; or fairseq needs more than it holds.
    """
    read_model(path, called)
    held = unpickled(Path(path), called)  # as it is
    for part in ("optimizer_history", "extra_state"):
        if not held.get(part):
            raise ValueError(
                f"{called} holds no '{part}', which fairseq-train needs to start from it. Give a "
                "file that fairseq-train or fairseq-kd inherit wrote."
            )


def is_cut_off(path: Path) -> bool:
    """Whether a file is the beginning of a checkpoint, in the format of any torch, and no more."""
    if zipfile.is_zipfile(path):  # its index stands at the end
        return False
    with path.open("rb") as file:
        beginning = file.read(len(ZIP))
    if ZIP.startswith(beginning):
        return True
    try:
        check_pickles(path, zipped=False)
        torch.load(path, map_location="cpu", weights_only=True)  # the format of torch before 1.6
    except Exception as error:  # a file that is not a checkpoint can raise anything
        return isinstance(error, CutOffError) or "unexpected EOF" in str(error)
    return False


def is_made_of(path: Path, made_of: Dict[str, Any]) -> bool:
    """Whether the checkpoint exists and was written from the same inputs.

    Args:
        path: where it would be.
        made_of: the inputs that the command records in it, as ``made_of``.

    Raises:
        ValueError: another file has that path.
    """
    if path.is_file() and _made_of(path) == made_of:
        return True
    check_new_file(path)
    return False


def _made_of(path: Path) -> Any:
    """The inputs from which a command of this package made a checkpoint; None for other files."""
    try:
        return read_checkpoint(path).get("made_of")
    except (OSError, ValueError):
        return None


def options_of(state: Dict[str, Any], group: str) -> Dict[str, Any]:
    """The options of a model, a task, a criterion or another of fairseq's groups, by their names.

    Args:
        state: as ``read_checkpoint`` gives it.
        group: its name in fairseq's configuration.

    Returns:
        A copy; ``_name`` is the registered name of its class, or None. A file from before fairseq
        had groups holds one Namespace with all flags, and each group is all of them.
    """
    if state.get("args") is not None:
        options = {"task": "translation", **vars(state["args"]), "_name": None}  # its default task
    else:
        given = (state.get("cfg") or {}).get(group)
        options = dict(given) if isinstance(given, Mapping) else {**vars(given)} if given else {}
    named = options.get(FLAG_OF.get(group, group))
    if group == "task" and isinstance(named, str):  # which fairseq prefers, of tasks alone
        options["_name"] = named
    options["_name"] = options.get("_name") or named
    return options


def data_folders(checkpoint: Union[str, Path], data: Optional[str]) -> List[Path]:
    """Where the data that a model was trained on may lie, in the order of search.

    A path that is not absolute was relative to the folder where the training was called. It is
    looked for from the current folder, then from the checkpoint's own and PARENTS above it.

    Args:
        checkpoint: the file.
        data: what its options name: a folder, or several with a colon between them.
    """
    parts = (data or "").split(os.pathsep)
    folders = [Path(part) for part in parts if part and _can_be_a_path(part)]
    relative = [folder for folder in folders if not folder.is_absolute()]
    above = Path(checkpoint).resolve().parents[: 1 + PARENTS]
    places = [*folders, *(start / folder for folder in relative for start in above)]
    return list({place.resolve(): place for place in reversed(places)}.values())[::-1]


def _can_be_a_path(text: str) -> bool:
    """Whether a file system can have a file of this name; it need not exist."""
    try:
        os.lstat(text)
    except ValueError:  # a zero byte, or what cannot be encoded
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


def unpickled(path: Path, called: str) -> Any:
    """What torch reads in a file: tensors, plain containers, and options that are data.

    Of torch's errors only the name of a class is passed on.
    """
    if path.is_dir():
        raise ValueError(
            f"{called} is a folder, but must be a fairseq checkpoint. Give a file in it, such as "
            "checkpoint_best.pt."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{called} {why_no_file(path)}. Give the path of a fairseq checkpoint."
        )
    with path.open("rb") as file:  # torch recognises the current format in the same way
        zipped = file.read(len(ZIP)) == ZIP
    if zipped and not zipfile.is_zipfile(path):  # torch also reads one with bytes after its index
        raise ValueError(f"{called} {_unreadable(path)}")
    stat = path.stat()
    fault = _fault(path, zipped, stat.st_size, stat.st_mtime_ns)
    if fault is not None:
        raise ValueError(f"{called} {fault}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write
            named = os.fsencode(path) == str(path).encode(errors="replace")  # as C++ opens it
            mapped = zipped and named
            state = torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        if isinstance(error, MemoryError) or getattr(error, "filename", None):
            raise  # not the file's fault, or named: that it may not be read
        raise ValueError(f"{called} {_unreadable(path, str(error))}") from error
    try:
        values = values_in(state, {})
    except RecursionError:
        values = MOST_VALUES + 1
    if values > MOST_VALUES:
        raise ValueError(
            f"{called} is not a fairseq checkpoint: its lists and dictionaries contain each other, "
            f"to more than {MOST_VALUES:,} values or {DEEPEST} deep. Give a file that "
            "fairseq-train wrote."
        )
    for name in ("cfg", "args") if isinstance(state, dict) else ():
        refuse_code(called, state.get(name))
    return state


@functools.lru_cache(maxsize=64)
def _fault(path: Path, zipped: bool, size: int, changed_ns: int) -> Optional[str]:
    """Faults that torch does not detect, or detects only after allocating memory.

    Args:
        path: the file.
        zipped: whether it is of torch's present format.
        size: of the file in bytes; it is read again only if this or the next has changed.
        changed_ns: when it was written last.

    Returns:
        The rest of a sentence about the file; None if all is well.
    """
    fault = fault_of_records(path, size) if zipped else None
    if fault is not None:
        return fault
    try:
        check_pickles(path, zipped)
    except OSError:
        raise
    except Exception as error:  # a damaged file can raise anything
        return str(error) if isinstance(error, ContentError) else _unreadable(path)
    return None


def _unreadable(path: Path, reason: str = "") -> str:
    """Distinguishes a file that is not a checkpoint from one that could run code when loaded."""
    code = CODE.search(reason)
    if code is not None:
        return python_object(code[code.lastindex])
    with path.open("rb") as file:
        beginning = file.read(len(ZIP))
    if not beginning or (beginning == ZIP and not zipfile.is_zipfile(path)):
        return CUT_OFF if beginning else f"is empty. {AGAIN}"
    return (
        "is not a fairseq checkpoint: torch cannot read it. Give a file that fairseq-train wrote."
    )


def _completed(state: Any, called: str) -> Dict[str, Any]:
    """The content that torch read, completed with missing entries."""
    if not isinstance(state, dict):
        raise ValueError(
            f"{called} is not a fairseq checkpoint: it holds a {type(state).__name__}, not weights "
            "and options by their names. Give a file that fairseq-train wrote."
        )
    state = dict(state)
    for part in ("criterion", "extra_state", "task_state"):
        if not isinstance(state.setdefault(part, None), (Mapping, type(None))):
            raise ValueError(_malformed(called, part, "a dictionary", state[part]))
    if state["criterion"] and not are_weights(state["criterion"]):
        raise ValueError(
            _malformed(called, "criterion", "tensors by their names", state["criterion"])
        )
    for option, value in _options_of_text(state):
        if not isinstance(value, (str, type(None))):
            raise ValueError(_malformed(called, option, "a text", value))
    history, extra = state.get("optimizer_history") or [{}], state["extra_state"] or {}
    if not isinstance(history, list):
        raise ValueError(_malformed(called, "optimizer_history", "a list of dictionaries", history))
    for at, each in enumerate(history):
        if not isinstance(each, dict):
            raise ValueError(_malformed(called, f"optimizer_history[{at}]", "a dictionary", each))
        if not _is_count(each.get(INHERITED) or 0):  # None where it is not known
            right = "a whole number of 0 or more"
            raise ValueError(_malformed(called, INHERITED, right, each[INHERITED]))
    last = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    last.update(history[-1])
    if not _is_count(last["num_updates"]):
        right = "a whole number of 0 or more"
        raise ValueError(_malformed(called, "num_updates", right, last["num_updates"]))
    begun = {"epoch": extra.get("epoch", 1), "iterations_in_epoch": extra.get("batch_offset", 0)}
    state["optimizer_history"] = [*history[:-1], last]
    state["extra_state"] = {"train_iterator": begun, **extra}
    state["task_state"] = state["task_state"] or {}
    return state


def _are_options(state: Dict[str, Any]) -> bool:
    """Whether a checkpoint records the architecture of its model."""
    args, cfg = state.get("args"), state.get("cfg")
    if args is None and not isinstance(cfg, dict):
        return False
    if not isinstance(args, (argparse.Namespace, type(None))):
        return False
    groups = [] if args is not None else [cfg.get(each) for each in ("model", "task", "criterion")]
    if not all(isinstance(each, (argparse.Namespace, Mapping, type(None))) for each in groups):
        return False
    return isinstance(options_of(state, "model")["_name"], str)


def _options_of_text(state: Dict[str, Any]) -> Iterator[Tuple[str, Any]]:
    """The options in a checkpoint that must be text, by their groups and names."""
    args, cfg = state.get("args"), state.get("cfg")
    groups = {"args": args} if args is not None else cfg if isinstance(cfg, Mapping) else {}
    for group, options in groups.items():
        options = vars(options) if isinstance(options, argparse.Namespace) else options
        if isinstance(options, Mapping):
            yield from ((f"{group}.{name}", options[name]) for name in TEXTS if name in options)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _malformed(called: str, key: str, right: str, wrong: Any) -> str:
    plain = isinstance(wrong, (str, float)) or (isinstance(wrong, int) and abs(wrong) < 2**63)
    what = shown(wrong) if plain else NAMES.get(type(wrong), f"a {type(wrong).__name__}")
    return (
        f"{called} is not a fairseq checkpoint: its '{key}' must be {right}, but is {what}. Give a "
        "file that fairseq-train wrote."
    )
