"""Hashes of file contents, for detecting damage before a file is used.

A folder whose files must not change keeps their hashes in ``SHA256SUMS``, one line per file, as
``sha256sum -c SHA256SUMS`` reads it; or in a JSON file of its own. ``first_damaged`` compares.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, Optional, Set

from fairseq_kd.files.atomic_files import atomic_write
from fairseq_kd.files.json_files import read_json, sealed

SUMS = "SHA256SUMS"
SMALL_BYTES = 16 << 20  # smaller files are hashed each time


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
    with atomic_write(folder / SUMS) as file:
        file.writelines(f"{digest}  {name}\n" for name, digest in sums.items())


def read_sums(folder: Path) -> Optional[Dict[str, str]]:
    """The hashes in ``SHA256SUMS`` of a folder, by file name; None if there is no such file."""
    path = folder / SUMS
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def first_damaged(folder: Path, sums: Mapping[str, str]) -> Optional[Path]:
    """The first file that is missing or has another hash; None if there is none.

    Args:
        folder: of the files.
        sums: SHA-256 by name, as ``sums_of`` gives them.
    """
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file() or sha256_of([path]) != digest:
            return path
    return None


def check_sums(folder: Path, names: Iterable[str]) -> None:
    """Compares files with ``SHA256SUMS`` of their folder, if there is one that names them.

    Raises:
        ValueError: naming the first whose hash differs.
    """
    sums = read_sums(folder) or {}
    damaged = first_damaged(folder, {name: sums[name] for name in names if name in sums})
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged: its hash differs from {SUMS}. Copy it again.")


def check_unchanged(folder: Path, sums: Mapping[str, str]) -> None:
    """Refuses an output folder of ours of which a file is missing or was changed.

    Args:
        folder: the folder.
        sums: SHA-256 by name, as ``sums_of`` gave them when it was made.

    Raises:
        ValueError: naming the file; or ``sums`` is empty.
    """
    if not sums:
        raise ValueError(f"{folder} has no record of its files. Remove it and run this again.")
    damaged = first_damaged(folder, sums)
    if damaged is not None:
        raise ValueError(
            f"{damaged} is missing, or was changed after it was written: its hash differs. Remove "
            f"{folder} and run this again."
        )


class FileHashes:
    """SHA-256 of files; those of large files are cached by size and modification time.

    Args:
        path: the cache.
        verify: also hash large files again.
    """

    def __init__(self, path: Path, verify: bool = False):
        self.path, self.verify = path, verify
        self.computed: Set[str] = set()  # by this process, once is enough
        self.known: Dict[str, Any] = {}
        if path.is_file():
            fields = {"files?": {str: {"stamp": [int], "sha256": str}}}
            kept = read_json(path, fields, "Remove it: it only saves time.")
            self.known = kept.get("files", {})

    def of(self, path: str, expected: Optional[str] = None) -> str:
        """The hash of a file.

        Args:
            path: of the file.
            expected: if the cached hash differs, the file is hashed: the cache may be wrong.

        Raises:
            FileNotFoundError: it is missing.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}, which the run reads, is missing.")
        stat = Path(path).stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        kept = self.known.get(path)
        fresh = path in self.computed or not (self.verify or stat.st_size < SMALL_BYTES)
        if path not in self.computed and kept and expected:
            fresh = fresh and kept["sha256"] == expected
        if kept is None or kept["stamp"] != stamp or not fresh:
            self.computed.add(path)
            self.known[path] = {"stamp": stamp, "sha256": sha256_of([Path(path)])}
        return self.known[path]["sha256"]

    def save(self) -> None:
        """Writes the cache."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as file:
            json.dump(sealed({"files": self.known}), file)
