"""Reads the figures that ``fairseq-train --log-format json`` prints."""

import json
import math
import re
import shlex
from collections import deque
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

LOG_FILE = "train.log"  # in the folder of the checkpoints, as fairseq-kd stage writes it
STAGE_LOCK = ".stage.lock"  # beside it, while fairseq-kd stage works on it, or after a kill of that
ENDED_LINE = "# the command ended with status "  # which fairseq-kd stage adds where it failed
# Text of the data, as --eval-bleu-print-samples logs it, never stands first in a line.
FIGURES = re.compile(r"[^|]*\| INFO \| (\w+) \| (\{\".*)", re.DOTALL)
MOST_UPDATES = 2**53  # beyond it a number of JSON is not whole
Record = Dict[str, float]
Flags = Dict[str, str]


def figures(line: str, of: str) -> Optional[Record]:
    """The figures of a log line, or None if it holds none of that kind, or was cut off.

    Args:
        line: one line of the log.
        of: ``train_inner`` for the running training, ``valid`` for a validation.

    Returns:
        The numbers by their names, without the name of a validation, and the number of updates as
        ``update``, whole.
    """
    match = FIGURES.match(line)
    if match is None or match[1] != of:
        return None
    try:
        logged = json.loads(match[2])
    except (ValueError, RecursionError):  # cut off by a loss of power, or never figures
        return None
    return _as_numbers(logged, "" if of == "train_inner" else f"{of}_")


class TrainingLog(NamedTuple):
    """The content of a training log.

    Args:
        command: the command line that started it last; "" if the log does not begin so.
        training: the running figures by their names, ``update`` among them, in order of updates.
        validation: those of every validation, without the name of their subset.
        finished: whether fairseq came to the end of the training.
    """

    command: str
    training: List[Record]
    validation: List[Record]
    finished: bool


def read_training_log(path: Path) -> TrainingLog:
    """Reads a log; updates that a restart repeated count once, with their last figures."""
    command, validated, finished = "", "", False
    training: Dict[int, Record] = {}
    validation: Dict[int, Record] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("$ "):
            command, finished = line[2:], False
        finished = finished or "| done training" in line
        kind = _kind(line)
        record = figures(line, of=kind) if kind else None
        if record is None:
            continue
        if kind == "train_inner":
            training[record["update"]] = record
        elif kind != "train":  # a validation is called as its subset
            validated = validated or kind
            if kind == validated:  # of several subsets, the first chooses the best checkpoint
                validation[record["update"]] = record
    in_order = ([kept[at] for at in sorted(kept)] for kept in (training, validation))
    return TrainingLog(command, *in_order, finished)


def last_command(path: Path) -> str:
    """The last command line in the log of a training; "" if there is none."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        commands = deque((line for line in file if line.startswith("$ ")), maxlen=1)
    return commands[0][2:].rstrip("\n") if commands else ""


def arguments_of(command: str) -> List[str]:
    """The arguments of a command line in a log.

    If a quote stays open, as in a log that is cut off, words end at blanks.
    """
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def flags_of(arguments: Sequence[str]) -> Flags:
    """The flags among arguments with their values; the last one of a name counts."""
    flags: Flags = {}
    name = ""
    for word in arguments:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            flags[name] = value
        elif name and not flags[name]:
            flags[name] = word
    return flags


def _kind(line: str) -> str:
    """The kind of a line of figures, or ""."""
    match = FIGURES.match(line)
    return match[1] if match else ""


def _as_numbers(logged: Dict[str, Any], prefix: str) -> Optional[Record]:
    """The figures as numbers, and the number of updates as ``update``, whole; None without it."""
    record: Record = {}
    for name, value in logged.items():
        try:
            record[name.removeprefix(prefix)] = float(value)
        except (OverflowError, TypeError, ValueError):
            continue
    updates = record.pop("num_updates", math.nan)
    return {**record, "update": int(updates)} if 0 <= updates <= MOST_UPDATES else None
