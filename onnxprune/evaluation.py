"""Accuracy of two models on the same data: a metric of each, and how far their outputs agree.

The data is an .npz file, with labels or without, or a function of the user's own that is given a
session of onnxruntime and measures what it likes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from .errors import CheckFailed, UsageError
from .metrics import METRICS, Metric, classes, natural
from .model import Array
from .runtime import Feeds, input_specs, run, session

_BATCH = 64
#: A top-5 among fewer classes says little.
_MANY_CLASSES = 10


@dataclass(frozen=True)
class Evaluation:
    """What two models say of the same samples; every figure is a share, from 0 to 1."""

    samples: int | None
    #: What `before` and `after` are: a metric's name, or that of the user's function.
    metric: str | None
    before: float | None
    after: float | None
    #: The share of samples (pixels, tokens) that both models put into the same class.
    agreement: float | None
    #: Cosine between the outputs of both, and the norm of their difference over that of the first.
    cosine: float | None = None
    relative_error: float | None = None
    #: Whether more of the metric is better.
    higher_is_better: bool = True
    #: Further metrics: name -> (before, after).
    others: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """What was lost, in points (hundredths): of the metric, or of agreement without labels.

        A function's number above 1 counts as points already.
        """
        if self.before is None or self.after is None:
            return 100 * (1 - (self.agreement if self.agreement is not None else 1.0))
        lost = self.before - self.after if self.higher_is_better else self.after - self.before
        return lost if max(abs(self.before), abs(self.after)) > 1 else 100 * lost

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "drop": self.drop}


def evaluate(
    before: ModelProto,
    after: ModelProto,
    data: str,
    base_dir: Path,
    threads: int = 1,
    metric: str | None = None,
) -> Evaluation:
    """Evaluate both models on `data`.

    `data` is one of:

    - `FILE.npz` or `FILE.npz:LABELS`: one array for each input, called by its name (with one input,
      any name), `[samples, ...]` each, and the labels `[samples, ...]`, called `labels` unless
      named. Without labels only the two models are compared. An array `vocabulary` spells the
      tokens of a speech model.
    - `module:function` or `FILE.py:function`: called with an `onnxruntime.InferenceSession`, it
      returns a number, more being better, or `{name: number}`, of which the first counts.

    `metric` is one of `METRICS`; without it the labels decide.

    Raises UsageError where the data does not fit the model.
    """
    if metric is not None and metric not in METRICS:
        raise UsageError(f"unknown metric {metric!r}; known are {', '.join(METRICS)}")
    sessions = [
        session(model, optimize=True, threads=threads, base_dir=base_dir)
        for model in (before, after)
    ]
    if _is_file(data):
        return _on_samples(sessions, _read(before, data), metric)
    return _by_function(sessions, data)


def check_drop(found: Evaluation, most: float | None) -> None:
    """Raise CheckFailed where more than `most` points were lost."""
    if most is None or found.drop <= most:
        return
    what = found.metric if found.before is not None else "agreement with the original"
    raise CheckFailed(
        f"{what} fell by {found.drop:.2f} points, and {most:g} are allowed; nothing was written."
        " Remove less (--ratio), restore more (--calibration DATA --reconstruct), or have"
        " --search find the smallest model that passes"
    )


# -- a file of samples ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Samples:
    feeds: Feeds
    labels: Array | None
    vocabulary: list[str] | None
    batch: int
    #: The model takes batches of this size and no other.
    filled: bool

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))

    def batches(self) -> Iterator[tuple[Feeds, Array | None, int]]:
        """Feeds, labels, and how many of the feeds' samples are real: the last batch is filled."""
        for at in range(0, len(self), self.batch):
            index = np.arange(at, at + self.batch)
            real = int((index < len(self)).sum())
            if not self.filled:
                index = index[:real]
            labels = None if self.labels is None else self.labels[index[:real]]
            feeds = {name: value[index % len(self)] for name, value in self.feeds.items()}
            yield feeds, labels, real


def _is_file(data: str) -> bool:
    return ".npz:" in data or data.endswith(".npz") or ":" not in data


def _read(model: ModelProto, data: str) -> _Samples:
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
    vocabulary = arrays.pop("vocabulary", None)
    specs = input_specs(model)
    names = [spec.name for spec in specs]
    if len(names) == 1 and names[0] not in arrays and len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if missing := [name for name in names if name not in arrays]:
        raise UsageError(f"{path}: has no array for input {missing[0]!r}; it has {list(arrays)}")
    feeds = {name: arrays[name] for name in names}
    counts = {len(value) for value in feeds.values()} | (
        {len(labels)} if labels is not None else set()
    )
    if len(counts) != 1 or counts == {0}:
        raise UsageError(f"{path}: its arrays have unlike numbers of samples: {sorted(counts)}")
    fixed = next((spec.dims[0] for spec in specs if spec.dims), None)
    spelled = None if vocabulary is None else [str(token) for token in vocabulary]
    if isinstance(fixed, int):
        return _Samples(feeds, labels, spelled, fixed, True)
    return _Samples(feeds, labels, spelled, _BATCH, False)


def _on_samples(sessions: list[Any], samples: _Samples, name: str | None) -> Evaluation:
    agreed = _Agreement()
    made: list[dict[str, Metric]] = []
    for feeds, labels, real in samples.batches():
        outputs = [next(iter(run(live, feeds).values()))[:real] for live in sessions]
        agreed.add(*outputs)
        if labels is None:
            continue
        if not made:
            names = _metrics(name or natural(labels, outputs[0]), outputs[0])
            made = [{n: METRICS[n].make(samples.vocabulary) for n in names} for _ in sessions]
        for metrics, output in zip(made, outputs, strict=True):
            for metric in metrics.values():
                metric.add(output, labels)
    found = [{n: metric.value() for n, metric in metrics.items()} for metrics in made]
    first = next(iter(made[0])) if made else None
    return Evaluation(
        len(samples),
        first,
        found[0][first] if first else None,
        found[1][first] if first else None,
        agreed.share,
        agreed.cosine,
        agreed.relative_error,
        METRICS[first].higher if first else True,
        {n: (found[0][n], found[1][n]) for n in list(made[0])[1:]} if made else {},
    )


def _metrics(first: str, output: Array) -> list[str]:
    """The metric asked for, and what goes with it."""
    if first == "top-1" and output.ndim == 2 and output.shape[1] > _MANY_CLASSES:
        return ["top-1", "top-5"]
    return ["character-error", "word-error"] if first == "character-error" else [first]


@dataclass
class _Agreement:
    """How far two models' first outputs agree, over all batches."""

    same: int = 0
    counted: int = 0
    dot: float = 0.0
    first: float = 0.0
    second: float = 0.0
    off: float = 0.0

    def add(self, a: Array, b: Array) -> None:
        same = classes(a) == classes(b)
        self.same, self.counted = self.same + int(same.sum()), self.counted + same.size
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        self.dot += float(x @ y)
        self.first += float(x @ x)
        self.second += float(y @ y)
        self.off += float(((x - y) ** 2).sum())

    @property
    def share(self) -> float:
        return self.same / max(1, self.counted)

    @property
    def cosine(self) -> float:
        norm = float(np.sqrt(self.first * self.second))
        return self.dot / norm if norm else float(self.first == self.second)

    @property
    def relative_error(self) -> float:
        return float(np.sqrt(self.off / self.first)) if self.first else float(self.off > 0)


# -- a function of the user's ---------------------------------------------------------------------


def _by_function(sessions: list[Any], name: str) -> Evaluation:
    function = _function(name)
    first, second = (_numbers(function(live), name) for live in sessions)
    if first.keys() != second.keys():
        raise UsageError(f"{name}: it returned {list(first)} once and {list(second)} then")
    values = {key: (first[key], second[key]) for key in first}
    metric = next(iter(values))
    before, after = values.pop(metric)
    return Evaluation(None, metric, before, after, None, others=values)


def _function(name: str) -> Callable[[Any], Any]:
    module, _, attribute = name.rpartition(":")
    try:
        if module.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module).stem, module)
            assert spec is not None and spec.loader is not None
            loaded = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
        else:
            if "" not in sys.path:
                sys.path.insert(0, "")  # as `python -m` does
            loaded = importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise UsageError(f"--eval {name}: {module} can't be imported: {error}") from error
    function = getattr(loaded, attribute, None)
    if not callable(function):
        raise UsageError(f"--eval {name}: {module} has no function {attribute!r}")
    found: Callable[[Any], Any] = function
    return found


def _numbers(value: Any, name: str) -> dict[str, float]:
    given = value if isinstance(value, Mapping) else {name.rpartition(":")[2]: value}
    try:
        numbers = {str(key): float(each) for key, each in given.items()}
    except (TypeError, ValueError):
        numbers = {}
    if not numbers or not all(np.isfinite(each) for each in numbers.values()):
        raise UsageError(f"--eval {name}: it returned {str(value)[:80]!r}, not a number")
    return numbers
