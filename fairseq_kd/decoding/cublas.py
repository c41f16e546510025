"""cuBLAS of CUDA 12, without which CTranslate2 computes on no GPU.

CTranslate2 asks the system for it by name. An installation of torch brings the one of its own CUDA,
13 for newer ones, into a folder where the system does not look.
"""

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Iterator

LIBRARIES = ("libcublasLt.so.12", "libcublas.so.12")  # the second needs the first
INSTALL_CUBLAS = "pip install nvidia-cublas-cu12"


@functools.cache
def has_cublas() -> bool:
    """Loads it, so that CTranslate2 finds it by its name, and tells whether that went well."""
    return any(_loads(names) for names in _places())


def _places() -> Iterator[Iterator[str]]:
    """The names of the libraries for the system's own search, and in the folders of pip."""
    yield iter(LIBRARIES)
    found = importlib.util.find_spec("nvidia")
    for folder in found.submodule_search_locations or () if found else ():
        yield (str(Path(folder) / "cublas" / "lib" / name) for name in LIBRARIES)


def _loads(names: Iterator[str]) -> bool:
    try:
        for name in names:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
