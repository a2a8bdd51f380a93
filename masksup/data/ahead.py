"""Work done ahead by threads, handed over in order: decoding and resizing let other Python threads run."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(make: Callable[[Item], Made], items: Iterable[Item], threads: int, most: int) -> Iterator[Made]:
    """`make(item)` for each item in order, computed by `threads` threads, at most `most` of them ahead.

    threads 0: in this thread, when it is asked for. What `make` raises is raised at its item. Each thread computes
    by itself, without torch's threads.
    """
    if threads == 0:
        yield from map(make, items)
        return
    pool, waiting = _pool(threads), deque[Future[Made]]()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that have one thread of torch each; its number for the threads of others stays what it was."""
    own, started = torch.get_num_threads(), Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()  # a thread takes the common number when it first asks, which would undo the next line
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, "loader", alone)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(own)
    return pool
