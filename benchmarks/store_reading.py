"""The time that a store takes of the training process, and of the data loader's processes.

usage: python benchmarks/store_reading.py [--vocab-size 32000] [--sentences 320] [--rounds 50]

A batch of random sentences of 25 tokens, K = 64. The training process is measured with tensors that
hold nothing (device ``meta``), so that only its own work counts, and not that of a GPU. Appends to
benchmarks/results.csv.
"""

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any, Dict

import torch
import training
from fairseq.utils import apply_to_sample
from measuring import interleaved_seconds, record

from fairseq_kd.models.real_tokens import PREPARED, RealTokens


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--sentences", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    training.SIZES = ("transformer_kd_small_student", "transformer_kd_small_student")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training.quietly(lambda: training.prepare(folder, args.vocab_size, args.sentences))
        made = training.quietly(functools.partial(training.training, folder, "store", "fp32"))
        criterion, (teacher,) = made.trainer.criterion, made.trainer.criterion.teachers
        batch = made.batch
        on_gpu: Dict[str, Any] = apply_to_sample(lambda tensor: tensor.to("meta"), batch)
        real = RealTokens(criterion.real_mask(on_gpu), on_gpu[PREPARED]["positions"])
        whole = slice(0, len(real.positions))

        def in_training() -> None:
            teacher.soft_targets(on_gpu, real)[whole].distribution_(2.0)

        runs = {
            "in the training process": in_training,
            "in the data loader": lambda: teacher.records(batch, criterion.real_mask(batch)),
        }
        times = interleaved_seconds(runs, args.rounds)
    shape = f"{len(batch[PREPARED]['positions'])} tokens, K=64, V={args.vocab_size}"
    for case, seconds in times.items():
        record("store", f"{case}: {shape}", "ms an update", [1000 * each for each in seconds])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
