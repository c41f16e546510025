"""Runs fairseq as its users do, and builds in this process what fairseq-train builds."""

import argparse
import copy
import functools
import lzma
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from omegaconf import DictConfig

from fairseq_kd.child_process import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
USER_DIR = str(ROOT / "user_dir")
CORPUS = ROOT / "data" / "bible.es-en"
PAIR = ["--source-lang", "es", "--target-lang", "en"]
SIZE = ["--arch", "transformer", "--share-all-embeddings", "--encoder-normalize-before"]
SIZE += ["--decoder-normalize-before"]
for _side in ("encoder", "decoder"):
    SIZE += [f"--{_side}-layers", "1", f"--{_side}-embed-dim", "16"]
    SIZE += [f"--{_side}-ffn-embed-dim", "32", f"--{_side}-attention-heads", "2"]
TRAINING = [*PAIR, *SIZE, "--optimizer", "adam", "--lr", "0.003", "--max-tokens", "1000"]
TRAINING += ["--seed", "3", "--cpu", "--no-epoch-checkpoints", "--log-format", "json"]
TRAINING += ["--log-interval", "1"]
TRAINING += ["--data-buffer-size", "0"]  # its thread, cut off at the end, can abort the process
_CONVERTED = {}  # pickled configurations by their flags
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
ENVIRONMENT["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def run(*command, cwd=ROOT, env=None, check=True):
    """Runs a command, and shows its output where it fails."""
    result = subprocess.run(
        [str(word) for word in command],
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
        cwd=cwd,
        env={**ENVIRONMENT, **(env or {})},
        text=True,
        capture_output=True,
    )
    output = result.stdout[-3000:] + result.stderr[-3000:]
    assert result.returncode == 0 or not check, f"{command}\n{output}"
    return result


def write_text(folder, sizes):
    """The first so many verses of each set of the corpus, as plain text."""
    folder.mkdir(parents=True)
    for name, size in sizes.items():
        for lang in ("es", "en"):
            with lzma.open(CORPUS / f"{name}.{lang}.xz", "rt", encoding="utf-8") as file:
                lines = [next(file) for _ in range(size)]
            (folder / f"{name}.{lang}").write_text("".join(lines), encoding="utf-8")
    return folder


def copy_dictionaries(data, folder):
    """Those of a data folder, in another one, which is made if need be."""
    folder.mkdir(exist_ok=True)
    for path in Path(data).glob("dict.*.txt"):
        shutil.copy(path, folder)
    return folder


def parsed(data, *flags, training=TRAINING):
    """The configuration that fairseq-train makes of a command line.

    fairseq takes half a second for that, and most command lines differ in flags of ours alone,
    which are set afterwards.
    """
    args = namespace(data, *flags, training=training)
    ours = {name: value for name, value in vars(args).items() if name.startswith("kd_")}
    others = {name: value for name, value in vars(args).items() if name not in ours}
    if repr(others) not in _CONVERTED:
        cfg = convert_namespace_to_omegaconf(argparse.Namespace(**others))
        _CONVERTED[repr(others)] = pickle.dumps(cfg)
    cfg = pickle.loads(_CONVERTED[repr(others)])  # deepcopy would share the Namespaces in it
    for group in map(cfg._get_node, cfg):
        plain = group._value()
        if isinstance(plain, argparse.Namespace):  # holds all flags
            vars(plain).update(ours)
        elif isinstance(group, DictConfig) and isinstance(plain, dict):
            for name in ours.keys() & plain.keys():
                group[name] = ours[name]
    return cfg


def namespace(data, *flags, training=TRAINING):
    """The flags of a command line of fairseq-train."""
    words = [data, *training, *map(str, flags), "--user-dir", USER_DIR]
    return options.parse_args_and_arch(options.get_training_parser(), words)


LSTM = [  # without TRAINING, whose model is a transformer
    *("--source-lang", "es", "--target-lang", "en", "--arch", "lstm", "--optimizer", "adam"),
    *("--lr", "0.1", "--max-tokens", "500", "--cpu", "--no-save-optimizer-state"),
    *("--encoder-embed-dim", "8", "--encoder-hidden-size", "8", "--decoder-embed-dim", "8"),
    *("--decoder-hidden-size", "8", "--decoder-out-embed-dim", "8"),
]


class Setup:
    """A task, a model and a criterion as fairseq-train builds them, in this process."""

    def __init__(self, data, *flags, training=TRAINING):
        self.cfg = parsed(data, *flags, training=training)
        torch.manual_seed(1)
        self.task = tasks.setup_task(self.cfg.task)
        self.model = self.task.build_model(self.cfg.model)
        self.criterion = self.task.build_criterion(self.cfg.criterion)
        self.task.load_dataset("valid")
        self.dataset = self.task.dataset("valid")

    def save(self, path):
        """Writes the model as a fairseq checkpoint."""
        trainer = Trainer(self.cfg, self.task, self.model, self.criterion)
        trainer.save_checkpoint(str(path), {})
        return path

    def batch(self, *indices):
        """The collated sentences of the validation set at these indices."""
        return self.dataset.collater([self.dataset[index] for index in indices])

    def gradients(self, *samples, train=False):
        """The gradients that the sum of the losses of some batches gives the model."""
        self.model.train(train)
        self.model.zero_grad()
        for sample in samples:
            self.criterion(self.model, sample)[0].backward()
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])


def widened(sample, pad, width):
    """The same batch with more padding: sources at the left, targets at the right."""
    sample = copy.deepcopy(sample)
    inputs = sample["net_input"]

    def more(tokens):
        return tokens.new_full((len(tokens), width), pad)

    inputs["src_tokens"] = torch.cat([more(inputs["src_tokens"]), inputs["src_tokens"]], 1)
    previous = inputs["prev_output_tokens"]
    inputs["prev_output_tokens"] = torch.cat([previous, more(previous)], 1)
    sample["target"] = torch.cat([sample["target"], more(sample["target"])], 1)
    if "pivot_links" in sample:
        sample["pivot_links"][:, 1] += width  # positions in the source, its padding counted
    return sample
