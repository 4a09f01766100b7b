"""What the results of trials depend on, as one hash: contents of files, and options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..model import Model
from ..saving import sources
from ..version import __version__


def digest(value: Any) -> str:
    """The SHA-256 of plain JSON types, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def content(paths: Iterable[Path]) -> str:
    """The SHA-256 of what is in some files and folders, and what they are called in these.

    Raises UsageError where one can't be read.
    """
    found = hashlib.sha256()
    for path in paths:
        for file in files_in(path):
            name = str(file.relative_to(path)) if file != path else path.name
            found.update(f"{name}\0".encode("utf-8", "surrogateescape"))
            try:
                with open(file, "rb") as stream:
                    while block := stream.read(1 << 20):
                        found.update(block)
            except OSError as error:
                raise UsageError(f"{file}: can't be read: {error.strerror}") from error
            found.update(b"\0")
    return found.hexdigest()


def files_in(path: Path) -> list[Path]:
    """The files of a folder, in a fixed order; a file is its own."""
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def named_file(named: str | Path) -> Path | None:
    """The file that `FILE.npz:KEY`, `FILE.py:FUNCTION` or a plain path names.

    None where there is none: a module's name and the word `synthetic` name none.
    """
    text = str(named)
    for candidate in (text, text.rpartition(":")[0]):
        if candidate and Path(candidate).exists():
            return Path(candidate)
    return None


def identity_of(model: Model, options: Mapping[str, Any], named: Sequence[Any]) -> str:
    """The hash of a job: its model, its options, and what is in the files that these name.

    Empty where one of `named` is no path but something of Python's, which can't be recognised.

    Raises UsageError where a file can't be read.
    """
    if not all(isinstance(each, (str, Path, type(None))) for each in named):
        return ""
    files = [found for each in named if each and (found := named_file(each))]
    return digest(
        {
            "model": [model.sha256, content(sources(model) if model.external else [])],
            "options": options,
            "files": content(files),
            "version": __version__,
        }
    )
