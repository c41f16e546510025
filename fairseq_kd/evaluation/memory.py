"""The most memory that translating and training take, each measured in a process of its own.

The processes are split off from one that has imported everything and computed nothing: they start
at once, and with threads of their own.
"""

import ctypes
import multiprocessing
import os
import resource
import sys
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

import torch
from fairseq.data import data_utils
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from torch import Tensor, nn

import fairseq_kd.plugin  # noqa: F401  (the architectures and criterions that a checkpoint may name)
from fairseq_kd.child_process import begin_worker
from fairseq_kd.criterions.word_kd import WordKDConfig
from fairseq_kd.evaluation.size import weight_bytes
from fairseq_kd.evaluation.variants import FAIRSEQ, Converted, Variant, build_engine
from fairseq_kd.sequence.engine import Batch, Engine
from fairseq_kd.sequence.fairseq_engine import FairseqEngine
from fairseq_kd.sequence.search import Search
from fairseq_kd.sequence.subset import Subset
from fairseq_kd.sequence.teachers import Checkpoint, load_checkpoint
from fairseq_kd.teachers.loading import load_teacher

TRAINING_TOKENS = 1000  # target tokens of the measured step, as --max-tokens 1000
PRELOADED = ["fairseq_kd.quiet", __name__, "torch._dynamo"]
Work = Callable[[], Any]


class Memory(NamedTuple):
    """Bytes that a process holds once it is prepared, and that its work adds at the most."""

    held: int
    added: int


def get_ready() -> None:
    """Begins to import what ``measured`` needs, in another process: else its first call waits.

    torch imports ``_dynamo`` where an optimizer is first made: that is no part of the work.
    """
    if sys.platform == "linux":
        multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()


def measured(prepare: Callable[[], Work]) -> Optional[Memory]:
    """What a call needs, in a process of its own.

    Args:
        prepare: makes the call; it can be pickled, and runs in the other process.

    Returns:
        None where the system does not tell.

    Raises:
        RuntimeError: the other process failed.
    """
    if sys.platform != "linux":
        return None
    context = multiprocessing.get_context("forkserver")
    get_ready()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(prepare, torch.get_num_threads(), sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        told = f"the process that measured memory ended with {process.exitcode}"
        raise RuntimeError(told) from None
    finally:
        process.join()


def _measure(prepare: Callable[[], Work], threads: int, sender: Connection) -> None:
    begin_worker(os.getppid())  # the fork server, which ends with the process that started it
    if not multiprocessing.parent_process().is_alive():
        return
    torch.set_num_threads(threads)
    try:
        start = trimmed_bytes()
    except OSError:  # a container may forbid it
        sender.send(None)
        return
    work = prepare()
    before = trimmed_bytes()
    work()
    sender.send(Memory(max(0, before - start), max(0, status_bytes("VmHWM") - before)))


def trimmed_bytes() -> int:
    """What this process holds now, after it gave back what is free and forgot its highest mark."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def status_bytes(field: str) -> int:
    """A field of Linux's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def translating(build: Callable[[], Engine], sources: List[List[int]]) -> Work:
    """Prepares to translate a batch: the model is loaded, and has translated one sentence.

    Args:
        build: makes the engine.
        sources: token ids of the batch.
    """
    engine = build()
    batch = Batch(0, [torch.tensor(source) for source in sources])
    list(engine.translate(iter([Batch(0, batch.sources[:1])])))
    return lambda: list(engine.translate(iter([batch])))


class Step:
    """One update of a training: forward, backward and Adam, gradients and its states included.

    Args:
        model: to be trained.
        criterion: computes the loss.
        sample: a batch of fairseq's.
    """

    def __init__(self, model: nn.Module, criterion: nn.Module, sample: Any):
        self.model, self.criterion, self.sample = model.train(), criterion, sample
        model.requires_grad_(True)

    def __call__(self) -> None:
        """Takes the step."""
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-6)
        loss, sample_size, _ = self.criterion(self.model, self.sample)
        (loss / sample_size).backward()
        optimizer.step()


def training_step(path: str, teacher: Optional[str], subset: Subset) -> Step:
    """Prepares one update of a checkpoint's model on the longest sentences of a set.

    Args:
        path: the model's checkpoint.
        teacher: the checkpoint that it is distilled from by word_kd; None for label-smoothed
            cross-entropy alone.
        subset: whose sentences make a batch of TRAINING_TOKENS.
    """
    model, task = load_teacher(path, "--student")
    word_kd = WordKDConfig(_name="word_kd", label_smoothing=0.1, kd_teacher=teacher)
    if teacher is None:
        word_kd.kd_alpha, word_kd.kd_beta = 0.0, 1.0
    else:
        word_kd.kd_temperature = 1.0
    whole = OmegaConf.structured(FairseqConfig())  # word_kd reads a few of fairseq's own options
    whole.criterion = word_kd
    whole.optimization.max_update, whole.dataset.disable_validation = 1, True
    whole.distributed_training.distributed_world_size = 1
    criterion = task.build_criterion(whole.criterion)
    return Step(model, criterion, _training_batch(subset, model))


def _training_batch(subset: Subset, model: nn.Module) -> Any:
    """A batch of about TRAINING_TOKENS target tokens, padding included: the longest that fit."""
    limits = model.max_positions()
    usable = [
        i
        for i in range(len(subset))
        if len(subset.source[i]) <= limits[0] and len(subset.target[i]) <= limits[1]
    ]
    order = sorted(usable, key=lambda i: -len(subset.target[i]))
    chosen = order[: max(1, TRAINING_TOKENS // len(subset.target[order[0]]))]
    targets = [subset.target[i].long() for i in chosen]
    words = subset.target_words
    previous = data_utils.collate_tokens(
        targets, words.pad(), words.eos(), move_eos_to_beginning=True
    )
    return {
        "net_input": {
            "src_tokens": data_utils.collate_tokens(
                [subset.source[i].long() for i in chosen], subset.source_words.pad(), left_pad=True
            ),
            "src_lengths": torch.tensor([len(subset.source[i]) for i in chosen]),
            "prev_output_tokens": previous,
        },
        "target": data_utils.collate_tokens(targets, words.pad()),
        "ntokens": sum(map(len, targets)),
        "nsentences": len(chosen),
    }


def training_peak(
    student: Checkpoint, teacher: Optional[Checkpoint], subset: Subset
) -> Optional[int]:
    """Bytes of one update at its peak: the models' weights, and what the update adds to them.

    Args:
        student: the model that is trained.
        teacher: the one that it is distilled from, or None.
        subset: as for ``training_step``.
    """
    taught_by = None if teacher is None else str(teacher.path)
    memory = measured(partial(training_step, str(student.path), taught_by, subset))
    if memory is None:
        return None
    return memory.added + sum(weight_bytes(each.model) for each in (student, teacher) if each)


def inference_memory(
    variant: Variant, converted: Converted, subset: Subset, search: Search, batch: List[Tensor]
) -> Optional[Memory]:
    """The weights of a variant, and what translating a batch adds to them.

    Args:
        variant: what translates. Of fairseq, the weights are counted; of CTranslate2, which changes
            them as it loads them, they are what its process holds then.
        converted: where its converted form lies.
        subset: what the batch is of.
        search: how.
        batch: token ids of each sentence.
    """
    if variant.engine == FAIRSEQ:
        build = partial(_fairseq_engine, variant.system.path, variant.system.model.flag, search)
    else:
        threads = torch.get_num_threads()
        engine = build_engine(variant, converted, subset, search, threads=threads)
        build = partial(_unchanged, engine)  # it loads its model where it is first used
    memory = measured(partial(translating, build, [source.tolist() for source in batch]))
    if memory is None or variant.engine != FAIRSEQ:
        return memory
    return Memory(weight_bytes(variant.system.model.model), memory.added)


def _fairseq_engine(path: Path, flag: str, search: Search) -> Engine:
    return FairseqEngine([load_checkpoint(str(path), flag)], search, "cpu")


def _unchanged(engine: Engine) -> Engine:
    return engine
