"""What a distilled data folder tells of itself, in ``manifest.json``."""

from pathlib import Path
from typing import Any, Dict, Optional

from fairseq_kd.json_files import read_json

FILE = "manifest.json"
FORM = {
    "made_of": {
        "decoding": {"teacher": [str], "beam": int, "compute_type": str, "engine": str},
        "choice": {"select": str},
    },
    "counts": {"kept": int, "sentences": int},
    "gold_pairs": int,
    "files": {str: str},
}


def read_manifest(folder: Path) -> Optional[Dict[str, Any]]:
    """The manifest of a folder that ``distill-data`` made; None if it is none of those.

    Raises:
        ValueError: the file is damaged.
    """
    if not is_distilled(folder):
        return None
    repair = f"Remove {folder} and run fairseq-kd distill-data again."
    return read_json(folder / FILE, FORM, repair)


def is_distilled(folder: Path) -> bool:
    """Whether a folder is one that ``distill-data`` made, whose manifest is not another program's.

    Args:
        folder: any path.
    """
    try:
        content = read_json(folder / FILE, object, "")
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "made_of" in content
