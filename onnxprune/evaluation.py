"""Accuracy of two models on the same data: a metric of each, and how far their outputs agree.

The data is an .npz file, with labels or without, or a function of the user's own that is given a
session of onnxruntime and measures what it likes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from .calibration import Calibration
from .errors import CheckFailed, UsageError
from .metrics import METRICS, Metric, classes, natural
from .model import Array
from .reconstruction.probes import output_kinds
from .runtime import Feeds, input_specs, run, session
from .samples import LABELLED, Slots, Table

_BATCH = 64
#: Bytes of the original's outputs that are kept from one evaluation to the next.
_HELD = 1 << 28
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
      named. Where inputs have no batch axis (a network on the nodes of a graph), one feed, and the
      labels of its rows, or a series of both. Without labels only the two models are compared. An
      array `vocabulary` spells the tokens of a speech model.
    - `module:function` or `FILE.py:function`: called with an `onnxruntime.InferenceSession`, it
      returns a number, more being better, or `{name: number}`, of which the first counts.

    `metric` is one of `METRICS`; without it the labels decide.

    Raises UsageError where the data does not fit the model.
    """
    return Judge(before, data, base_dir, threads, metric)(after)


class Judge:
    """Evaluates model after model against one original, of which nothing is read or run twice.

    `data` is as for `evaluate`, or inputs without labels: then agreement counts where the first
    output is one of classes, and else the relative error of all outputs.

    Raises UsageError where the data does not fit the model.
    """

    def __init__(
        self,
        before: ModelProto,
        data: str | Calibration,
        base_dir: Path,
        threads: int = 1,
        metric: str | None = None,
    ) -> None:
        if metric is not None and metric not in METRICS:
            raise UsageError(f"unknown metric {metric!r}; known are {', '.join(METRICS)}")
        self.data = data
        self.metric = metric
        self._settings: dict[str, Any] = {"threads": threads, "base_dir": base_dir}
        self._original = session(before, optimize=True, **self._settings)
        self._samples = _read(before, data) if isinstance(data, str) and is_file(data) else None
        self._numbers: dict[str, float] | None = None
        #: Outputs of the original, batch by batch, as far as there is room.
        self._outputs: list[Feeds] = []
        self._room = _HELD
        self._lock = threading.Lock()

    def __call__(self, after: ModelProto) -> Evaluation:
        """What there is to say of another model; raises as `runtime.session` and `run` do."""
        live = session(after, optimize=True, **self._settings)
        if self._samples is not None:
            return self._on_samples(live, self._samples)
        if isinstance(self.data, str):
            return self._by_function(live, self.data)
        return self._on_inputs(live, self.data)

    def _wanted(self, batch: int, feeds: Feeds) -> Feeds:
        """What the original says of a batch."""
        if batch < len(self._outputs):
            return self._outputs[batch]
        found = run(self._original, feeds)
        size = sum(x.nbytes for x in found.values())
        with self._lock:  # a worker of a cluster may run trials side by side
            if batch == len(self._outputs) and size <= self._room:
                self._outputs.append(found)
                self._room -= size
        return found

    def _on_samples(self, live: Any, samples: _Samples | _Whole) -> Evaluation:
        agreed = _Agreement()
        made: list[dict[str, Metric]] = []
        for i, (feeds, labels, real) in enumerate(samples.batches()):
            pair = (self._wanted(i, feeds), run(live, feeds))
            outputs = [next(iter(each.values()))[:real] for each in pair]
            agreed.add(*outputs)
            if labels is None:
                continue
            if not made:
                names = _metrics(self.metric or natural(labels, outputs[0]), outputs[0])
                made = [{n: METRICS[n].make(samples.vocabulary) for n in names} for _ in outputs]
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

    def _on_inputs(self, live: Any, inputs: Calibration) -> Evaluation:
        agreed: dict[str, _Agreement] = {}
        samples = 0
        kinds: dict[str, str] = {}
        for i, (feeds, real) in enumerate(inputs.padded(_BATCH)):
            wanted, given = self._wanted(i, feeds), run(live, feeds)
            kinds = kinds or output_kinds(wanted)
            samples += real
            for name, value in wanted.items():
                if kinds[name]:
                    whole = (value, given[name]) if value.ndim else (value[None], given[name][None])
                    agreed.setdefault(name, _Agreement()).add(*(each[:real] for each in whole))
        if not agreed:
            raise UsageError("no output of the model is made of numbers that can be compared")
        errors = [each.relative_error for each in agreed.values()]
        error = sum(errors) / len(errors)
        first = next(iter(agreed))
        if kinds[first] == "values":
            return Evaluation(
                samples, "relative-error", 0.0, error, None, agreed[first].cosine, error, False
            )
        return Evaluation(
            samples, None, None, None, agreed[first].share, agreed[first].cosine, error
        )

    def _by_function(self, live: Any, name: str) -> Evaluation:
        function = _function(name)
        if self._numbers is None:
            self._numbers = _numbers(function(self._original), name)
        first, second = self._numbers, _numbers(function(live), name)
        if first.keys() != second.keys():
            raise UsageError(f"{name}: it returned {list(first)} once and {list(second)} then")
        values = {key: (first[key], second[key]) for key in first}
        metric = next(iter(values))
        before, after = values.pop(metric)
        return Evaluation(None, metric, before, after, None, others=values)


def check_gate(data: str | None, most: float | None) -> None:
    """Raise UsageError where a gate is asked for and there is nothing to measure it on."""
    if most is not None and not data:
        raise UsageError("--max-drop needs --eval: data to measure the drop on")


def check_drop(found: Evaluation, most: float | None) -> None:
    """Raise CheckFailed where more than `most` points were lost."""
    if most is None or found.drop <= most:
        return
    what = found.metric if found.before is not None else "agreement with the original"
    raise CheckFailed(
        f"{what} fell by {found.drop:.2f} points, and no more than {most:g} may be lost;"
        " nothing was written. Remove less (--ratio), restore more (--calibration DATA"
        " --reconstruct), or have --search find the smallest model that passes"
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


@dataclass(frozen=True)
class _Whole:
    """Samples of a model without a batch axis: each is a feed of its own, and has many labels."""

    table: Table
    labels: Array | None
    vocabulary: list[str] | None

    def __len__(self) -> int:
        if self.labels is None or self.labels.dtype.kind not in "iu":
            return self.table.count
        return int((self.labels >= 0).sum())

    def batches(self) -> Iterator[tuple[Feeds, Array | None, int | None]]:
        """Feeds and labels of one sample after the other; all of their rows are real."""
        for i in range(self.table.count):
            feeds = dict(self.table.rows(np.array([i])))
            labels = feeds.pop(LABELLED, None)
            yield feeds, labels, None


def is_file(data: str) -> bool:
    """Whether --eval names a file of samples, and no function."""
    return ".npz:" in data or data.endswith(".npz") or ":" not in data


def _read(model: ModelProto, data: str) -> _Samples | _Whole:
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
    spelled = None if vocabulary is None else [str(token) for token in vocabulary]
    slots = Slots(specs)
    if not slots.batched:
        table = slots.table(feeds if labels is None else {**feeds, LABELLED: labels}, str(path))
        return _Whole(table, labels, spelled)
    counts = {len(value) for value in feeds.values()} | (
        {len(labels)} if labels is not None else set()
    )
    if len(counts) != 1 or counts == {0}:
        raise UsageError(f"{path}: its arrays have unlike numbers of samples: {sorted(counts)}")
    fixed = next((spec.dims[0] for spec in specs if spec.dims), None)
    if isinstance(fixed, int):
        return _Samples(feeds, labels, spelled, fixed, True)
    return _Samples(feeds, labels, spelled, _BATCH, False)


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
