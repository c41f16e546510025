"""Latency and throughput of several engines, measured in turns after a warm-up.

Each engine runs for a few sentences, then the next, round by round, so that other load on the
machine affects all of them. A short pause before each turn lets the threads of the previous engine
go to sleep: they otherwise spin for a while and take processor time from the next.
"""

import statistics
import time
from contextlib import contextmanager
from typing import Dict, Iterator, List, Mapping, Sequence, Tuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fairseq_kd.decoding.engine import Batch, Engine
from fairseq_kd.evaluation.results import Latency, Throughput
from fairseq_kd.progress import ProgressLine

BLOCK = 8  # sentences per turn when latency is measured
MAX_REPEATS = 3  # of a turn by an engine that is faster than the slowest
WARM_UP = 32  # sentences at most in the batch of the warm-up
PAUSE_S = 0.01
Key = TypeVar("Key")


def latencies(
    engines: Mapping[Key, Engine], sentences: Sequence[Tensor], rounds: int, progress: ProgressLine
) -> Dict[Key, Latency]:
    """The latency of each engine, which translates sentences one by one.

    Args:
        engines: by any key.
        sentences: token ids of each, including the end of sentence.
        rounds: how often each sentence is measured; engines faster than the slowest measure it up
            to three times per round. The median of a sentence's times counts.
        progress: counts the rounds of every engine.

    Returns:
        By the engine's key.
    """
    repeats = _repeats(engines, sentences)
    shapes = {key: (rounds, repeats[key], len(sentences)) for key in engines}
    seconds: Dict[Key, np.ndarray] = {key: np.zeros(shape) for key, shape in shapes.items()}
    blocks = np.array_split(np.arange(len(sentences)), max(1, len(sentences) // BLOCK))
    for turn in range(rounds):
        for block in blocks:
            for key, engine in in_turns(engines, turn):
                time.sleep(PAUSE_S)
                for repeat in range(repeats[key]):
                    for i in block.tolist():
                        seconds[key][turn, repeat, i] = _seconds(engine, [[sentences[i]]])
        progress.add(len(engines))
    return {key: _latency(each) for key, each in seconds.items()}


def _repeats(engines: Mapping[Key, Engine], sentences: Sequence[Tensor]) -> Dict[Key, int]:
    """Warms engines up, and returns how often each can repeat a turn in the time of the slowest."""
    ends = [sentences[:1], sentences[-1:]]
    for engine in engines.values():
        _translate(engine, ends)
    needed = {key: _seconds(engine, ends) for key, engine in engines.items()}
    slowest = max(needed.values())
    return {key: max(1, min(MAX_REPEATS, int(slowest / own))) for key, own in needed.items()}


def _latency(seconds: np.ndarray) -> Latency:
    """The latency from (rounds, repeats, sentences) seconds."""
    ms = 1000 * np.median(seconds, axis=(0, 1))
    rounds = seconds.mean(axis=1).sum(axis=1)
    return Latency(
        float(np.median(ms)),
        float(np.percentile(ms, 95)),
        float(rounds.max() / rounds.min() - 1),
    )


def throughputs(
    engines: Mapping[Key, Engine],
    sentences: Sequence[Tensor],
    batch_sizes: Sequence[int],
    rounds: int,
    progress: ProgressLine,
) -> Dict[Tuple[Key, int], Throughput]:
    """The throughput of each engine in batches of sentences of similar length.

    Args:
        engines: by any key.
        sentences: token ids of each, including the end of sentence.
        batch_sizes: sentences per batch.
        rounds: how often all sentences are translated; the median of the times counts.
        progress: counts the rounds of every engine and batch size.

    Returns:
        By the engine's key and the batch size.
    """
    ordered = sorted(sentences, key=len, reverse=True)
    for engine in engines.values():
        _translate(engine, [ordered[:WARM_UP]])
    return {
        (key, size): throughput
        for size in batch_sizes
        for key, throughput in _throughputs(
            engines, [ordered[i : i + size] for i in range(0, len(ordered), size)], rounds, progress
        ).items()
    }


def _throughputs(
    engines: Mapping[Key, Engine],
    batches: Sequence[Sequence[Tensor]],
    rounds: int,
    progress: ProgressLine,
) -> Dict[Key, Throughput]:
    """The throughput of engines that are warmed up."""
    sentences = sum(map(len, batches))
    tokens: Dict[Key, int] = {}
    times: Dict[Key, List[float]] = {key: [] for key in engines}
    for turn in range(rounds):
        for key, engine in in_turns(engines, turn):
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            tokens[key] = _translate(engine, batches)
            times[key].append(time.perf_counter() - start)
            progress.add(1)
    middles = {key: statistics.median(each) for key, each in times.items()}
    return {
        key: Throughput(sentences / middle, tokens[key] / middle) for key, middle in middles.items()
    }


@contextmanager
def torch_threads(count: int) -> Iterator[int]:
    """Limits torch to some threads while the context is open; yields their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


def in_turns(engines: Mapping[Key, Engine], turn: int) -> "list[tuple[Key, Engine]]":
    """The engines, beginning with another one in every turn."""
    items = list(engines.items())
    first = turn % len(items)
    return items[first:] + items[:first]


def _seconds(engine: Engine, batches: Sequence[Sequence[Tensor]]) -> float:
    """Seconds that an engine takes to translate batches."""
    start = time.perf_counter()
    _translate(engine, batches)
    return time.perf_counter() - start


def _translate(engine: Engine, batches: Sequence[Sequence[Tensor]]) -> int:
    """Translates batches, and returns the number of target tokens."""
    numbered = [Batch(number, batch) for number, batch in enumerate(batches)]
    return sum(
        len(hypotheses[0].tokens.split())
        for batch in engine.translate(iter(numbered))
        for hypotheses in batch
        if hypotheses
    )


def spread_over_lengths(sentences: Sequence[Tensor], longest: int, count: int) -> List[Tensor]:
    """A sample of sentences with the length distribution of the set, in its order.

    Args:
        sentences: token ids of each, including the end of sentence.
        longest: number of tokens that every system reads.
        count: of sentences at most.
    """
    usable = [i for i in range(len(sentences)) if 1 < len(sentences[i]) <= longest]
    by_length = sorted(usable, key=lambda i: len(sentences[i]))
    places = np.linspace(0, len(by_length) - 1, min(count, len(by_length))).round().astype(int)
    chosen = sorted({by_length[place] for place in places})
    return [sentences[i].long() for i in chosen]
