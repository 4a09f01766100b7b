"""What is read next is read while what was read is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each made while the one before is used.

    By a thread: worth it where files are read, or numpy works on what is large. Raises what making
    an item raises, when it is its turn.
    """
    rest, end = iter(items), object()
    with ThreadPoolExecutor(1) as beside:
        following = beside.submit(next, rest, end)
        while (item := following.result()) is not end:
            following = beside.submit(next, rest, end)
            yield item  # type: ignore[misc]
