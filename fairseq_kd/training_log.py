"""The figures in what ``fairseq-train --log-format json`` prints."""

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

FILE = "train.log"  # in the folder of the checkpoints, as fairseq-kd stage writes it
Record = Dict[str, float]


def figures(line: str, of: str) -> Optional[Dict[str, Any]]:
    """The figures of a log line, or None if it holds none of that kind.

    Args:
        line: one line of the log.
        of: ``train_inner`` for the running training, ``valid`` for a validation.
    """
    _, separator, record = line.partition(f"| {of} | ")
    return json.loads(record) if separator and record.startswith("{") else None


class TrainingLog(NamedTuple):
    """A training as its log tells it.

    Args:
        command: the command line that started it last; "" if the log does not begin so.
        training: the running figures by their names, ``update`` among them, in order of updates.
        validation: those of every validation, without their prefix ``valid_``.
    """

    command: str
    training: List[Record]
    validation: List[Record]


def read_training_log(path: Path) -> TrainingLog:
    """Reads a log; what a restart repeated counts once, as it was the last time."""
    command, training, validation = "", {}, {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("$ "):
            command = line[2:]
        for kind, prefix, kept in (("train_inner", "", training), ("valid", "valid_", validation)):
            told = figures(line, of=kind)
            if told is not None:
                record = _as_numbers(told, prefix)
                kept[record["update"]] = record
    return TrainingLog(
        command, *([kept[at] for at in sorted(kept)] for kept in (training, validation))
    )


def _as_numbers(told: Dict[str, Any], prefix: str) -> Record:
    """The figures as numbers, and the number of updates as ``update``, whole."""
    record: Record = {}
    for name, value in told.items():
        try:
            record[name.removeprefix(prefix)] = float(value)
        except (TypeError, ValueError):
            continue
    record["update"] = int(record.pop("num_updates"))
    return record
