"""The figures in what ``fairseq-train --log-format json`` prints."""

import json
from typing import Any, Dict, Optional


def figures(line: str, of: str) -> Optional[Dict[str, Any]]:
    """The figures of a log line, or None if it holds none of that kind.

    Args:
        line: one line of the log.
        of: ``train_inner`` for the running training, ``valid`` for a validation.
    """
    _, separator, record = line.partition(f"| {of} | ")
    return json.loads(record) if separator and record.startswith("{") else None
