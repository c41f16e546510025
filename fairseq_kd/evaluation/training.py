"""How a system was trained: its command, its curves, from the log beside its checkpoint."""

from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_kd.training_log import FILE, Record, read_training_log

POINTS = 400  # of a curve, at most
CONTROLS = ("temperature", "agreement", "teacher_entropy", "alpha", "beta", "teacher_gap")


def read_training(checkpoint: Path) -> Optional[Dict[str, Any]]:
    """The training of a checkpoint, or None if no ``train.log`` lies beside it.

    Returns:
        ``command``, and as columns by name ``training`` and ``validation``, each with ``update``,
        every loss (bits a token) and what steers the distillation.
    """
    path = checkpoint.parent / FILE
    if not path.is_file():
        return None
    log = read_training_log(path)
    return {
        "command": log.command,
        "training": _columns(log.training),
        "validation": _columns(log.validation),
    }


def _columns(records: List[Record]) -> Dict[str, List[Optional[float]]]:
    """By name, the figures of at most POINTS records, evenly chosen; the last one is among them."""
    step = max(1, -(-len(records) // POINTS))
    kept = records[::-1][::step][::-1]
    names = {name for record in kept for name in record if is_drawn(name)}
    return {name: [record.get(name) for record in kept] for name in sorted(names)}


def is_drawn(name: str) -> bool:
    """Whether a figure of the log is worth a curve."""
    loss = name.endswith("loss") and not name.startswith(("best_", "_"))
    return name == "update" or name in CONTROLS or (loss and name.isidentifier())
