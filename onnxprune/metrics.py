"""Metrics: one number from a model's first output and the labels, gathered batch by batch.

Each metric is a small accumulator: `add(output, labels)` for every batch, then `value()`. All are
shares from 0 to 1. Which one is the natural one for given labels is for `natural` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .model import Array

__all__ = ["METRICS", "Metric", "classes", "distance", "natural"]


class Metric(Protocol):
    """Gathers batches of one output, `[n, ...]`, and its labels, `[n, ...]`."""

    def add(self, output: Array, labels: Array) -> None: ...

    def value(self) -> float: ...


def classes(output: Array) -> Array:
    """The class of each sample: `[n, classes, ...]` scores become the indices of the largest.

    What is not scores (`[n]`, `[n, 1]`, integers) is taken as the classes themselves.
    """
    if output.ndim < 2 or output.shape[1] == 1 or output.dtype.kind in "iub":
        return output.reshape(len(output), -1)[:, 0] if output.ndim == 2 else output
    found: Array = output.argmax(axis=1)
    return found


@dataclass
class TopK:
    """The share of samples whose label is among the k largest scores. Labels are `[n]`.

    Where there are scores of several classes, a label below 0 says that there is none.
    """

    k: int
    right: int = 0
    samples: int = 0

    def add(self, output: Array, labels: Array) -> None:
        scores = output.reshape(len(output), -1)
        labels = labels.ravel()
        if scores.shape[1] == 1:
            self.samples += len(labels)
            self.right += int((scores[:, 0] == labels).sum())
            return
        scores, labels = scores[labels >= 0], labels[labels >= 0]
        self.samples += len(labels)
        k = min(self.k, scores.shape[1])
        best = (
            np.argpartition(-scores, k - 1, axis=1)[:, :k] if k > 1 else scores.argmax(1)[:, None]
        )
        self.right += int((best == labels[:, None]).any(axis=1).sum())

    def value(self) -> float:
        return self.right / max(1, self.samples)


@dataclass
class MeanIoU:
    """Intersection over union, averaged over the classes that occur.

    Labels are `[n, h, w]`, scores `[n, classes, h, w]`, or `[n, h, w]` of classes. Labels below 0
    and 255 are not counted (the convention of Pascal VOC and Cityscapes).
    """

    both: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    either: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, output: Array, labels: Array) -> None:
        labels = labels.reshape(len(labels), *labels.shape[-2:])
        found = classes(output).reshape(len(labels), *output.shape[-2:])
        if found.shape != labels.shape:
            found = _resized(found, labels.shape[-2:])
        counted = (labels >= 0) & (labels != 255)
        found, labels = found[counted].astype(np.int64), labels[counted].astype(np.int64)
        most = int(max(found.max(initial=0), labels.max(initial=0), len(self.both) - 1)) + 1
        grow = most - len(self.both)
        self.both, self.either = np.pad(self.both, (0, grow)), np.pad(self.either, (0, grow))
        both = np.bincount(found[found == labels], minlength=most)
        union = np.bincount(found, minlength=most) + np.bincount(labels, minlength=most) - both
        self.both, self.either = self.both + both, self.either + union

    def value(self) -> float:
        seen = self.either > 0
        return float((self.both[seen] / self.either[seen]).mean()) if seen.any() else 0.0


@dataclass
class ErrorRate:
    """Word or character error: edits (Levenshtein) over the length of the labels.

    Outputs are scores `[n, steps, tokens]` or tokens `[n, steps]`, read as CTC does it: repeated
    tokens count once and token 0, the blank, not at all. Labels are strings, with a `vocabulary`
    that spells each token, or tokens `[n, steps]`, padded with -1.
    """

    words: bool
    vocabulary: Sequence[str] | None = None
    edits: int = 0
    length: int = 0

    def add(self, output: Array, labels: Array) -> None:
        tokens = output.argmax(axis=-1) if output.ndim == 3 else output.astype(np.int64)
        for row, label in zip(tokens, labels, strict=True):
            found, wanted = self._read(row), self._wanted(label)
            self.edits += distance(found, wanted)
            self.length += len(wanted)

    def _read(self, row: Array) -> Sequence[object]:
        changed = np.append(True, row[1:] != row[:-1])
        tokens = [int(token) for token in row[changed] if token != 0]
        if self.vocabulary is None:
            return tokens
        text = "".join(self.vocabulary[token] for token in tokens)
        return text.split() if self.words else text

    def _wanted(self, label: Array) -> Sequence[object]:
        if self.vocabulary is None:
            return [int(token) for token in np.atleast_1d(label) if token >= 0]
        return str(label).split() if self.words else str(label)

    def value(self) -> float:
        return self.edits / max(1, self.length)


@dataclass
class RelativeError:
    """The norm of what output and labels differ by, over that of the labels."""

    off: float = 0.0
    whole: float = 0.0

    def add(self, output: Array, labels: Array) -> None:
        wanted = labels.astype(np.float64).ravel()
        self.off += float(((output.astype(np.float64).ravel() - wanted) ** 2).sum())
        self.whole += float((wanted**2).sum())

    def value(self) -> float:
        return float(np.sqrt(self.off / self.whole)) if self.whole else float(self.off > 0)


@dataclass(frozen=True)
class Kind:
    """A metric by name: how it is made, and which way is better."""

    make: Callable[[Sequence[str] | None], Metric]
    higher: bool


METRICS: dict[str, Kind] = {
    "top-1": Kind(lambda _: TopK(1), True),
    "top-5": Kind(lambda _: TopK(5), True),
    "mean-iou": Kind(lambda _: MeanIoU(), True),
    "word-error": Kind(lambda spelled: ErrorRate(True, spelled), False),
    "character-error": Kind(lambda spelled: ErrorRate(False, spelled), False),
    "relative-error": Kind(lambda _: RelativeError(), False),
}


def natural(labels: Array, output: Array) -> str:
    """The metric that labels `[n, ...]` of this kind and an output `[n, ...]` call for.

    Raises UsageError where none fits.
    """
    if labels.dtype.kind in "US":
        return "character-error"
    if labels.dtype.kind == "f" and labels.shape[1:] == output.shape[1:]:
        return "relative-error"
    if labels.size == len(labels):
        return "top-1"
    if labels.ndim >= 3 and output.ndim >= 3:
        return "mean-iou"
    if labels.ndim == 2 and output.ndim in (2, 3):
        return "character-error"
    raise UsageError(
        f"labels of shape {list(labels.shape)} and an output of shape {list(output.shape)} fit no"
        f" built-in metric ({', '.join(METRICS)}); give --eval module:function"
    )


def distance(a: Sequence[object], b: Sequence[object]) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and substitutions from a to b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def _resized(found: Array, to: Sequence[int]) -> Array:
    """Classes `[n, h, w]` at the nearest of the label's pixels."""
    rows = np.arange(to[0]) * found.shape[1] // to[0]
    columns = np.arange(to[1]) * found.shape[2] // to[1]
    resized: Array = found[:, rows][:, :, columns]
    return resized
