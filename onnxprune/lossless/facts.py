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
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Slices are proportional when they differ by less than this, relative to their norm: a few units
#: in the last place of float32.
ALIKE = 2e-6

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
        keys = list(zip(self.label.tolist(), _rounded(self.scale), strict=True))
        return Facts(_named(keys), np.ones_like(self.scale), self.low, self.high)

    def signed(self) -> Facts:
        """Of an operator that commutes with positive factors only."""
        keys = list(zip(self.label.tolist(), np.sign(self.scale).tolist(), strict=True))
        return Facts(_named(keys), np.abs(self.scale), self.low, self.high)


#: The label of constant channels.
ONES = -1


def _fresh(n: int) -> Ints:
    return np.fromiter(itertools.islice(_labels, n), np.int64, n)


def _named(keys: Sequence[Hashable]) -> Ints:
    """One fresh label for each different key."""
    names: dict[Hashable, int] = {}
    for key in keys:
        if key not in names:
            names[key] = next(_labels)
    return np.array([names[key] for key in keys], dtype=np.int64)


def _rounded(x: Floats) -> list[float]:
    return [float(f"{value:.6g}") for value in x]


def pairs(a: Facts, b: Facts) -> tuple[Ints, Floats]:
    """Labels and scales of a sum of slices: alike where both are, in the same proportion."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(a.scale != 0, b.scale / a.scale, np.inf)
    # Nothing added to nothing says nothing: the other operand's own facts hold.
    keys: list[Hashable] = list(
        zip(a.label.tolist(), b.label.tolist(), _rounded(ratio), strict=True)
    )
    label, scale = _named(keys), a.scale.copy()
    for zero, other in ((a.scale == 0, b), (b.scale == 0, a)):
        label[zero], scale[zero] = other.label[zero], other.scale[zero]
    return label, scale


def products(a: Facts, b: Facts) -> tuple[Ints, Floats]:
    """Labels and scales of a product of slices."""
    keys: list[Hashable] = list(zip(a.label.tolist(), b.label.tolist(), strict=True))
    return _named(keys), a.scale * b.scale


def alike(rows: Floats, within: Ints | None = None) -> tuple[Ints, Floats]:
    """Labels and scales of rows `[n, m]`: proportional ones, up to rounding, share a label.

    Rows whose numbers in `within` differ never do. A row of zeros is zero times anything.
    """
    squares: Floats = np.asarray(np.einsum("nm,nm->n", rows, rows), np.float64)
    norm = np.sqrt(squares)
    labels = _fresh(len(rows))
    # Rows that are alike project to nearly the same number: only neighbours are compared. Large
    # weights are read twice here, and not once more.
    along = np.random.default_rng(0).standard_normal((rows.shape[1],)).astype(rows.dtype)
    projected: Floats = np.asarray(rows @ along, np.float64)
    sign: Floats = np.where(projected < 0, -1.0, 1.0)
    seen = np.abs(projected) / np.where(norm > 0, norm, 1.0)
    order = np.argsort(seen, kind="stable")
    margin = 3 * ALIKE * np.sqrt(max(1, rows.shape[1]))
    scale = norm * sign
    # One row for each label, of those whose projections are near enough to be looked at.
    near: list[int] = []
    for i in order[norm[order] > 0]:
        near = [k for k in near if seen[i] - seen[k] <= margin]
        for k in near:
            same = within is None or within[i] == within[k]
            if same and np.linalg.norm(rows[i] / scale[i] - rows[k] / scale[k]) < ALIKE:
                labels[i] = labels[k]
                break
        else:
            near.append(int(i))
    labels[norm == 0] = ONES
    return labels, scale
