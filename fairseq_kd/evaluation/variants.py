"""A system in the form in which it runs: in fairseq, or converted for CTranslate2."""

import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from fairseq_kd.evaluation.systems import System
from fairseq_kd.sequence.engine import Engine
from fairseq_kd.sequence.engines import INSTALL
from fairseq_kd.sequence.fairseq_engine import FairseqEngine
from fairseq_kd.sequence.search import Search
from fairseq_kd.sequence.subset import Subset

FAIRSEQ, FLOAT32, INT8 = "fairseq", "CTranslate2 float32", "CTranslate2 int8"
COMPUTE_TYPES = {FLOAT32: "float32", INT8: "int8"}


class Variant(NamedTuple):
    """A system and the engine that runs it, one of FAIRSEQ, FLOAT32 and INT8."""

    system: System
    engine: str

    @property
    def name(self) -> str:
        """As it stands in the report."""
        return f"{self.system.name}, {self.engine}"


class Converted(NamedTuple):
    """The conversions of systems by name, and for the others why there is none."""

    folders: Dict[str, Path]
    refusals: Dict[str, str]

    def variants(self, system: System) -> List[Variant]:
        """All forms in which a system runs."""
        converted = [FLOAT32, INT8] if system.name in self.folders else []
        return [Variant(system, engine) for engine in (FAIRSEQ, *converted)]

    def folder(self, variant: Variant) -> Path:
        """What CTranslate2 reads of a variant."""
        from fairseq_kd.sequence.conversion import form

        return form(self.folders[variant.system.name], COMPUTE_TYPES[variant.engine], "cpu")


def convert_all(systems: Sequence[System], subset: Subset, cache: "Path | None") -> Converted:
    """Converts every system for CTranslate2 that can be, or takes it from the cache.

    Args:
        systems: to be converted.
        subset: whose sentences prove that a conversion scores as fairseq does.
        cache: folder for converted models; None for the usual one.
    """
    try:
        import ctranslate2  # noqa: F401

        from fairseq_kd.sequence.conversion import CannotConvertError, converted, default_cache
    except ImportError:
        told = f"CTranslate2 is not installed ({INSTALL})"
        print(f"{told}, so only fairseq is measured", file=sys.stderr)
        return Converted({}, {system.name: told for system in systems})
    result = Converted({}, {})
    for system in systems:
        try:
            folder = converted(system.model, system.sha256, subset, cache or default_cache())
            result.folders[system.name] = folder
        except CannotConvertError as error:
            result.refusals[system.name] = str(error)
            print(f"{system.name}: {error}; only fairseq runs it", file=sys.stderr)
    return result


def build_engine(
    variant: Variant,
    converted: Converted,
    subset: Subset,
    search: Search,
    *,
    workers: int = 1,
    threads: int = 1,
) -> Engine:
    """The engine of a variant.

    Args:
        variant: what to run.
        converted: where its converted form lies.
        subset: what it will translate.
        search: how.
        workers: batches that CTranslate2 translates at the same time.
        threads: that it puts to one batch; fairseq takes all threads of torch.
    """
    if variant.engine == FAIRSEQ:
        return FairseqEngine([variant.system.model], search, "cpu")
    from fairseq_kd.sequence.ctranslate2_engine import CTranslate2Engine

    return CTranslate2Engine(
        converted.folder(variant),
        subset.source_words,
        variant.system.model.model.max_decoder_positions(),
        search,
        device="cpu",
        compute_type=COMPUTE_TYPES[variant.engine],
        workers=workers,
        threads=threads,
    )
