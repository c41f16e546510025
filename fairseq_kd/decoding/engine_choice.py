"""Which engine decodes: CTranslate2 where it can, fairseq's own generator for the rest."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Optional

import torch

from fairseq_kd.decoding.cublas import INSTALL_CUBLAS, has_cublas
from fairseq_kd.decoding.engine import Engine
from fairseq_kd.decoding.fairseq_engine import FairseqEngine, precision
from fairseq_kd.decoding.search import Search
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.decoding.translation_model import Checkpoint

ENGINES = ("auto", "ctranslate2", "fairseq")
INSTALL = "pip install 'ctranslate2>=4.8'"


def choose_engine(
    name: str,
    teachers: List[Checkpoint],
    hashes: List[str],
    subset: Subset,
    search: Search,
    *,
    device: str = "auto",
    compute_type: str = "auto",
    workers: Optional[int] = None,
    cache: Optional[Path] = None,
) -> Engine:
    """Builds the engine that was asked for, or, with auto, the faster one that serves the teachers.

    Args:
        name: one of ENGINES.
        teachers: one, or the models of an ensemble.
        hashes: SHA-256 of their checkpoints.
        subset: to be translated.
        search: how to search.
        device: cpu, cuda, or auto for a GPU if there is one.
        compute_type: what to compute in, one that the engine has, or auto.
        workers: batches that CTranslate2 decodes at the same time; None for one a core or GPU.
        cache: folder for converted teachers.

    Raises:
        ValueError: CTranslate2 was asked for and cannot serve, a GPU that cannot be used, or a flag
            has no effect.
    """
    if device == "cuda" and not gpus(name):
        raise ValueError("--device is cuda, but no GPU can be used here. Leave it out.")
    if name != "fairseq":
        options = {"device": device, "compute_type": compute_type, "workers": workers}
        built = _ctranslate2(teachers, hashes, subset, search, options, cache)
        if not isinstance(built, str):
            return built
        if name == "ctranslate2":
            raise ValueError(f"{built}. Leave --engine ctranslate2 out, and fairseq decodes.")
        print(f"{built}; so fairseq decodes, which takes several times longer", file=sys.stderr)
    if workers is not None:
        raise ValueError("--workers has no effect where fairseq decodes. Leave it out.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, but this torch can use no GPU. Leave it out.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return FairseqEngine(teachers, search, device, precision(compute_type, device))


def _ctranslate2(
    teachers: List[Checkpoint],
    hashes: List[str],
    subset: Subset,
    search: Search,
    options: Dict[str, Any],
    cache: Optional[Path],
) -> "Engine | str":
    """CTranslate2's engine, or why there is none."""
    if len(teachers) > 1:
        return "CTranslate2 decodes no ensembles"
    let_ctranslate2_use_avx512()
    try:
        import ctranslate2
    except ImportError:
        return f"CTranslate2 is not installed ({INSTALL})"
    from fairseq_kd.decoding.conversion import CannotConvertError, converted, default_cache, form
    from fairseq_kd.decoding.ctranslate2_engine import CTranslate2Engine, supported_compute_type

    (teacher,) = teachers
    missing = "" if options["device"] == "cpu" else _why_no_gpu(ctranslate2)
    if missing and (options["device"] == "cuda" or torch.cuda.is_available()):
        return missing  # fairseq decodes on the GPU
    if options["device"] == "auto":
        options["device"] = "cpu" if missing else "cuda"
    device = options["device"]
    options["compute_type"] = supported_compute_type(options["compute_type"], device)
    try:
        conversion = converted(teacher, hashes[0], subset, cache or default_cache())
    except CannotConvertError as error:
        return str(error)
    model = form(conversion, options["compute_type"], device)
    options["workers"] = options["workers"] or (1 if device == "cuda" else cores())
    positions = teacher.model.max_decoder_positions()
    return CTranslate2Engine(model, subset.source_words, positions, search, **options)


def let_ctranslate2_use_avx512() -> None:
    """Has it use AVX-512 where the processor can, which it does only if told to.

    CTranslate2 reads the variable once, when it first computes. One that is set is left as it is.
    """
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")


def _why_no_gpu(ctranslate2: ModuleType) -> str:
    """What keeps CTranslate2 from a GPU; empty if nothing does."""
    if ctranslate2.get_cuda_device_count() == 0:
        return "CTranslate2 finds no GPU"
    if not has_cublas():
        return f"CTranslate2 finds no cuBLAS of CUDA 12 for the GPU ({INSTALL_CUBLAS})"
    return ""


def gpus(engine: str) -> int:
    """That an engine could use; with auto, any of them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if engine == "fairseq":
        return count
    try:
        import ctranslate2
    except ImportError:
        return count
    return max(count, ctranslate2.get_cuda_device_count())


def cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
