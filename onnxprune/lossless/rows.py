"""What a constant has at each channel of a dim: the rows of a matrix, of which little is copied.

The channels of an attention head lie apart in a weight, and along its columns: to put them side by
side is a copy of all of it. To tell one from the other, their first few elements mostly do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..axes import Dim, Index
from ..model import Array

Floats = NDArray[np.float64]
#: Where each dim is on an axis: positions, and the dim's channel at each.
Places = Mapping[Dim, Sequence[tuple[Index, Index]]]

#: Elements: what is larger is not copied to float64.
_LARGE = 1 << 18


@dataclass(frozen=True)
class Rows:
    """Row k is all that a tensor has at channel k, times `scale[k]`."""

    #: The tensor, the axis of the channels first, `[size, ...]`.
    tensor: Array
    #: At which indices of that axis each channel is, `[n, times]`.
    places: Index
    scale: Floats | None = None

    @classmethod
    def of(cls, matrix: Array) -> Rows:
        """The rows of a matrix `[n, m]`."""
        return cls(matrix, np.arange(len(matrix))[:, None])

    @property
    def width(self) -> int:
        """Elements of a row."""
        times: int = self.places.shape[1]
        return times * math.prod(self.tensor.shape[1:])

    def scaled(self, scale: Floats) -> Rows:
        """These rows, each times a number `[n]`."""
        return replace(self, scale=scale if self.scale is None else self.scale * scale)

    def all(self) -> Floats:
        """The whole matrix, `[n, width]`."""
        return self._matrix(self.tensor, self.places, self.scale)

    def take(self, which: Index) -> Floats:
        """Some of the rows, whole."""
        return self._matrix(
            self.tensor, self.places[which], None if self.scale is None else self.scale[which]
        )

    def begin(self, count: int) -> Floats:
        """The first so many elements of each row."""
        tensor, inner = self.tensor, math.prod(self.tensor.shape[1:])
        times = -(-count // max(1, inner))
        if times <= 1 and tensor.ndim > 1:
            tensor = tensor[:, : -(-count // max(1, math.prod(tensor.shape[2:])))]
        return self._matrix(tensor, self.places[:, :times], self.scale)[:, :count]

    def bounds(self) -> tuple[Floats, Floats]:
        """The least and the greatest element of each row, `[n]`, without a scale."""
        assert self.scale is None
        others = tuple(range(1, self.tensor.ndim))
        low = self.tensor.min(axis=others)[self.places].min(axis=1)
        high = self.tensor.max(axis=others)[self.places].max(axis=1)
        return low.astype(np.float64), high.astype(np.float64)

    @staticmethod
    def _matrix(tensor: Array, places: Index, scale: Floats | None) -> Floats:
        order = places.ravel()
        run = len(order) and (order == np.arange(order[0], order[0] + len(order))).all()
        # A run of indices is a view; where it lies as it is asked for, nothing is copied.
        chosen = tensor[order[0] : order[0] + len(order)] if run else tensor[order]
        found: Floats = chosen.reshape(len(places), -1)
        if found.dtype != np.float32 or found.size <= _LARGE:
            found = found.astype(np.float64)
        return found if scale is None else found * scale[:, None]


def rows(value: Array, axes: Sequence[Places], dim: Dim, axis: int | None = None) -> Rows | None:
    """The rows of `value` along the axis that is named, or the only one with the dim.

    None where the dim is not there, or on several axes and none is named.
    """
    on = [i for i, each in enumerate(axes) if dim in each and axis in (None, i)]
    if len(on) != 1:
        return None
    found = axes[on[0]][dim]
    positions = np.concatenate([p for p, _ in found])
    channels = np.concatenate([c for _, c in found])
    order = positions[np.argsort(channels, kind="stable")]
    return Rows(np.moveaxis(value, on[0], 0), order.reshape(dim.size or 0, -1))
