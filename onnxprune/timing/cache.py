"""Measured times on disk: one JSON file for each hardware, onnxruntime, provider and threads.

    {"schema": 1, "hardware": {...}, "operators": {KEY: {"64,128": 0.331, ...}, ...}}

KEY is an operator's configuration (see `templates`), the inner keys are its widths, the values ms.
The file is read once and written whole, beside itself and then renamed, so that a reader never sees
half of it; of two writers at once, each keeps what the other wrote before it read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1

Sizes = tuple[int, ...]
Times = dict[Sizes, float]


def default_folder() -> Path:
    """`$ONNXPRUNE_CACHE`, or a folder among the user's caches."""
    given = os.environ.get("ONNXPRUNE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "onnxprune"


class Cache:
    """The times that were measured on one hardware. `note` is told of what could not be used."""

    def __init__(
        self,
        hardware: Mapping[str, Any],
        folder: Path | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        name = hashlib.sha256(json.dumps(hardware, sort_keys=True).encode()).hexdigest()[:16]
        self.hardware = dict(hardware)
        self.path = (folder or default_folder()) / f"times-{name}.json"
        self._note = note
        self._operators = self._read()

    def times(self, key: str) -> Times:
        """What is known of an operator: ms by widths."""
        return dict(self._operators.get(key, {}))

    def add(self, key: str, times: Mapping[Sizes, float]) -> None:
        """Remember times; `save` writes them."""
        self._operators.setdefault(key, {}).update(times)

    def save(self) -> None:
        """Write the file. That it can't be written is a note, not an error."""
        for key, times in self._read().items():  # another process may have written since
            self._operators[key] = times | self._operators.get(key, {})
        document = {
            "schema": SCHEMA,
            "hardware": self.hardware,
            "operators": {
                key: {",".join(map(str, sizes)): round(ms, 6) for sizes, ms in times.items()}
                for key, times in self._operators.items()
            },
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(dir=self.path.parent, suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(document, file)
                os.replace(beside, self.path)
            except BaseException:
                Path(beside).unlink(missing_ok=True)
                raise
        except OSError as error:
            self._note(f"measured times could not be kept in {self.path}: {error.strerror}")

    def _read(self) -> dict[str, Times]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            if document["schema"] != SCHEMA or document["hardware"] != self.hardware:
                raise ValueError("it belongs to another version or machine")
            return {key: _times(found) for key, found in document["operators"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._note(f"{self.path} was not used, times are measured anew: {error}")
            return {}


def _times(found: Mapping[str, Any]) -> Times:
    times = {tuple(map(int, sizes.split(","))): float(ms) for sizes, ms in found.items()}
    if not all(math.isfinite(ms) and ms > 0 for ms in times.values()):
        raise ValueError("a time is not a positive number")
    return times
