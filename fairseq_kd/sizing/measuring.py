"""What a rung costs on this machine before it is trained: as CTranslate2 runs it, in int8.

Neither bytes nor time depend on what the weights are, so that they are random.
"""

import statistics
import sys
import tempfile
import time
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import ctranslate2
import torch
from ctranslate2.converters import FairseqConverter

from fairseq_kd.evaluation.size import folder_bytes
from fairseq_kd.sizing.budgets import Budget
from fairseq_kd.sizing.ladder import Size
from fairseq_kd.sizing.structure import Blueprint
from fairseq_kd.write_errors import writing

QUANTIZATION = "int8"
TOKENS = 20  # of the sentence that is translated, and of its translation
WARM_UP, ROUNDS = 3, 25
MB = 1_000_000


def size_budget(blueprint: Blueprint, limit_mb: float) -> Budget:
    """So many megabytes of the converted model, its vocabularies with stand-ins for words."""

    def cost(size: Size) -> float:
        with _temporary_folder() as folder:
            megabytes = folder_bytes(write_random(blueprint, size, folder)) / MB
        _tell(size, f"{megabytes:,.1f} MB")
        return megabytes

    return Budget("--size-mb", limit_mb, cost, "MB")


def latency_budget(blueprint: Blueprint, limit_ms: float, threads: int) -> Budget:
    """So many milliseconds for a sentence alone, greedily, of TOKENS in and out."""

    def cost(size: Size) -> float:
        with _temporary_folder() as folder:
            latency_ms = median_latency_ms(write_random(blueprint, size, folder), threads)
        _tell(size, f"{latency_ms:,.1f} ms")
        return latency_ms

    return Budget("--latency-ms", limit_ms, cost, "ms")


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    disk = Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory() as folder, writing(disk, disk):
        yield Path(folder)


def write_random(blueprint: Blueprint, size: Size, folder: Path) -> Path:
    """Writes a rung with random weights as CTranslate2 reads it.

    Args:
        blueprint: of the teacher.
        size: of the rung.
        folder: to write into.

    Returns:
        The folder of the converted model.
    """
    model, args = blueprint.build(size)
    for side, dictionary in zip(("source", "target"), blueprint.dictionaries, strict=True):
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
    """The median time to translate a sentence alone, by a converted model.

    Args:
        model: its folder.
        threads: that work on the sentence together.
    """
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


def _tell(size: Size, cost: str) -> None:
    print(f"measured {size}: {cost}", file=sys.stderr)
