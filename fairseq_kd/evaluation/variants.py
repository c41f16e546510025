"""The engines that run a system: fairseq and CTranslate2, on the CPU and on a GPU."""

import copy
import dataclasses
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch

from fairseq_kd.decoding.engine import Engine, EngineUnavailableError
from fairseq_kd.decoding.engine_choice import INSTALL, check_gpu, gpus
from fairseq_kd.decoding.fairseq_engine import FairseqEngine
from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.evaluation.results import (
    FAIRSEQ,
    FAIRSEQ_GPU,
    FLOAT16_GPU,
    FLOAT32,
    INT8,
    INT8_GPU,
)
from fairseq_kd.evaluation.systems import System

FAIRSEQ_FLOAT32_GPU, FLOAT32_GPU = "fairseq float32, GPU", "CTranslate2 float32, GPU"


class Runtime(NamedTuple):
    """Where an engine computes, and in which type."""

    device: str  # cpu or cuda
    compute_type: str


RUNTIMES = {
    FAIRSEQ: Runtime("cpu", "float32"),
    FLOAT32: Runtime("cpu", "float32"),
    INT8: Runtime("cpu", "int8"),
    FAIRSEQ_GPU: Runtime("cuda", "float16"),
    FLOAT16_GPU: Runtime("cuda", "float16"),
    INT8_GPU: Runtime("cuda", "int8_float16"),
    FAIRSEQ_FLOAT32_GPU: Runtime("cuda", "float32"),
    FLOAT32_GPU: Runtime("cuda", "float32"),
}
BY_FAIRSEQ = (FAIRSEQ, FAIRSEQ_GPU, FAIRSEQ_FLOAT32_GPU)
MEASURED = {"cpu": (FAIRSEQ, FLOAT32, INT8), "cuda": (FAIRSEQ_GPU, FLOAT16_GPU, INT8_GPU)}
EXACT = {"cpu": (FLOAT32, FAIRSEQ), "cuda": (FLOAT32_GPU, FAIRSEQ_FLOAT32_GPU)}  # fastest first


class Variant(NamedTuple):
    """A system and the engine that runs it, a key of RUNTIMES."""

    system: System
    engine: str


class Devices(NamedTuple):
    """The devices of an evaluation."""

    measured: Tuple[str, ...]  # where speed and memory are measured: cpu, cuda or both
    decoding: str  # where the test set is translated
    engines: Tuple[str, ...]  # that can compute here

    @classmethod
    def of(cls, requested: Optional[str]) -> "Devices":
        """The devices that an evaluation uses.

        Args:
            requested: cpu, cuda or both; None to measure on the CPU, and to translate on a GPU if
                there is one.

        Raises:
            ValueError: a GPU is requested, and none can be used.
        """
        measured = ("cpu", "cuda") if requested == "both" else (requested or "cpu",)
        engines = [*MEASURED["cpu"]]
        if requested != "cpu" and gpus("auto"):
            engines += _engines_on_gpus()
        if "cuda" in measured and FAIRSEQ_GPU not in engines:
            raise ValueError(
                f"--device is {requested}, but this torch can use no GPU. Leave it out."
            )
        on_gpu = any(RUNTIMES[each].device == "cuda" for each in engines)
        return cls(measured, "cuda" if on_gpu else "cpu", tuple(engines))


def _engines_on_gpus() -> List[str]:
    """The engines that can use the GPUs of this machine."""
    engines = [FAIRSEQ_GPU, FAIRSEQ_FLOAT32_GPU] if torch.cuda.is_available() else []
    try:
        import ctranslate2

        check_gpu(ctranslate2)
    except ImportError:
        return engines  # convert_all prints how to install it
    except EngineUnavailableError as error:
        print(f"{error}, so that it is measured on the CPU only", file=sys.stderr)
        return engines
    types = ctranslate2.get_supported_compute_types("cuda")
    on_gpus = (FLOAT16_GPU, INT8_GPU, FLOAT32_GPU)
    return engines + [each for each in on_gpus if RUNTIMES[each].compute_type in types]


class Conversions(NamedTuple):
    """The folder of each system's conversion for CTranslate2, or the reason why it has none."""

    folders: Dict[str, Path]
    refusals: Dict[str, str]
    devices: Devices

    def variants(self, system: System) -> List[Variant]:
        """The system with every engine that is measured."""
        engines = [each for device in self.devices.measured for each in MEASURED[device]]
        return [Variant(system, each) for each in engines if self._runs(system, each)]

    def exact(self, system: System) -> Variant:
        """The system with the fastest engine that computes in float32, for its quality."""
        engines = [*EXACT[self.devices.decoding], *EXACT["cpu"]]
        return Variant(system, next(each for each in engines if self._runs(system, each)))

    def int8(self, system: System) -> Optional[Variant]:
        """The system in int8 on the first measured device that can run it."""
        engines = (INT8, INT8_GPU) if "cpu" in self.devices.measured else (INT8_GPU, INT8)
        runs = [each for each in engines if self._runs(system, each)]
        return Variant(system, runs[0]) if runs else None

    def _runs(self, system: System, engine: str) -> bool:
        """Whether an engine can run a system here."""
        converted = engine in BY_FAIRSEQ or system.name in self.folders
        return converted and engine in self.devices.engines

    def folder(self, variant: Variant) -> Path:
        """The model that CTranslate2 loads for a variant."""
        from fairseq_kd.decoding.conversion import weights_folder

        runtime = RUNTIMES[variant.engine]
        folder = self.folders[variant.system.name]
        return weights_folder(folder, runtime.compute_type, runtime.device)


def convert_all(
    systems: Sequence[System], subset: Subset, cache: Optional[Path], devices: Devices
) -> Conversions:
    """Converts systems for CTranslate2, as far as possible, or takes them from the cache.

    Args:
        systems: to be converted.
        subset: on whose sentences a conversion must score as fairseq does.
        cache: folder for converted models; None for the default.
        devices: of the evaluation.
    """
    try:
        import ctranslate2  # noqa: F401

        from fairseq_kd.decoding.conversion import CannotConvertError, converted, default_cache
    except ImportError:
        reason = f"CTranslate2 is not installed ({INSTALL})"
        print(f"{reason}, so only fairseq is measured", file=sys.stderr)
        return Conversions({}, {system.name: reason for system in systems}, devices)
    result = Conversions({}, {}, devices)
    for system in systems:
        try:
            folder = converted(system.checkpoint, subset, cache or default_cache())
            result.folders[system.name] = folder
        except CannotConvertError as error:
            result.refusals[system.name] = str(error)
            print(f"{system.name}: {error}; only fairseq runs it", file=sys.stderr)
    return result


def build_engine(
    variant: Variant,
    conversions: Conversions,
    subset: Subset,
    search: Search,
    *,
    workers: int = 1,
    threads: int = 1,
) -> Engine:
    """The engine of a variant.

    Args:
        variant: what to run.
        conversions: of its system.
        subset: to be translated.
        search: options of the search.
        workers: batches that CTranslate2 translates at the same time on the CPU; one on a GPU.
        threads: of CTranslate2 per batch; fairseq uses all threads of torch.
    """
    device, compute_type = RUNTIMES[variant.engine]
    checkpoint = variant.system.checkpoint
    if variant.engine in BY_FAIRSEQ:
        if device != "cpu":  # the engine moves the model, and others need it where it is
            checkpoint = dataclasses.replace(checkpoint, model=copy.deepcopy(checkpoint.model))
        return FairseqEngine([checkpoint], search, device, compute_type)
    from fairseq_kd.decoding.ctranslate2_engine import CTranslate2Engine

    return CTranslate2Engine(
        conversions.folder(variant),
        subset.source_dictionary,
        checkpoint.max_target,
        search,
        device=device,
        compute_type=compute_type,
        workers=workers if device == "cpu" else 1,
        threads=threads,
        affixes=checkpoint.affixes,
    )
