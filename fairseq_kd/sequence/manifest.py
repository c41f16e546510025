"""What a distilled data folder tells of itself, in ``manifest.json``."""

import json
from pathlib import Path
from typing import Any, Dict, Optional

FILE = "manifest.json"


def read_manifest(folder: Path) -> Optional[Dict[str, Any]]:
    """The manifest of a folder that ``distill-data`` made; None if it is none of those."""
    try:
        told = json.loads((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and isinstance(told.get("made_of"), dict) else None
