"""Batches side by side: numpy lets other threads run while it computes.

Results come in order, and each is made by one thread alone: how many threads there are changes no
number. Only so many batches are under way at once as there are threads, so that memory is bounded.
BLAS keeps to one thread: its own would wait for the same cores, and add up in other orders.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

#: More are not used: each holds what it is at work on in memory.
_MOST = 8

T = TypeVar("T")
R = TypeVar("R")


def one_thread_each() -> AbstractContextManager[Any]:
    """While this is open, a product of matrices is computed by the thread that asks for it."""
    found: AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="blas")
    return found


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """`function` of each item, in the items' order, made by some threads.

    Raises what the first item that fails raises, when it is its turn.
    """
    threads = min(threads, _MOST)
    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[R]] = deque()
        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                if len(under_way) == threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
