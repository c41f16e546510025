"""Hashes of the contents of files, by which damage is noticed before a file is used.

A folder whose files must stay as they are keeps their hashes in ``SHA256SUMS``, a line a file, as
``sha256sum -c SHA256SUMS`` reads it; or in a JSON file of its own. ``first_damaged`` compares.
"""

import hashlib
from pathlib import Path
from typing import Dict, Iterable, Mapping, Optional

from fairseq_kd.whole_files import written_whole

SUMS = "SHA256SUMS"


def sha256_of(paths: Iterable[Path]) -> str:
    """The SHA-256 of the contents of some files, one after the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def sums_of(folder: Path) -> Dict[str, str]:
    """SHA-256 of every file in a folder and below, by its name from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of([path]) for path in files}


def write_sums(folder: Path) -> None:
    """Writes ``SHA256SUMS`` for all files that a folder holds now."""
    sums = {name: digest for name, digest in sums_of(folder).items() if name != SUMS}
    with written_whole(folder / SUMS) as file:
        file.writelines(f"{digest}  {name}\n" for name, digest in sums.items())


def read_sums(folder: Path) -> Optional[Dict[str, str]]:
    """What ``SHA256SUMS`` of a folder holds, by the names of the files; None if there is none."""
    path = folder / SUMS
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def first_damaged(folder: Path, sums: Mapping[str, str]) -> Optional[Path]:
    """The first file that is missing or is not what its hash says; None if all are whole.

    Args:
        folder: of the files.
        sums: SHA-256 by name, as ``sums_of`` gives them.
    """
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file() or sha256_of([path]) != digest:
            return path
    return None
