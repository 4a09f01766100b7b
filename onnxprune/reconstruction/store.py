"""Activations of the calibration data: in memory while they are few, else in temporary files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..model import Array

#: bytes of activations that are kept in memory
IN_MEMORY = 1_500_000_000


class Store:
    """Arrays by (tensor, batch); beyond `limit` bytes they go to files that are mapped back."""

    def __init__(self, limit: int = IN_MEMORY) -> None:
        self.limit = limit
        self.held = 0
        self._arrays: dict[tuple[str, int], Any] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def put(self, name: str, batch: int, value: Array) -> None:
        """Keep one batch of a tensor, in place of what there was of it."""
        self._forget(name, batch)
        if self.held + value.nbytes <= self.limit or value.nbytes < 4096:
            self.held += value.nbytes
            self._arrays[name, batch] = value
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="onnxprune-")
        path = Path(self._folder.name) / f"{self._files}.npy"
        self._files += 1
        np.save(path, value)
        self._arrays[name, batch] = path

    def get(self, name: str, batch: int) -> Array:
        """One batch of a tensor. Raises KeyError."""
        found = self._arrays[name, batch]
        if isinstance(found, Path):
            mapped: Array = np.load(found, mmap_mode="r")
            return mapped
        value: Array = found
        return value

    def __contains__(self, name: str) -> bool:
        return (name, 0) in self._arrays

    def drop(self, name: str) -> None:
        """Forget all batches of a tensor."""
        batch = 0
        while (name, batch) in self._arrays:
            self._forget(name, batch)
            batch += 1

    def _forget(self, name: str, batch: int) -> None:
        found = self._arrays.pop((name, batch), None)
        if isinstance(found, Path):
            found.unlink()
        elif found is not None:
            self.held -= found.nbytes

    def names(self) -> set[str]:
        """The tensors of which something is kept."""
        return {name for name, _ in self._arrays}

    def close(self) -> None:
        """Forget everything, and remove the files."""
        self._arrays.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
