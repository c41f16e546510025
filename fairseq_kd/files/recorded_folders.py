"""Folders that record what they were made of, so that they are made once."""

import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict

from fairseq_kd.files.atomic_files import atomic_folder
from fairseq_kd.files.hashes import check_unchanged, sums_of
from fairseq_kd.files.json_files import read_json, sealed
from fairseq_kd.files.locks import lock_beside, locked

SCHEMA = {"made_of": {str: str}, "files": {str: str}}


def make_once(
    out: Path,
    record: str,
    made_of: Dict[str, str],
    write: Callable[[Path], Dict[str, Any]],
) -> bool:
    """Makes a folder, or prints that it exists.

    Args:
        out: the folder.
        record: the name of the JSON file in it that holds ``made_of``, the hashes of its files, and
            what ``write`` returns.
        made_of: the inputs and settings that determine its files.
        write: fills a temporary folder, which becomes ``out`` afterwards.

    Returns:
        Whether it was made now.

    Raises:
        ValueError: the folder exists and was made of something else, or is damaged.
        OSError: it cannot be written; ``write_errors.explained`` says why.
    """
    with locked(lock_beside(out), f"--out {out}", out, finished=True):
        if (out / record).is_file():
            earlier = read_json(out / record, SCHEMA, f"Remove {out} and run this again.")
            _check_same(out, earlier["made_of"], made_of)
            check_unchanged(out, earlier["files"])
            print(f"{out} already exists", file=sys.stderr)
            return False
        with atomic_folder(out) as work:
            content = {"made_of": made_of, **write(work), "files": sums_of(work)}
            text = json.dumps(sealed(content), indent=2) + "\n"
            (work / record).write_text(text, encoding="utf-8")
    return True


def check_recorded(folder: Path, record: str) -> None:
    """Refuses a folder of ``make_once`` of which a file was changed; other folders are accepted.

    Args:
        folder: the folder.
        record: the name of the JSON file in it.

    Raises:
        ValueError: naming the file.
    """
    if (folder / record).is_file():
        repair = f"Remove {folder} and make it again."
        check_unchanged(folder, read_json(folder / record, SCHEMA, repair)["files"])


def _check_same(out: Path, old: Dict[str, str], new: Dict[str, str]) -> None:
    """Refuses a folder that was made of something else.

    Raises:
        ValueError: naming what differs.
    """
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if changed:
        names = ", ".join(f"{key!r}" for key in changed)
        raise ValueError(
            f"--out {out} already exists and was made of other inputs: {names} differ. Remove it "
            "or choose another."
        )
