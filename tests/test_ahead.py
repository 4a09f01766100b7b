"""Reading ahead: the same items in the same order, and the same errors when it is their turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from onnxprune.ahead import ahead


def test_items_come_in_order_and_one_ahead() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            if i == 1:
                second.set()
            yield i

    found = ahead(items())
    assert next(found) == 0
    assert second.wait(10)  # it is made while the first is used
    assert list(found) == [1, 2, 3, 4]
    assert list(ahead([])) == []


def test_an_error_comes_when_it_is_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(OSError, match="gone"):
        next(found)


def test_what_is_not_used_is_not_made() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    found = ahead(items())
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(made) <= 2
