"""How fast systems translate: in turns, and after a warm-up.

One system runs for a few sentences, then the next, and so on round by round: what else the machine
does meets all of them alike. A short pause before each turn lets the threads of the one before go
to sleep, which otherwise spin for a while and take its processor from the next.
"""

import statistics
import time
from contextlib import contextmanager
from typing import Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fairseq_kd.progress import ProgressLine
from fairseq_kd.sequence.engine import Batch, Engine

BLOCK = 8  # sentences of a turn in the measurement of latency
MOST_REPEATS = 3  # of a turn by an engine that is quick beside the slowest
WARM_UP = 32  # sentences that a batch of the warm-up has at the most
PAUSE_S = 0.01
Key = TypeVar("Key")


class Latency(NamedTuple):
    """Milliseconds to translate one sentence alone, and how far the rounds were apart.

    Args:
        median_ms, p95_ms: over the sentences.
        drift: how much longer the slowest round took than the fastest, as a share.
    """

    median_ms: float
    p95_ms: float
    drift: float


class Throughput(NamedTuple):
    """Sentences and their target tokens, the ends of sentence not counted, in a second."""

    sentences_per_s: float
    tokens_per_s: float


def latencies(
    engines: Mapping[Key, Engine], sentences: Sequence[Tensor], rounds: int, progress: ProgressLine
) -> Dict[Key, Latency]:
    """The latency of each engine over some sentences, each of which is translated alone.

    Args:
        engines: by any key.
        sentences: token ids of each, its end included.
        rounds: how often each sentence is measured; engines that are quick beside the slowest
            measure it up to three times a round. The median of a sentence's times counts.
        progress: counts every engine's rounds.

    Returns:
        Of each engine, by its key.
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
    """Warms the engines up; how often each can repeat a turn in the time of the slowest."""
    ends = [sentences[:1], sentences[-1:]]
    for engine in engines.values():
        _translate(engine, ends)
    needed = {key: _seconds(engine, ends) for key, engine in engines.items()}
    slowest = max(needed.values())
    return {key: max(1, min(MOST_REPEATS, int(slowest / own))) for key, own in needed.items()}


def _latency(seconds: np.ndarray) -> Latency:
    """Of seconds by round, repeat and sentence."""
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
    """What each engine translates in a second, in batches of sentences of like length.

    Args:
        engines: by any key.
        sentences: token ids of each, its end included.
        batch_sizes: sentences of a batch.
        rounds: how often all of them are translated; the median of the times counts.
        progress: counts every engine's rounds, of each size of batches.

    Returns:
        By the engine's key and the size of the batches.
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
    """Of warm engines, on certain batches."""
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
    """Lets torch work on so many threads for a while, and gives their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


def in_turns(engines: Mapping[Key, Engine], turn: int) -> "list[tuple[Key, Engine]]":
    """The engines in an order that begins with another one every turn."""
    items = list(engines.items())
    first = turn % len(items)
    return items[first:] + items[:first]


def _seconds(engine: Engine, batches: Sequence[Sequence[Tensor]]) -> float:
    """How long an engine takes to translate batches."""
    start = time.perf_counter()
    _translate(engine, batches)
    return time.perf_counter() - start


def _translate(engine: Engine, batches: Sequence[Sequence[Tensor]]) -> int:
    """Translates batches, and returns the target tokens."""
    numbered = [Batch(number, batch) for number, batch in enumerate(batches)]
    return sum(
        len(hypotheses[0].tokens.split())
        for batch in engine.translate(iter(numbered))
        for hypotheses in batch
        if hypotheses
    )


def spread_over_lengths(sentences: Sequence[Tensor], longest: int, count: int) -> List[Tensor]:
    """Sentences of all lengths in the proportions of the set, in its order.

    Args:
        sentences: token ids of each, its end included.
        longest: tokens that every system reads.
        count: how many at most.
    """
    usable = [i for i in range(len(sentences)) if 1 < len(sentences[i]) <= longest]
    by_length = sorted(usable, key=lambda i: len(sentences[i]))
    places = np.linspace(0, len(by_length) - 1, min(count, len(by_length))).round().astype(int)
    chosen = sorted({by_length[place] for place in places})
    return [sentences[i].long() for i in chosen]
