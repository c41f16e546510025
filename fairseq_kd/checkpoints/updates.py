"""The number of updates behind the weights of a checkpoint, inherited ones included."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Optional, Union

from fairseq_kd.checkpoints.reading import INHERITED, options_of, read_state

LAST = "checkpoint_last.pt"  # what fairseq-train goes on from by default


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
    may have had a start itself. What ``fairseq-kd inherit`` writes has its teacher's.

    Args:
        path: the checkpoint.
        seen: checkpoints that started from it, which cannot be its start.

    Returns:
        None if its start is no longer there, or is another file by now.
    """
    state = read_state(path, str(path))
    history = state["optimizer_history"]
    if INHERITED in history[-1]:
        return history[-1][INHERITED]
    start, updates = start_of(state), updates_of(state)
    if start is None:
        return updates
    before = next((each[INHERITED] for each in history if each.get("file") == start), None)
    file, seen = Path(start), seen | {Path(path).resolve()}
    if file.is_file() and file.resolve() not in seen:
        with suppress(ValueError):  # it is no checkpoint any more
            begun = read_state(file, start)["optimizer_history"]
            if history[: len(begun)] == begun:  # fairseq goes on with the history of a start
                before = updates_behind(file, seen)
    return None if before is None else before + updates


def start_of(state: Dict[str, Any]) -> Optional[str]:
    """The checkpoint whose weights a training began with, as its command named it."""
    options = options_of(state, "checkpoint")
    if options.get("finetune_from_model"):
        return options["finetune_from_model"]
    restored = options.get("restore_file", LAST)
    return restored if restored != LAST and options.get("reset_optimizer") else None
