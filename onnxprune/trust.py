"""What a model file is allowed: by default nothing but to be read, all of it, in its own folder.

`trusting` changes that for a block of code, in this process. Only a user says so, by a flag or in
Python: neither a model nor a plan can, and a configuration file can only say less (`max_bytes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trust:
    """What a model file is allowed."""

    #: The bytes that a model's files may hold together; None for any number.
    max_bytes: int | None = None
    #: Whether external weights may be anywhere, and not in the model's folder only.
    outside_data: bool = False
    #: Shared libraries with operators of one's own. onnxruntime runs what is in them.
    custom_ops: tuple[Path, ...] = ()


_given = Trust()


def trust() -> Trust:
    """What holds now."""
    return _given


@contextmanager
def trusting(**changes: Any) -> Iterator[Trust]:
    """Let other rules hold inside of the block: `max_bytes`, `outside_data`, `custom_ops`."""
    global _given
    before = _given
    _given = replace(before, **changes)
    try:
        yield _given
    finally:
        _given = before
