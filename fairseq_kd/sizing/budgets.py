"""Ladders whose student fits a budget of parameters, of megabytes or of milliseconds."""

import re
import statistics
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Callable, List, NamedTuple, Tuple, Union

import torch

from fairseq_kd.evaluation.size import folder_bytes
from fairseq_kd.files.temporary_folders import temporary_folder
from fairseq_kd.files.write_errors import writing
from fairseq_kd.sizing.ladder import (
    SMALLEST_RATIO,
    Size,
    buildable,
    distinct_sizes,
    ratios_to,
)
from fairseq_kd.sizing.teacher_structure import TeacherStructure

QUANTIZATION = "int8"
TOKENS = 20  # of the sentence and of its translation
WARM_UP, ROUNDS = 3, 25
MB = 1_000_000
MOST_PARAMETERS = 1e12
UNITS = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}


class Budget(NamedTuple):
    """An upper limit on the cost of a student.

    Args:
        flag: the flag or key of the limit.
        limit: the limit.
        cost: a function from a size to its cost.
        unit: the unit of both, such as ms.
    """

    flag: str
    limit: float
    cost: Callable[[Size], float]
    unit: str

    def shown(self, cost: float) -> str:
        """A cost with its unit."""
        if isinstance(cost, int):
            return f"{cost:,} {self.unit}"
        return f"{cost:,.1f} {self.unit}" if cost >= 1 else f"{cost:.2g} {self.unit}"


def parameter_budget(structure: TeacherStructure, limit: int, flag: str = "--parameters") -> Budget:
    """A limit on the parameters of the model that fairseq builds."""
    return Budget(flag, limit, structure.parameters, "parameters")


def count_of(text: Union[int, str], flag: str = "--parameters") -> int:
    """Parses a number of parameters: 600000, 600K, 10M or 1.5B.

    Raises:
        ValueError: it is not a number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", str(text).replace(",", "").upper())
    count = float(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < count <= MOST_PARAMETERS:
        raise ValueError(f"{flag} must be a number such as 600000 or 10M, but is {text}.")
    return round(count)


def ladder_within(
    structure: TeacherStructure,
    parameters: Union[int, str],
    strategy: str,
    factor: float,
    flag: str = "parameters",
) -> List[float]:
    """The ratios of a ladder to the largest stage within a number of parameters.

    Args:
        structure: the teacher's.
        parameters: the limit, as ``count_of`` reads it.
        strategy: one of STRATEGIES.
        factor: the ratio of a stage to the one before.
        flag: the flag or key of the limit.

    Raises:
        ValueError: the limit is not a number, too small for every stage, or large enough for the
            teacher.
    """
    limit = count_of(parameters, flag)
    return ladder_to(structure, parameter_budget(structure, limit, flag), strategy, factor)


def ladder_to(
    structure: TeacherStructure, budget: Budget, strategy: str, factor: float
) -> List[float]:
    """The ratios of a ladder that ends with the largest stage within a budget.

    Args:
        structure: the teacher's.
        budget: the last stage's.
        strategy: one of STRATEGIES.
        factor: the ratio of a stage to the one before; equal stages are left out.

    Raises:
        ValueError: the budget is too small for every stage, or large enough for the teacher.
    """
    ratio, _ = largest_within(structure, budget, strategy)
    return buildable(structure.size, ratios_to(ratio, factor), strategy)


def largest_within(
    structure: TeacherStructure, budget: Budget, strategy: str
) -> Tuple[float, float]:
    """The ratio and the cost of the largest stage within a budget, by bisection.

    Raises:
        ValueError: the budget is too small for every stage, or large enough for the teacher.
    """
    candidates = distinct_sizes(structure.size, strategy)  # from large to small
    fits, cost = len(candidates) - 1, budget.cost(candidates[-1][1])
    if cost > budget.limit:
        raise ValueError(_too_small(structure, budget, strategy, cost))
    too_large = -1  # the teacher, which is measured last: it takes longest
    while fits - too_large > 1:
        middle = (fits + too_large) // 2
        measured = budget.cost(candidates[middle][1])
        if measured <= budget.limit:
            fits, cost = middle, measured
        else:
            too_large = middle
    if fits == 0:
        whole = budget.cost(structure.size)
        if whole <= budget.limit:
            raise ValueError(
                f"{budget.flag} allows {budget.shown(budget.limit)}, and the teacher has no more "
                f"than {budget.shown(whole)}. The nearest ladder that can be built is "
                f"1.0,{candidates[0][0]}, with {budget.shown(cost)}."
            )
    return candidates[fits][0], cost


def _too_small(structure: TeacherStructure, budget: Budget, strategy: str, cost: float) -> str:
    ratio, size = distinct_sizes(structure.size, strategy)[-1]
    ladder = buildable(structure.size, ratios_to(ratio), strategy)
    embeddings = structure.embedding_parameters(size)
    return (
        f"{budget.flag} allows {budget.shown(budget.limit)}, but the smallest stage that the "
        f"strategy {strategy} builds at a ratio of at least {SMALLEST_RATIO} has "
        f"{budget.shown(cost)}: {size}, with {embeddings:,} parameters in its embeddings alone. "
        f"The nearest ladder that can be built is {','.join(map(str, ladder))}."
    )


def size_budget(structure: TeacherStructure, limit_mb: float) -> Budget:
    """A limit on the size of the int8 model for CTranslate2, with made-up dictionaries."""

    def cost(size: Size) -> float:
        with temporary_folder() as folder, writing(folder.parent, folder.parent):
            megabytes = folder_bytes(write_random(structure, size, folder)) / MB
        _print_measured(size, f"{megabytes:,.1f} MB")
        return megabytes

    return Budget("--size-mb", limit_mb, cost, "MB")


def latency_budget(structure: TeacherStructure, limit_ms: float, threads: int) -> Budget:
    """A limit on the latency of greedy search for one sentence, TOKENS in and out."""

    def cost(size: Size) -> float:
        with temporary_folder() as folder, writing(folder.parent, folder.parent):
            latency_ms = median_latency_ms(write_random(structure, size, folder), threads)
        _print_measured(size, f"{latency_ms:,.1f} ms")
        return latency_ms

    return Budget("--latency-ms", limit_ms, cost, "ms")


def write_random(structure: TeacherStructure, size: Size, folder: Path) -> Path:
    """Writes a stage for CTranslate2, with random weights: size and speed do not depend on them.

    Args:
        structure: the teacher's.
        size: the stage's.
        folder: an existing folder to write into.

    Returns:
        The folder of the converted model.
    """
    from ctranslate2.converters import FairseqConverter

    model, args = structure.build(size)
    for side, dictionary in zip(("source", "target"), structure.dictionaries, strict=True):
        dictionary.save(str(folder / f"dict.{side}.txt"))
    task = {"task": "translation", "source_lang": "source", "target_lang": "target"}
    checkpoint = folder / "random.pt"
    state = {"args": Namespace(**vars(args), **task), "model": model.state_dict()}
    with checkpoint.open("wb") as file:
        torch.save(state, file)
    del model, state
    out = folder / "converted"
    FairseqConverter(str(checkpoint), str(folder)).convert(str(out), quantization=QUANTIZATION)
    return out


def median_latency_ms(model: Path, threads: int) -> float:
    """The median time of a converted model for one sentence at a time, in ms.

    Args:
        model: the folder of the model.
        threads: the number of threads for the sentence.
    """
    import ctranslate2

    translator = ctranslate2.Translator(
        str(model), compute_type=QUANTIZATION, inter_threads=1, intra_threads=threads
    )
    sentence = [[f"word{number}" for number in range(TOKENS)]]
    lengths = {"min_decoding_length": TOKENS, "max_decoding_length": TOKENS}
    times = []
    for _ in range(WARM_UP + ROUNDS):
        start = time.perf_counter()
        translator.translate_batch(sentence, beam_size=1, **lengths)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[WARM_UP:])


def _print_measured(size: Size, cost: str) -> None:
    print(f"measured {size}: {cost}", file=sys.stderr)
