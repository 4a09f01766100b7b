"""What is known of the channels of one tensor along one dim, without running the model.

Slice k of a tensor along a dim is everything at index k of that dim. Two facts are followed:

- bounds: every element of the slice is in [low, high]; where both are equal, the channel is
  constant;
- likeness: slice k is `scale[k]` times a tensor that it shares with all slices of the same `label`.

Both are sound for any input of the model. Nothing known is labels of one's own, scales of one, and
infinite bounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model import Array
from .rows import Floats, Rows

Ints = NDArray[np.int64]

#: Slices are proportional when they differ by less than this, relative to their norm: a few units
#: in the last place of float32.
ALIKE = 2e-6

#: A difference of the length ALIKE has, along a random normal vector, a standard deviation of
#: ALIKE: rows that are alike project to numbers no further apart than this, rounding included.
_MARGIN = 10 * ALIKE

_labels = itertools.count()


@dataclass(frozen=True)
class Facts:
    """Facts on the n slices of a tensor along one dim, `[n]` each."""

    label: Ints
    scale: Floats
    low: Floats
    high: Floats

    @classmethod
    def unknown(cls, n: int) -> Facts:
        return cls(_fresh(n), np.ones(n), np.full(n, -np.inf), np.full(n, np.inf))

    @property
    def constant(self) -> NDArray[np.bool_]:
        """The channels that have one value everywhere, which is `low`."""
        found: NDArray[np.bool_] = (self.low == self.high) & np.isfinite(self.low)
        return found

    def bounded(self, low: Floats, high: Floats) -> Facts:
        """These facts with other bounds. Constant channels are alike: multiples of ones."""
        label, scale = self.label.copy(), self.scale.copy()
        flat = (low == high) & np.isfinite(low)
        label[flat], scale[flat] = ONES, low[flat]
        return Facts(label, scale, low, high)

    def unscaled(self) -> Facts:
        """Of an operator that is not homogeneous: slices are alike where their scales are, too."""
        label = _named([self.label], self.scale)
        return Facts(label, np.ones_like(self.scale), self.low, self.high)

    def signed(self) -> Facts:
        """Of an operator that commutes with positive factors only."""
        label = _named([self.label], np.sign(self.scale))
        return Facts(label, np.abs(self.scale), self.low, self.high)


#: Rows longer than this (elements) are told apart by so many elements at their beginning, mostly.
_WIDE, _SKETCH = 1024, 256
#: Elements along each other axis that are looked at first for one that is not zero.
_FEW = 8

#: The label of constant channels.
ONES = -1


def _fresh(n: int) -> Ints:
    return np.fromiter(itertools.islice(_labels, n), np.int64, n)


def _named(labels: Sequence[Ints], factors: Floats | None = None) -> Ints:
    """One fresh label for each different row of labels, and of factors up to rounding."""
    n = len(labels[0])
    if any(map(_differ, labels)):
        return _fresh(n)
    columns: list[list[int] | list[float]] = [each.tolist() for each in labels]
    if factors is not None:
        columns.append([float(f"{factor:.6g}") for factor in factors])
    names: dict[tuple[float, ...], int] = {}
    keys = list(zip(*columns, strict=True))
    for key in keys:
        if key not in names:
            names[key] = next(_labels)
    return np.array([names[key] for key in keys], dtype=np.int64)


def pairs(a: Facts, b: Facts) -> tuple[Ints, Floats]:
    """Labels and scales of a sum of slices: alike where both are, in the same proportion."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(a.scale != 0, b.scale / a.scale, np.inf)
    # Nothing added to nothing says nothing: the other operand's own facts hold.
    label, scale = _named([a.label, b.label], ratio), a.scale.copy()
    for zero, other in ((a.scale == 0, b), (b.scale == 0, a)):
        label[zero], scale[zero] = other.label[zero], other.scale[zero]
    return label, scale


def products(a: Facts, b: Facts) -> tuple[Ints, Floats]:
    """Labels and scales of a product of slices."""
    return _named([a.label, b.label]), a.scale * b.scale


def alike(*parts: Floats | Rows, within: Ints | None = None) -> tuple[Ints, Floats]:
    """Labels and scales of n rows, which lie side by side in the parts `[n, m]`.

    Rows that are proportional up to rounding share a label. Rows whose numbers in `within` differ
    never do. A row of zeros is zero times anything.
    """
    matrices = [part if isinstance(part, Rows) else Rows.of(part) for part in parts]
    if matrices[0].width > _WIDE:
        return _alike_wide(matrices, within)
    return _alike([each.all() for each in matrices], within)


def _alike(parts: Sequence[Floats], within: Ints | None) -> tuple[Ints, Floats]:
    n = len(parts[0])
    norm: Floats = np.sqrt(_dots(parts, parts))
    labels = _fresh(n)
    labels[norm == 0] = ONES
    if within is not None and _differ(within):
        return labels, norm
    # Rows that are alike project to nearly the same number: only neighbours are compared.
    random = np.random.default_rng(0)
    projected = np.sum([_projected(part, random) for part in parts], axis=0)
    scale: Floats = np.where(projected < 0, -norm, norm)
    order = np.flatnonzero(norm > 0)
    seen = np.abs(projected[order]) / norm[order]
    place = np.argsort(seen, kind="stable")
    order, seen = order[place], seen[place]
    end = np.searchsorted(seen, seen + _MARGIN, side="right")
    first = np.ones(n, dtype=bool)  # of its label
    # Of many rows, some are neighbours by chance: their first elements tell most of them apart.
    with np.errstate(divide="ignore", invalid="ignore"):
        lead = parts[0][:, 0] / scale
    for at in np.flatnonzero(end > np.arange(len(order)) + 1):
        i, near = order[at], order[at + 1 : end[at]]
        if not first[i]:
            continue
        near = near[first[near] & (np.abs(lead[near] - lead[i]) < ALIKE)]
        if within is not None:
            near = near[within[near] == within[i]]
        for k in near:
            apart = [np.linalg.norm(part[i] / scale[i] - part[k] / scale[k]) for part in parts]
            if np.hypot.reduce(apart) < ALIKE:
                labels[k], first[k] = labels[i], False
    return labels, scale


def _alike_wide(parts: Sequence[Rows], within: Ints | None) -> tuple[Ints, Floats]:
    """The same for long rows: those that begin like no other are like no other."""
    labels, scale = _alike([parts[0].begin(_SKETCH)], within)
    _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    doubtful = np.flatnonzero((counts[which] > 1) | (scale == 0))
    if len(doubtful):
        # Compared in pieces, so that what is left to compare is short enough.
        rest = [piece for part in parts for piece in _pieces(part.take(doubtful))]
        mine = None if within is None else within[doubtful]
        labels[doubtful], scale[doubtful] = _alike(rest, mine)
    return labels, scale


def nonzero(value: Array, axis: int) -> NDArray[np.bool_]:
    """Whether there is anything but zeros at each position of an axis."""
    moved = np.moveaxis(value, axis, 0)
    others = tuple(range(1, value.ndim))
    # The first few elements say it of most; only where these are zeros are all looked at.
    begin = (slice(None), *(slice(_FEW) for _ in others))
    few = moved[begin]
    found = np.asarray(few.any(axis=others) if others else few != 0)
    left = np.flatnonzero(~found)
    if len(left) and few.size < moved.size:
        found[left] = moved[left].any(axis=others)
    return found


def _pieces(part: Floats) -> list[Floats]:
    return [part[:, at : at + _WIDE] for at in range(0, part.shape[1], _WIDE)]


def _dots(parts: Sequence[Floats], others: Sequence[Floats]) -> Floats:
    """The inner products of rows, `[n]`, in double precision and without copies of the parts."""
    found: Floats = np.sum(
        [
            np.einsum("nm,nm->n", part, other, dtype=np.float64)
            for part, other in zip(parts, others, strict=True)
        ],
        axis=0,
    )
    return found


def _projected(part: Floats, random: np.random.Generator) -> Floats:
    """The inner products of rows with a random one, `[n]`; of single precision, as precise."""
    other = np.asarray(random.standard_normal(part.shape[1]), dtype=part.dtype)
    return np.asarray(part @ other, dtype=np.float64)


def _differ(values: Ints) -> bool:
    """Whether no two are equal."""
    return len(set(values.tolist())) == len(values)
