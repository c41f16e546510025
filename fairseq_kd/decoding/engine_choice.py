"""Chooses the engine: CTranslate2 where it can decode, else fairseq's own generator.

On GPUs CTranslate2 loads cuBLAS of CUDA 12 by name. torch brings the cuBLAS of its own CUDA, 13 in
newer versions, in a folder that the system does not search.
"""

import ctypes
import functools
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Iterator, List, Optional

import torch

from fairseq_kd.decoding.engine import Engine, EngineUnavailableError
from fairseq_kd.decoding.fairseq_engine import FairseqEngine, supported_type
from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.decoding.translation_model import Checkpoint
from fairseq_kd.machine import cores

INSTALL = "pip install 'ctranslate2>=4.8'"
LIBRARIES = ("libcublasLt.so.12", "libcublas.so.12")  # the second needs the first
INSTALL_CUBLAS = "pip install nvidia-cublas-cu12"


def choose_engine(
    name: str,
    models: List[Checkpoint],
    subset: Subset,
    search: Search,
    *,
    device: str = "auto",
    compute_type: str = "auto",
    workers: Optional[int] = None,
    cache: Optional[Path] = None,
) -> Engine:
    """Builds the requested engine, or, with auto, the faster one that can decode.

    Args:
        name: auto, ctranslate2 or fairseq.
        models: one, or the models of an ensemble.
        subset: the set to decode.
        search: options of the search.
        device: cpu, cuda, or auto for a GPU if there is one.
        compute_type: a type that the engine has, or auto.
        workers: batches that CTranslate2 decodes at the same time; None for one per core or GPU.
        cache: folder for converted models.

    Raises:
        ValueError: ``--engine ctranslate2`` cannot decode, the device is not usable, or a flag has
            no effect.
    """
    if device == "cuda" and not gpus(name):
        raise ValueError("--device is cuda, but no GPU can be used here. Leave it out.")
    if name != "fairseq":
        try:
            return _ctranslate2_engine(models, subset, search, device, compute_type, workers, cache)
        except EngineUnavailableError as error:
            if name == "ctranslate2":
                raise ValueError(
                    f"{error}. Omit --engine ctranslate2 to decode with fairseq."
                ) from error
            print(f"{error}. Using fairseq, which is several times slower.", file=sys.stderr)
    if workers is not None:
        raise ValueError("--workers has no effect when fairseq decodes. Leave it out.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, but this torch can use no GPU. Leave it out.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return FairseqEngine(models, search, device, supported_type(compute_type, device))


def _ctranslate2_engine(
    models: List[Checkpoint],
    subset: Subset,
    search: Search,
    device: str,
    compute_type: str,
    workers: Optional[int],
    cache: Optional[Path],
) -> Engine:
    """CTranslate2's engine; arguments as of ``choose_engine``.

    Raises:
        EngineUnavailableError: it cannot decode.
    """
    if len(models) > 1:
        raise EngineUnavailableError("CTranslate2 does not decode ensembles")
    let_ctranslate2_use_avx512()
    try:
        import ctranslate2
    except ImportError as error:
        raise EngineUnavailableError(f"CTranslate2 is not installed ({INSTALL})") from error
    from fairseq_kd.decoding.conversion import converted, default_cache, weights_folder
    from fairseq_kd.decoding.ctranslate2_engine import CTranslate2Engine, supported_compute_type

    (model,) = models
    try:
        if device != "cpu":
            check_gpu(ctranslate2)
            device = "cuda"
    except EngineUnavailableError:
        if device == "cuda" or torch.cuda.is_available():
            raise  # fairseq decodes on the GPU
        device = "cpu"
    compute_type = supported_compute_type(compute_type, device)
    conversion = converted(model, subset, cache or default_cache())
    return CTranslate2Engine(
        weights_folder(conversion, compute_type, device),
        subset.source_dictionary,
        model.max_target,
        search,
        device,
        compute_type,
        workers or (1 if device == "cuda" else cores()),
        affixes=model.affixes,
    )


def let_ctranslate2_use_avx512() -> None:
    """Sets the variable with which CTranslate2 uses AVX-512, where the processor has it.

    CTranslate2 reads the variable once, when it first computes. A variable that is set is kept.
    """
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")


def check_gpu(ctranslate2: ModuleType) -> None:
    """Checks that CTranslate2 can use a GPU.

    Raises:
        EngineUnavailableError: it cannot.
    """
    if ctranslate2.get_cuda_device_count() == 0:
        raise EngineUnavailableError("CTranslate2 finds no GPU")
    if not has_cublas():
        raise EngineUnavailableError(
            f"CTranslate2 finds no cuBLAS of CUDA 12 for the GPU ({INSTALL_CUBLAS})"
        )


def gpus(engine: str) -> int:
    """The number of GPUs that an engine could use; with auto, any engine."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if engine == "fairseq":
        return count
    try:
        import ctranslate2
    except ImportError:
        return count
    return max(count, ctranslate2.get_cuda_device_count())


@functools.cache
def has_cublas() -> bool:
    """Loads cuBLAS, so that CTranslate2 finds it by name; whether that succeeded."""
    return any(_loads(names) for names in _places())


def _places() -> Iterator[Iterator[str]]:
    """The libraries' names for the system's own search, then their paths in pip's folders."""
    yield iter(LIBRARIES)
    nvidia = importlib.util.find_spec("nvidia")
    for folder in nvidia.submodule_search_locations or () if nvidia else ():
        yield (str(Path(folder) / "cublas" / "lib" / name) for name in LIBRARIES)


def _loads(names: Iterator[str]) -> bool:
    try:
        for name in names:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
