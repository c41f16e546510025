"""Peak memory of translating and of training, each measured in a process of its own.

The processes are forked from a server that has imported everything and computed nothing: they start
at once, and have threads of their own.
"""

import ctypes
import multiprocessing
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

import torch
from fairseq import utils
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_kd import plugin  # which also registers our architectures and criterions
from fairseq_kd.child_process import begin_worker
from fairseq_kd.criterions.word_kd import WordKDConfig
from fairseq_kd.decoding.engine import Batch, Engine
from fairseq_kd.decoding.fairseq_engine import FairseqEngine
from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.decoding.translation_model import Checkpoint, load_checkpoint
from fairseq_kd.evaluation.results import MemoryUse
from fairseq_kd.evaluation.size import weight_bytes
from fairseq_kd.evaluation.systems import sample_of
from fairseq_kd.evaluation.variants import (
    BY_FAIRSEQ,
    RUNTIMES,
    Conversions,
    Runtime,
    Variant,
    build_engine,
)
from fairseq_kd.teachers.languages import Languages, Pair
from fairseq_kd.teachers.loading import ANY

POLL_S = 0.001  # between readings of a GPU's memory
TRAINING_TOKENS = 1000  # target tokens of the measured step, as --max-tokens 1000
PRELOADED = ["fairseq_kd.quiet", __name__, "torch._dynamo"]
Work = Callable[[], Any]


class ProcessMemory(NamedTuple):
    """Bytes that a process holds after its preparation, and that its work adds at most."""

    loaded: int
    added: int


def preload() -> None:
    """Starts the imports of ``measured`` in another process; otherwise its first call waits.

    torch imports ``_dynamo`` when the first optimizer is made, which is not part of the work.
    """
    if sys.platform == "linux":
        multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()


def measured(prepare: Callable[[], Work], device: str = "cpu") -> Optional[ProcessMemory]:
    """The memory of some work, in a process of its own.

    Args:
        prepare: returns the work as a callable. It is pickled, and called in the other process.
        device: cpu for the memory of the process, cuda for that of the whole GPU.

    Returns:
        None if the operating system does not report memory.

    Raises:
        ValueError: the other process failed.
    """
    if sys.platform != "linux":
        return None
    context = multiprocessing.get_context("forkserver")
    preload()
    receiver, sender = context.Pipe(duplex=False)
    settings = (torch.get_num_threads(), plugin.imported_user_dirs())
    process = context.Process(target=_measure, args=(prepare, device, *settings, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise ValueError(
            f"The process that measures memory ended with status {process.exitcode}; the system "
            "may have killed it because memory ran out. Use --no-memory to skip this measurement."
        ) from None
    finally:
        process.join()


def _measure(
    prepare: Callable[[], Work],
    device: str,
    threads: int,
    user_dirs: List[str],
    sender: Connection,
) -> None:
    begin_worker(os.getppid())  # the fork server, which ends with the main process
    if not multiprocessing.parent_process().is_alive():
        return
    torch.set_num_threads(threads)
    for each in user_dirs:
        plugin.import_user_dir(each)
    if device == "cuda":
        sender.send(_on_gpu(prepare))
        return
    try:
        start = trimmed_bytes()
    except OSError:  # a container may forbid it
        sender.send(None)
        return
    work = prepare()
    before = trimmed_bytes()
    work()
    sender.send(ProcessMemory(max(0, before - start), max(0, status_bytes("VmHWM") - before)))


def _on_gpu(prepare: Callable[[], Work]) -> ProcessMemory:
    """The memory of some work on a GPU, from its free memory, which is read all the time.

    So that torch and CTranslate2, which manage their memory differently, are measured alike.
    """
    start = gpu_bytes()  # with what CUDA itself needs
    work = prepare()
    before = gpu_bytes()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        peak = before
        while not done.done():
            peak = max(peak, gpu_bytes())
            time.sleep(POLL_S)
        done.result()
    return ProcessMemory(max(0, before - start), max(peak, gpu_bytes()) - before)


def gpu_bytes() -> int:
    """Bytes of the GPU's memory that are in use, by any process."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def trimmed_bytes() -> int:
    """Bytes that this process holds, after free memory is returned and the peak is reset."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes; without it, the peak of the process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def translating(build: Callable[[], Engine], sources: List[List[int]]) -> Work:
    """Loads a model, translates one sentence, and returns the translation of a batch as work.

    Args:
        build: returns the engine.
        sources: token ids of the batch.
    """
    engine = build()
    batch = Batch(0, [torch.tensor(source) for source in sources])
    list(engine.translate(iter([Batch(0, batch.sources[:1])])))
    return lambda: list(engine.translate(iter([batch])))


def training_step(
    path: str,
    teacher: Optional[str],
    subset: Subset,
    languages: Languages = ANY,
    names: Optional[Pair] = None,
    device: str = "cpu",
) -> Work:
    """Loads a model, and returns one update of it as work: forward, backward and Adam.

    Args:
        path: the model's checkpoint.
        teacher: the checkpoint from which word_kd distils; None for label-smoothed cross-entropy.
        subset: its longest sentences make a batch of TRAINING_TOKENS.
        languages: for which the model is loaded; see ``load_teacher``.
        names: of the languages in the teacher, if they are others.
        device: where the model is trained.
    """
    student = load_checkpoint(path, "--student", languages)
    model = student.model.to(device).train().requires_grad_(True)
    word_kd = WordKDConfig(_name="word_kd", label_smoothing=0.1, kd_teacher=teacher)
    if teacher is None:
        word_kd.kd_alpha, word_kd.kd_beta = 0.0, 1.0
    else:
        word_kd.kd_temperature = 1.0
        word_kd.kd_teacher_source_lang, word_kd.kd_teacher_target_lang = names or (None, None)
    cfg = OmegaConf.structured(FairseqConfig())  # word_kd reads some of fairseq's own options
    cfg.criterion = word_kd
    cfg.optimization.max_update, cfg.dataset.disable_validation = 1, True
    cfg.distributed_training.distributed_world_size = 1
    criterion = student.task.build_criterion(cfg.criterion).to(device)
    sample = sample_of(subset, _longest(subset, model))
    sample = utils.apply_to_sample(lambda tensor: tensor.to(device), sample)

    def step() -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
        loss, sample_size, _ = criterion(model, sample)
        (loss / sample_size).backward()
        optimizer.step()

    return step


def _longest(subset: Subset, model: nn.Module) -> List[int]:
    """The longest sentences that the model reads, TRAINING_TOKENS of target tokens with padding."""
    limits = model.max_positions()
    usable = [
        i
        for i in range(len(subset))
        if len(subset.source[i]) <= limits[0] and len(subset.target[i]) <= limits[1]
    ]
    order = sorted(usable, key=lambda i: -len(subset.target[i]))
    return order[: max(1, TRAINING_TOKENS // len(subset.target[order[0]]))]


def training_peak(
    student: Checkpoint, teacher: Optional[Checkpoint], subset: Subset, device: str = "cpu"
) -> Optional[int]:
    """Peak bytes of one update: the weights of the models, and what the update adds to them.

    Args:
        student: the model that is trained.
        teacher: from which it is distilled, or None.
        subset: as for ``training_step``.
        device: where the student is trained.
    """
    path, names = None, None
    if teacher is not None:
        path, names = str(teacher.path), teacher.languages.teacher
    step = partial(training_step, str(student.path), path, subset, student.languages, names, device)
    memory = measured(step, device)
    if memory is None:
        return None
    if device == "cuda":
        return memory.loaded + memory.added
    return memory.added + sum(weight_bytes(each.model) for each in (student, teacher) if each)


def inference_memory(
    variant: Variant, conversions: Conversions, subset: Subset, search: Search, batch: List[Tensor]
) -> Optional[MemoryUse]:
    """The memory of translating a batch.

    Args:
        variant: the system and its engine. For fairseq on the CPU, what is loaded is the weights;
            CTranslate2 changes them while loading, so that its process is measured after loading.
        conversions: of the system.
        subset: from which the batch is.
        search: options of the search.
        batch: token ids of each sentence.
    """
    runtime = RUNTIMES[variant.engine]
    if variant.engine in BY_FAIRSEQ:
        checkpoint = variant.system.checkpoint
        loading = checkpoint.path, checkpoint.flag, checkpoint.languages
        build = partial(_fairseq_engine, *loading, search, runtime)
    else:
        threads = torch.get_num_threads()
        engine = build_engine(variant, conversions, subset, search, threads=threads)
        build = partial(_unchanged, engine)  # it loads its model at its first use
    sources = [source.tolist() for source in batch]
    memory = measured(partial(translating, build, sources), runtime.device)
    if memory is None:
        return None
    fairseq = variant.engine in BY_FAIRSEQ and runtime.device == "cpu"
    loaded = weight_bytes(variant.system.checkpoint.model) if fairseq else memory.loaded
    return MemoryUse(loaded, loaded + memory.added)


def _fairseq_engine(
    path: Path, flag: str, languages: Languages, search: Search, runtime: Runtime
) -> Engine:
    return FairseqEngine([load_checkpoint(str(path), flag, languages)], search, *runtime)


def _unchanged(engine: Engine) -> Engine:
    return engine
