"""Gram matrices of a least-squares problem, accumulated block by block in float64.

All that a linear fit needs of the data: XᵀX, XᵀY and the sums of X and Y. Their size does not
depend on how many rows have been seen. Products of a block are float32 (the data is), sums over
blocks float64; a shift near the mean is taken off first, so that nothing cancels.
"""

from __future__ import annotations

from copy import copy

import numpy as np
from numpy.typing import NDArray

from ..axes import Index
from ..model import Array

Matrix = NDArray[np.float64]

#: What is added up when rows are.
_SUMS = ("xx", "xy", "yy", "sx", "sy")


class Gram:
    """XᵀX `[g, k, k]`, XᵀY `[g, k, o]` and what goes with them, of rows shifted by x0 and y0.

    Sums are float64.
    """

    def __init__(self, x0: Array, y0: Array) -> None:
        g, k = x0.shape
        o = y0.shape[1]
        self.x0, self.y0 = x0.astype(np.float64), y0.astype(np.float64)
        self.rows = 0
        self.xx: Array = np.zeros((g, k, k))
        self.xy: Array = np.zeros((g, k, o))
        self.yy: Matrix = np.zeros((g, o))
        self.sx: Matrix = np.zeros((g, k))
        self.sy: Matrix = np.zeros((g, o))

    @classmethod
    def like(cls, first: Gram) -> Gram:
        """An empty one with the same shift, so that the two can be added."""
        return cls(first.x0, first.y0)

    @classmethod
    def of(cls, like: Gram, x: Array, y: Array) -> Gram:
        """That of some rows alone, with the same shift; float32, as its products are."""
        found = cls.__new__(cls)
        found.x0, found.y0 = like.x0, like.y0
        x = x - like.x0[:, None].astype(x.dtype)
        y = y - like.y0[:, None].astype(y.dtype)
        xt = x.transpose(0, 2, 1)
        found.rows = x.shape[1]
        found.xx = xt @ x
        found.xy = xt @ y
        found.yy = np.einsum("gro,gro->go", y, y, dtype=np.float64)
        found.sx = x.sum(axis=1, dtype=np.float64)
        found.sy = y.sum(axis=1, dtype=np.float64)
        return found

    def add(self, x: Array, y: Array) -> None:
        """Take in rows: X `[g, rows, k]`, Y `[g, rows, o]`."""
        self += Gram.of(self, x, y)

    def small(self) -> Gram:
        """In half the memory: products in float32, which is enough to look at them."""
        found = copy(self)
        found.xx, found.xy = self.xx.astype(np.float32), self.xy.astype(np.float32)
        return found

    def __iadd__(self, other: Gram) -> Gram:
        self.rows += other.rows
        for name in _SUMS:
            mine: Matrix = getattr(self, name)
            mine += getattr(other, name)
        return self

    def __add__(self, other: Gram) -> Gram:
        both = copy(self)
        both.rows = self.rows + other.rows
        for name in _SUMS:
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def covariance(self) -> tuple[Matrix, Matrix]:
        """XᵀX and XᵀY with the means taken off."""
        n = max(self.rows, 1)
        xx = self.xx - self.sx[:, :, None] * self.sx[:, None, :] / n
        xy = self.xy - self.sx[:, :, None] * self.sy[:, None, :] / n
        return xx, xy

    def intercept(self, w: Matrix) -> Matrix:
        """The b `[g, o]` that fits best with W `[g, k, o]`."""
        n = max(self.rows, 1)
        x, y = self.sx / n + self.x0, self.sy / n + self.y0
        return np.asarray(y - np.einsum("gk,gko->go", x, w))

    def errors(self, w: Matrix, b: Matrix) -> Matrix:
        """The sum over rows of the squared error of `X @ W + b`, `[g, o]`."""
        off = b + np.einsum("gk,gko->go", self.x0, w) - self.y0
        found = (
            self.yy
            + np.einsum("gko,gko->go", w, self.xx @ w - 2 * self.xy)
            + self.rows * off**2
            + 2 * off * (np.einsum("gk,gko->go", self.sx, w) - self.sy)
        )
        return np.asarray(np.maximum(found, 0.0))

    def spread(self) -> Matrix:
        """The sum over rows of Y's squared distance from its mean, `[g, o]`."""
        return np.asarray(np.maximum(self.yy - self.sy**2 / max(self.rows, 1), 0.0))

    def part(self, unknowns: Index, outputs: Index) -> Gram:
        """Of a problem with g = 1: these unknowns and outputs alone."""
        small = Gram(self.x0[:, unknowns], self.y0[:, outputs])
        small.rows = self.rows
        small.xx = self.xx[:, unknowns[:, None], unknowns]
        small.xy = self.xy[:, unknowns[:, None], outputs]
        small.yy, small.sy = self.yy[:, outputs], self.sy[:, outputs]
        small.sx = self.sx[:, unknowns]
        return small
