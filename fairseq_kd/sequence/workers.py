"""Work on several things at a time, with the results in the things' order."""

from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Callable, Deque, Iterable, Iterator, TypeVar

from fairseq_kd.child_process import die_with_parent

Given, Pending, Done = TypeVar("Given"), TypeVar("Pending"), TypeVar("Done")


def in_order(
    items: Iterable[Given],
    start: Callable[[Given], Pending],
    finish: Callable[[Pending], Done],
    ahead: int,
) -> Iterator[Done]:
    """Starts work on so many items ahead of the one whose result is given next."""
    pending: Deque[Pending] = deque()
    for item in items:
        pending.append(start(item))
        if len(pending) >= ahead:
            yield finish(pending.popleft())
    while pending:
        yield finish(pending.popleft())


def in_processes(tasks: Iterable[Callable[[], Done]], count: int) -> Iterator[Done]:
    """Runs tasks that can be pickled, and gives their results.

    Args:
        tasks: what to call; they are taken as they are needed.
        count: processes, which end with this one however it ends; with 1, this one works alone.
    """
    if count == 1:
        yield from (task() for task in tasks)
        return
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin) as pool:
        yield from in_order(tasks, pool.submit, Future.result, 2 * count)


def _begin() -> None:
    from fairseq_kd import quiet  # noqa: F401

    die_with_parent()
