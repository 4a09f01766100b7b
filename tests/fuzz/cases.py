"""Failures: found, made small, and kept as files that the test suite tries again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from .check import Mismatch, Outcome, check
from .shrink import Feeds, shrink

FOLDER = Path(__file__).resolve().parent / "cases"
#: Inputs are kept in the model's metadata: a case is one file.
_FEED = "fuzz_feed"
#: A smaller model has other groups, and so another choice: so many are tried.
_CHOICES = 6


@dataclass(frozen=True)
class Failure:
    """What went wrong: the stage of a mismatch, or the name of an exception."""

    kind: str
    text: str


def failure(model: ModelProto, feeds: Feeds, seeds: Sequence[int]) -> Outcome | Failure:
    """The first failure of a model for one of several choices, or the last outcome."""
    outcome = Outcome(rejected="no choice tried")
    for seed in seeds:
        try:
            outcome = check(model, feeds, seed)
        except Mismatch as error:
            return Failure(error.stage, str(error))
        except Exception as error:  # whatever the program raises is what is looked for
            return Failure(type(error).__name__, str(error))
    return outcome


def keep(
    folder: Path, name: str, model: ModelProto, feeds: Feeds, found: Failure, seed: int
) -> Path:
    """Make a failing model small, and write it."""

    def fails(model: ModelProto, feeds: Feeds) -> bool:
        again = failure(model, feeds, range(seed, seed + _CHOICES))
        return isinstance(again, Failure) and again.kind == found.kind

    small, fed = shrink(model, feeds, fails) if fails(model, feeds) else (model, feeds)
    kept = ModelProto()
    kept.CopyFrom(small)
    kept.doc_string = f"{found.kind}: {found.text}"[:300]
    for i, feed in enumerate(fed):
        for key, value in feed.items():
            entry = kept.metadata_props.add()
            entry.key = f"{_FEED} {i} {key}"
            entry.value = numpy_helper.from_array(value, key).SerializeToString().hex()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    path.write_bytes(kept.SerializeToString(deterministic=True))
    return path


def read(path: Path) -> tuple[ModelProto, Feeds]:
    """A case that was kept."""
    model = onnx.load(path)
    feeds: dict[int, dict[str, NDArray[Any]]] = {}
    for entry in list(model.metadata_props):
        kind, _, rest = entry.key.partition(" ")
        if kind == _FEED:
            number, _, name = rest.partition(" ")
            tensor = onnx.TensorProto.FromString(bytes.fromhex(entry.value))
            feeds.setdefault(int(number), {})[name] = numpy_helper.to_array(tensor)
    del model.metadata_props[:]
    return model, [feeds[i] for i in sorted(feeds)]
