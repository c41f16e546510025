"""``manifest.json`` of a distilled data folder: its inputs, options, counts and file hashes."""

import json
from pathlib import Path
from typing import Any, Dict, Optional

from fairseq_kd.files.json_files import read_json, sealed

MANIFEST_FILE = "manifest.json"
SCHEMA = {
    "made_of": {
        "decoding": {"teacher": [str], "engine": str, "beam?": int, "compute_type?": str},
        "choice": {"select": str},
    },
    "counts": {"kept": int, "sentences": int},
    "gold_pairs": int,
    "files": {str: str},
}


def read_manifest(folder: Path) -> Optional[Dict[str, Any]]:
    """The manifest of a folder that ``distill-data`` made; None for other folders.

    Raises:
        ValueError: the file is damaged.
    """
    if not is_distilled(folder):
        return None
    repair = f"Remove {folder} and run fairseq-kd distill-data again."
    return read_json(folder / MANIFEST_FILE, SCHEMA, repair)


def is_distilled(folder: Path) -> bool:
    """Whether ``distill-data`` made a folder; other programs have a manifest.json, too.

    Args:
        folder: any path.
    """
    try:
        content = read_json(folder / MANIFEST_FILE, object, "")
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "made_of" in content


def write_manifest(folder: Path, manifest: Dict[str, Any]) -> None:
    """Writes the manifest into a folder."""
    text = json.dumps(sealed(manifest), indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
