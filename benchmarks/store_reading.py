"""The time that a store takes of the training process, and of the data loader's processes.

usage: python benchmarks/store_reading.py [--vocab-size 32000] [--sentences 320] [--rounds 50]

A batch of random sentences of 25 tokens, K = 64. In the training process it is prepared already;
what remains does not depend on its size but for the work of the GPU, and is measured with a single
token, so that only the work of the processor counts. Appends to benchmarks/results.csv.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import torch
import training
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
        parts = batch[PREPARED]
        content = {store: each[:1] for store, each in parts["records"].items()}
        one = {**batch, PREPARED: {**parts, "records": content}}
        real = RealTokens(criterion.real_mask(batch), parts["positions"][:1])

        def in_training() -> None:
            teacher.soft_targets(one, real)[0:1].distribution_(2.0)

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
