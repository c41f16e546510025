"""A whole update of a small student: plain, distilled from a live teacher, and from a store.

usage: python benchmarks/training.py [--vocab-size 32000] [--sentences 80] [--rounds 5]
           [--precision fp16]

Student: transformer_kd_student (6+6 layers, 256 wide); teacher: transformer_kd_teacher (12+12
layers, 512 wide); both untrained, on sentences of random words, which take as long as real ones.
Every case runs fairseq's own Trainer with Adam. Appends to benchmarks/results.csv:

    update             time of an update, and its ratio to the plain one
    peak memory        of a whole process that trains
"""

import argparse
import contextlib
import functools
import io
import logging
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
from measuring import MIB, interleaved_seconds, peak_mib, ratios, record

SIZES = ("transformer_kd_teacher", "transformer_kd_student")
SENTENCE_WORDS = 24
CASES = ("plain", "live", "live, compiled", "store")


def make_data(folder: Path, words: int, sentences: int) -> None:
    """Binarises sentences of random words with a joint dictionary of a given size."""
    from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for number in range(words - len(dictionary)):
        dictionary.add_symbol(f"w{number}", 1)
    random.seed(1)
    for language in ("de", "en"):
        dictionary.save(str(folder / f"dict.{language}.txt"))
        lines = [random.choices(dictionary.symbols[4:], k=SENTENCE_WORDS) for _ in range(sentences)]
        text = folder / f"text.{language}"
        text.write_text("".join(" ".join(line) + "\n" for line in lines))
        FileBinarizer.multiprocess_dataset(
            str(text),
            "mmap",
            VocabularyDatasetBinarizer(dictionary, append_eos=True),
            str(folder / f"train.de-en.{language}"),
            vocab_size=words,
        )


class Training:
    """One of the cases, set up as fairseq-train sets it up, with one batch."""

    def __init__(self, data: Path, arch: str, precision: str, *flags_of_criterion: str):
        from fairseq import options, tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf
        from fairseq.trainer import Trainer

        flags = [str(data), "--user-dir", str(Path(__file__).parents[1] / "user_dir")]
        flags += ["--arch", arch, "--share-all-embeddings", "--optimizer", "adam", "--lr", "1e-4"]
        flags += ["--max-tokens", "100000", "--label-smoothing", "0.1", "--disable-validation"]
        flags += [] if torch.cuda.is_available() else ["--cpu"]
        flags += [f"--{precision}"] if precision != "fp32" else []
        parser = options.get_training_parser()
        args = options.parse_args_and_arch(parser, [*flags, "--criterion", *flags_of_criterion])
        self.cfg = convert_namespace_to_omegaconf(args)
        self.task = tasks.setup_task(self.cfg.task)
        model = self.task.build_model(self.cfg.model)
        criterion = self.task.build_criterion(self.cfg.criterion)
        self.task.load_dataset(
            "train"
        )  # as late as in fairseq-train: the criterion prepares batches
        self.trainer = Trainer(self.cfg, self.task, model, criterion)
        dataset = self.task.dataset("train")
        self.batch = dataset.collater([dataset[number] for number in range(len(dataset))])

    def update(self) -> Dict[str, Any]:
        """Forward, backward and Adam."""
        return self.trainer.train_step([self.batch])


def prepare(folder: Path, words: int, sentences: int) -> None:
    """The data, a teacher and its store; in a process of its own."""
    from fairseq_kd.shard import Shard
    from fairseq_kd.teachers.store_building import StoreBuilder
    from fairseq_kd.teachers.store_merging import merge_subset

    data = folder / "data"
    data.mkdir()
    make_data(data, words, sentences)
    criterion = ("label_smoothed_cross_entropy", "--no-save-optimizer-state")
    teacher = Training(data, SIZES[0], "fp32", *criterion)
    teacher.trainer.save_checkpoint(str(folder / "teacher.pt"), {})
    builder = StoreBuilder(
        teacher=str(folder / "teacher.pt"),
        data=str(data),
        out=folder / "store",
        topk=64,
        dtype="float32",
        max_tokens=2000,
        part_sentences=4096,
    )
    builder.build("train", Shard())
    merge_subset(folder / "store", "train")


def training(folder: Path, case: str, precision: str) -> Training:
    """A case, ready to train."""
    criterion: Dict[str, List[str]] = {
        "plain": ["label_smoothed_cross_entropy"],
        "live": ["word_kd", "--kd-teacher", str(folder / "teacher.pt")],
        "live, compiled": ["word_kd", "--kd-teacher", str(folder / "teacher.pt"), "--kd-compile"],
        "store": ["word_kd", "--kd-store", str(folder / "store")],
    }
    return Training(folder / "data", SIZES[1], precision, *criterion[case])


def on_device(sample: Dict[str, Any]) -> Dict[str, Any]:
    """A batch where the models are."""
    from fairseq.utils import move_to_cuda

    return move_to_cuda(sample) if torch.cuda.is_available() else sample


def quietly(run: Callable[[], Any]) -> Any:
    """Runs without fairseq's output."""
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stderr(io.StringIO()):
        return run()


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--sentences", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "bf16", "amp"))
    args = parser.parse_args()
    shape = f"{args.sentences * (SENTENCE_WORDS + 1)} tokens, V={args.vocab_size}"
    shape += f", {args.precision}" if args.precision != "fp32" else ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peak_mib(lambda: lambda: quietly(lambda: prepare(folder, args.vocab_size, args.sentences)))

        def two_updates(case: str) -> Callable[[], None]:
            def run() -> None:
                prepared = quietly(lambda: training(folder, case, args.precision))
                for _ in range(2):
                    prepared.update()

            return run

        memory = {
            case: peak_mib(lambda case=case: two_updates(case), whole_process=True)
            for case in CASES
        }
        for case, peak in memory.items():
            record("training", f"{case}: {shape}", "peak MiB", [peak])
        made = functools.partial(training, folder, precision=args.precision)
        cases = {case: quietly(functools.partial(made, case)) for case in CASES}
        live = cases["live"].trainer.criterion
        sample = on_device(cases["live"].batch)
        runs = {case: each.update for case, each in cases.items()}
        runs["teacher forward"] = lambda: live.teachers[0].model(**sample["net_input"])
        times = quietly(lambda: interleaved_seconds(runs, args.rounds))
    for case, seconds in times.items():
        record("training", f"{case}: {shape}", "ms an update", [1000 * s for s in seconds])
    together = [a + b for a, b in zip(times["plain"], times["teacher forward"], strict=True)]
    record("training", f"plain / store: {shape}", "time ratio", ratios(times, "plain", "store"))
    weights = sum(p.nbytes for p in live.teachers[0].model.parameters()) / MIB
    below = memory["live"] / (memory["plain"] + weights)
    record("training", f"live / (plain + teacher's weights): {shape}", "memory ratio", [below])
    for case in CASES[1:3]:
        over = [a / b for a, b in zip(times[case], together, strict=True)]
        record("training", f"{case} / (plain + teacher): {shape}", "time ratio", over)


if __name__ == "__main__":
    sys.exit(main())
