"""Runs tasks concurrently and yields their results in order."""

import os
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Callable, Deque, Iterable, Iterator, List, TypeVar

from fairseq_kd.child_process import begin_worker

SECONDS = 1.0  # of a part of a wait
Given, Pending, Done = TypeVar("Given"), TypeVar("Pending"), TypeVar("Done")


def in_order(
    items: Iterable[Given],
    start: Callable[[Given], Pending],
    finish: Callable[[Pending], Done],
    ahead: int,
) -> Iterator[Done]:
    """Yields the results of all items, starting up to ``ahead`` items before they are needed."""
    pending: Deque[Pending] = deque()
    for item in items:
        pending.append(start(item))
        if len(pending) >= ahead:
            yield finish(pending.popleft())
    while pending:
        yield finish(pending.popleft())


def in_chunks(items: Iterable[Given], size: int) -> Iterator[List[Given]]:
    """Yields the items in lists of a size, of which the last may be shorter."""
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])


def in_processes(tasks: Iterable[Callable[[], Done]], count: int) -> Iterator[Done]:
    """Runs tasks in processes, and yields their results.

    Args:
        tasks: functions that can be pickled, read when they are needed.
        count: processes, which end with this one however it ends; with 1, this process works alone.

    Raises:
        ValueError: a process was killed.
    """
    if count == 1:
        yield from (task() for task in tasks)
        return
    context, parent = get_context("spawn"), (os.getpid(),)
    with ProcessPoolExecutor(count, context, initializer=_begin, initargs=parent) as pool:
        try:
            yield from in_order(tasks, pool.submit, _result, 2 * count)
        except BrokenProcessPool:
            raise ValueError(
                f"One of {count} worker processes was killed, perhaps because memory ran out. Run "
                "the same command again with fewer --workers."
            ) from None


def _result(future: "Future[Done]") -> Done:
    """The result of a task, waited for in short parts.

    Python misses a signal that arrives just before it begins to wait, until that ends.
    """
    while not future.done():
        wait([future], timeout=SECONDS)
    return future.result()


def _begin(parent: int) -> None:
    begin_worker(parent)
    from fairseq_kd import quiet  # noqa: F401
