"""Steps that run at the same time on one machine: a place for each, with a GPU of its own."""

import fcntl
import os
import time
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Dict, Iterator, List

from fairseq_kd.flag_types import Range, from_environment
from fairseq_kd.machine import gpu_names
from fairseq_kd.whole_files import own_file

PLACES = "FAIRSEQ_KD_PLACES"  # how many steps run at the same time, as the driver says
VISIBLE = "CUDA_VISIBLE_DEVICES"
PAUSE_SECONDS = 0.2


@contextmanager
def own_place(folder: Path) -> Iterator[Dict[str, str]]:
    """Takes one of the places for as long as it is open, and gives what to set for its commands.

    The k-th of several places has the GPU k modulo their number. A place is the lock of a file,
    which a process that is killed gives back. It is waited for: Snakemake 9.15 counts the cores of
    a step that ended alone as free twice, and then starts one step too many.

    Args:
        folder: where the locks are.
    """
    count = places()
    if count == 1:
        yield {}
        return
    while True:
        for number in range(count):
            with open(folder / f".place-{number}", "a", opener=own_file) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                gpus = visible_gpus()
                yield {VISIBLE: gpus[number % len(gpus)]} if gpus else {}
                return
        time.sleep(PAUSE_SECONDS)


def places() -> int:
    """How many steps run at the same time on this machine.

    Raises:
        ValueError: ``FAIRSEQ_KD_PLACES`` is no such number.
    """
    return from_environment(PLACES, Range(int, 1, 1000), 1)


def visible_gpus() -> List[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    told = os.environ.get(VISIBLE)
    if told is not None:
        names = (name.strip() for name in told.split(","))
        return list(takewhile(lambda name: name not in ("", "-1"), names))  # CUDA stops there too
    return [str(number) for number in range(len(gpu_names()))]
