"""The number of updates behind the weights of a checkpoint, inherited ones included."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Optional, Union

from fairseq_kd.checkpoints.reading import INHERITED, options_of, read_state

LAST = "checkpoint_last.pt"  # from which fairseq-train resumes by default


def updates_done(path: Union[str, Path]) -> int:
    """The number of updates after which a checkpoint was written; 0 if there is no such file."""
    if not Path(path).exists():
        return 0
    return updates_of(read_state(path, str(path)))


def updates_of(state: Dict[str, Any]) -> int:
    """The number of updates after which a checkpoint was written.

    Args:
        state: as ``read_checkpoint`` gives it.
    """
    return state["optimizer_history"][-1]["num_updates"]


def inherited_history(out: Union[str, Path], updates: Optional[int]) -> List[Dict[str, Any]]:
    """The ``optimizer_history`` of weights that were taken from another file and not trained yet.

    fairseq keeps it in front of that of the training which starts from them, so that
    ``updates_behind`` finds it when the file is gone.

    Args:
        out: the file that they are written to.
        updates: those behind the weights; None if they are not known.
    """
    names = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}
    return [{**names, "num_updates": 0, INHERITED: updates, "file": str(out)}]


def updates_behind(path: Union[str, Path], seen: FrozenSet[Path] = frozenset()) -> Optional[int]:
    """The number of updates behind a checkpoint's weights: its training's and all inherited ones.

    A training that began with ``--finetune-from-model``, or with ``--restore-file`` and
    ``--reset-optimizer``, counts its own updates alone; those of its start are added here, which
    may have had a start itself. Where it was resumed without that flag, they are those that its
    history shows. What ``fairseq-kd inherit`` writes has its teacher's.

    Args:
        path: the checkpoint.
        seen: checkpoints that started from it, which cannot be its start.

    Returns:
        None if its start no longer exists or has been replaced.
    """
    state = read_state(path, str(path))
    history, start = state["optimizer_history"], start_of(state)
    if start is None or INHERITED in history[-1]:
        return _updates_in(history)
    updates = updates_of(state)
    before = next((each[INHERITED] for each in history if each.get("file") == start), None)
    file, seen = Path(start), seen | {Path(path).resolve()}
    if file.is_file() and file.resolve() not in seen:
        with suppress(ValueError):  # it is no longer a checkpoint
            begun = read_state(file, start)["optimizer_history"]
            if history[: len(begun)] == begun:  # fairseq continues the history of a start
                before = updates_behind(file, seen)
    return None if before is None else before + updates


def _updates_in(history: List[Dict[str, Any]]) -> Optional[int]:
    """The number of updates that a history shows; None if those of inherited weights are unknown.

    A training has an entry for each time that it was resumed, with the updates until then. An entry
    is a new training from the weights of the last one if it has fewer updates, or another criterion
    or optimizer, which requires ``--reset-optimizer``.
    """
    total: Optional[int] = 0
    for entry, after in zip(history, [*history[1:], {}], strict=True):
        if INHERITED in entry:
            total = entry[INHERITED]
        elif total is not None and not _goes_on(entry, after):
            total += entry.get("num_updates", 0)
    return total


def _goes_on(entry: Dict[str, Any], after: Dict[str, Any]) -> bool:
    """Whether the next entry of a history belongs to the same training."""
    same = all(entry.get(name) == after.get(name) for name in ("criterion_name", "optimizer_name"))
    return same and entry.get("num_updates", 0) <= after.get("num_updates", -1)


def start_of(state: Dict[str, Any]) -> Optional[str]:
    """The checkpoint whose weights a training began with, as its command named it."""
    options = options_of(state, "checkpoint")
    if options.get("finetune_from_model"):
        return options["finetune_from_model"]
    restored = options.get("restore_file", LAST)
    return restored if restored != LAST and options.get("reset_optimizer") else None
