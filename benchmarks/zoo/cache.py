"""Where the zoo keeps what it has done: exported files, and journals of one JSON object a line."""

from __future__ import annotations

import fnmatch
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

#: exporter and shapes; a file is `<source>-<model>.<variant>.onnx`.
VARIANTS = ["script-dynamic", "dynamo-dynamic", "script-static", "dynamo-static"]


def default_folder() -> Path:
    """`$ONNXPRUNE_ZOO`, or a folder among the user's caches."""
    given = os.environ.get("ONNXPRUNE_ZOO")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "onnxprune-zoo"


@dataclass(frozen=True)
class Cache:
    """A folder with exported files and two journals."""

    folder: Path

    @property
    def files(self) -> Path:
        return self.folder / "onnx"

    def file(self, model: str, variant: str) -> Path:
        return self.files / f"{model}.{variant}.onnx"

    def exported(self) -> list[Path]:
        """All exported files, by variant and then by name."""

        def order(path: Path) -> tuple[int, str]:
            variant = split_name(path)[1]
            return (VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS), path.name)

        return sorted(self.files.glob("*.onnx"), key=order)

    def journal(self, name: str) -> Journal:
        self.files.mkdir(parents=True, exist_ok=True)
        return Journal(self.folder / f"{name}.jsonl")


@dataclass(frozen=True)
class Journal:
    """Rows that are only ever appended; of several with one key, the last is meant."""

    path: Path

    def append(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> dict[str, Row]:
        """The last row of each key, in the order of the keys' first rows."""
        found: dict[str, Row] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # a line that was cut off when a run was stopped
                    continue
                found[row["key"]] = row
        return found


@dataclass(frozen=True)
class Shard:
    """Every n-th of the models, by a checksum of their name: all variants of one fall together."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `i/n`, `1 <= i <= n`. Raises ValueError."""
        number, of = map(int, text.split("/"))
        if not 1 <= number <= of:
            raise ValueError(f"no shard {text}")
        return cls(number, of)

    def __contains__(self, model: object) -> bool:
        return zlib.crc32(str(model).encode()) % self.of == self.number - 1


def chosen(names: list[str], only: list[str], shard: Shard) -> Iterator[str]:
    """The names that match one of the globs and fall into the shard."""
    for name in names:
        if name in shard and (not only or any(fnmatch.fnmatch(name, each) for each in only)):
            yield name


def split_name(path: Path) -> tuple[str, str]:
    """Model and variant of an exported file."""
    model, _, variant = path.name.removesuffix(".onnx").rpartition(".")
    return (model, variant) if model else (variant, "")
