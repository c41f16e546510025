"""Short names for the contents of files, which change whenever those do."""

import hashlib
from pathlib import Path
from typing import Iterable


def sha256_of(paths: Iterable[Path]) -> str:
    """The SHA-256 of the contents of some files, one after the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
