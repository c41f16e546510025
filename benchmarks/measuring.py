"""Measurements of the benchmarks: interleaved times, peak memory, output to one CSV file."""

import argparse
import csv
import ctypes
import datetime
import gc
import multiprocessing
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fairseq_kd import __version__
from fairseq_kd.child_process import die_with_parent
from fairseq_kd.machine import machine

RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = ("benchmark", "case", "unit", "median", "spread", "n", "machine", "date", "version")
MIB = 2**20


def translation_parser(description: str) -> argparse.ArgumentParser:
    """The parser of a benchmark that translates a set."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="the models' binarised data")
    parser.add_argument("--subset", default="test")
    parser.add_argument("--beam", type=int, default=5)
    return parser


def interleaved_seconds(cases: Dict[str, Callable[[], Any]], rounds: int) -> Dict[str, List[float]]:
    """Times of interleaved cases after a warm-up, so that other load affects all of them."""
    times: Dict[str, List[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, run in cases.items():
            synchronise()
            start = time.perf_counter()
            run()
            synchronise()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def synchronise() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mib(make: Callable[[], Callable[[], Any]], whole_process: bool = False) -> float:
    """The peak memory that a call adds, measured in a process of its own.

    Call it before anything else is computed: a process that is split off from one whose OpenMP
    threads have started cannot start its own.

    Args:
        make: prepares the call.
        whole_process: count what was there before the call, too.
    """
    if torch.cuda.is_available():
        run = make()
        gc.collect()  # of what was measured before
        torch.cuda.reset_peak_memory_stats()
        before = 0 if whole_process else torch.cuda.memory_allocated()
        with mock.patch("torch.cuda.reset_peak_memory_stats"):  # fairseq does it in every update
            run()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    context = multiprocessing.get_context("fork")
    parent, child = context.Pipe()

    own = os.getpid()

    def measured() -> None:
        die_with_parent(own)
        run = make()
        ctypes.CDLL(None).malloc_trim(0)  # what is free already must be asked for again
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark so far
        before = 0 if whole_process else status_mib("VmRSS")
        run()
        child.send(status_mib("VmHWM") - before)

    process = context.Process(target=measured)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the measured process ended with {process.exitcode}")
    return parent.recv()


def status_mib(field: str) -> float:
    """A field of Linux's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ratios(times: Dict[str, List[float]], over: str, under: str) -> List[float]:
    """The paired ratios of two cases, one a round."""
    return [a / b for a, b in zip(times[over], times[under], strict=True)]


def record(
    benchmark: str, case: str, unit: str, values: List[float], middle: Optional[float] = None
) -> None:
    """Prints the median and the interquartile range of a figure, and appends it to the CSV.

    Args:
        benchmark: which one.
        case: what was measured.
        unit: of the figure.
        values: one a round.
        middle: the value to report instead of the median.
    """
    median = statistics.median(values) if middle is None else middle
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [median] * 3
    spread = quartiles[2] - quartiles[0]
    print(f"{benchmark:10} {case:58} {median:10.4g} {unit:12} +- {spread:.2g} (n={len(values)})")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else machine()
    today = datetime.date.today().isoformat()
    row = [benchmark, case, unit, f"{median:.4g}", f"{spread:.2g}", len(values), device, today]
    new = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow([*row, f"fairseq_kd {__version__}, torch {torch.__version__}"])
