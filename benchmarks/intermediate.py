"""Time that hidden states and attention add to a step of word_kd, with both models.

usage: python benchmarks/intermediate.py [--sentences 16] [--length 24] [--vocab-size 8000]
                                         [--rounds 9]

A 6+6-layer, 256-wide student and a 12+12-layer, 512-wide teacher, neither trained, on sentences of
random words, half of them shorter. Steps of all cases take turns in one process. Figures are
appended to benchmarks/results.csv.
"""

import argparse
import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict

import torch
from fairseq import options, tasks
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from measuring import interleaved_seconds, ratios, record
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
ONE, ALL = "last", "uniform"
CASES = {
    "word_kd": ["word_kd"],
    "feature_kd, one layer a side": ["feature_kd", "--kd-feature-layers", ONE],
    "feature_kd, all layers": ["feature_kd", "--kd-feature-layers", ALL],
    "attention_kd, one layer a side": ["attention_kd", "--kd-attention-layers", ONE],
    "attention_kd, all layers": ["attention_kd", "--kd-attention-layers", ALL],
    "attention_kd learned, all layers": ["attention_kd", "--kd-attention-heads", "learned"],
    "attention_kd relation, one layer a side": [
        *["attention_kd", "--kd-attention-heads", "relation", "--kd-attention-layers", ONE]
    ],
    "attention_kd relation, all layers": ["attention_kd", "--kd-attention-heads", "relation"],
    "hybrid_kd, one layer a side": [
        *["hybrid_kd", "--kd-feature-layers", ONE, "--kd-attention-layers", ONE]
    ],
    "hybrid_kd, all layers": ["hybrid_kd"],
}


def built(data: str, arch: str, *flags: str):
    """The configuration, task, model and criterion of a fairseq-train command."""
    command = [data, "--user-dir", str(ROOT / "user_dir"), "--arch", arch, "--optimizer", "adam"]
    command += ["--source-lang", "a", "--target-lang", "b", "--share-all-embeddings", "--cpu"]
    command += ["--max-tokens", "9999", "--lr", "0.001", "--no-save-optimizer-state"]
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, [*command, "--criterion", *flags])
    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    return cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion)


def random_batch(dictionary: Dictionary, n_sentences: int, length: int):
    """A collated batch: every second sentence has two thirds of the length."""
    generator = torch.Generator().manual_seed(1)
    sizes = [length if i % 2 else 2 * length // 3 for i in range(n_sentences)]
    lines = [
        [torch.randint(4, len(dictionary), (size,), generator=generator) for size in sizes]
        for _ in range(2)
    ]
    for side in lines:
        for line in side:
            line[-1] = dictionary.eos()
    pairs = LanguagePairDataset(lines[0], sizes, dictionary, lines[1], sizes, dictionary)
    return pairs.collater([pairs[i] for i in range(n_sentences)])


def steps(folder: Path, args: argparse.Namespace) -> Dict[str, Callable[[], None]]:
    """A training step of each case, without the optimizer's."""
    lines = "\n".join(f"w{i} 1" for i in range(args.vocab_size))
    for name in ("dict.a.txt", "dict.b.txt"):
        (folder / name).write_text(lines + "\n", encoding="utf-8")
    cfg, task, model, criterion = built(
        str(folder), "transformer_kd_teacher", "label_smoothed_cross_entropy"
    )
    teacher = str(folder / "teacher.pt")
    Trainer(cfg, task, model, criterion).save_checkpoint(teacher, {})
    batch = random_batch(task.source_dictionary, args.sentences, args.length)
    made = {}
    for case, flags in CASES.items():
        _, _, model, criterion = built(
            str(folder), "transformer_kd_student", *flags, "--kd-teacher", teacher
        )
        made[case] = partial(step, model.train(), criterion.train(), batch)
    return made


def step(model: nn.Module, criterion: nn.Module, batch: Dict[str, Any]) -> None:
    """The loss of a batch and its gradients."""
    model.zero_grad()
    criterion.zero_grad()
    criterion(model, batch)[0].backward()


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=16)
    parser.add_argument("--length", type=int, default=24, help="words of the longer sentences")
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        times = interleaved_seconds(steps(Path(folder), args), args.rounds)
    shape = f"{args.sentences} x {args.length}, {args.vocab_size} words"
    record("intermediate", f"word_kd: {shape}", "ms", [1000 * t for t in times["word_kd"]])
    for case in list(CASES)[1:]:
        ratio = ratios(times, case, "word_kd")
        record("intermediate", f"{case} / word_kd: {shape}", "time ratio", ratio)


if __name__ == "__main__":
    main()
