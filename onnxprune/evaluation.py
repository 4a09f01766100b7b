"""Accuracy on labelled data: top-1 of a model on an .npz file, and agreement of two models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from .errors import UsageError
from .model import Array
from .runtime import input_specs, run, session

_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """What two models say of the same samples; shares of `samples`, from 0 to 1."""

    samples: int
    before: float | None
    after: float | None
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def evaluate(
    before: ModelProto, after: ModelProto, data: str, base_dir: Path, threads: int = 1
) -> Evaluation:
    """Top-1 accuracy of both models and their agreement on the samples in `data`.

    `data` is `FILE.npz` or `FILE.npz:LABELS`. The file has one array for each input, called by its
    name (with one input, any name), `[samples, ...]` each, and the labels `[samples]`, called
    `labels` unless named; without labels there is agreement only.

    Raises UsageError where the file does not fit the model.
    """
    feeds, labels = _read(before, data)
    count = len(next(iter(feeds.values())))
    first = _classes(before, feeds, count, base_dir, threads)
    second = _classes(after, feeds, count, base_dir, threads)
    return Evaluation(
        count,
        None if labels is None else float((first == labels).mean()),
        None if labels is None else float((second == labels).mean()),
        float((first == second).mean()),
    )


def _read(model: ModelProto, data: str) -> tuple[dict[str, Array], Array | None]:
    file, _, key = data.partition(".npz:")
    path = Path(f"{file}.npz" if key else data)
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no .npz archive"
        raise UsageError(f"{path}: can't be read: {reason}") from None
    if key and key not in arrays:
        raise UsageError(f"{path}: has no array {key!r}; it has {', '.join(arrays)}")
    labels = arrays.pop(key or "labels", None)
    names = [spec.name for spec in input_specs(model)]
    if len(names) == 1 and names[0] not in arrays and len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if missing := [name for name in names if name not in arrays]:
        raise UsageError(f"{path}: has no array for input {missing[0]!r}; it has {list(arrays)}")
    feeds = {name: arrays[name] for name in names}
    counts = {len(value) for value in feeds.values()} | (
        {len(labels)} if labels is not None else set()
    )
    if len(counts) != 1:
        raise UsageError(f"{path}: its arrays have unlike numbers of samples: {sorted(counts)}")
    return feeds, None if labels is None else labels.ravel()


def _classes(
    model: ModelProto, feeds: Mapping[str, Array], count: int, base_dir: Path, threads: int
) -> Array:
    """The class of each sample, `[samples]`: where the first output is largest."""
    fixed = any(isinstance(spec.dims[0], int) for spec in input_specs(model) if spec.dims)
    batch = 1 if fixed else _BATCH
    live = session(model, optimize=True, threads=threads, base_dir=base_dir)
    found = []
    for at in range(0, count, batch):
        outputs = run(live, {name: value[at : at + batch] for name, value in feeds.items()})
        scores = next(iter(outputs.values()))
        scores = scores.reshape(min(batch, count - at), -1)
        found.append(scores.argmax(axis=1) if scores.shape[1] > 1 else scores[:, 0])
    return np.concatenate(found)
