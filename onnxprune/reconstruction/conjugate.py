"""Conjugate gradients for the step of a pair: least squares in the weights of both its layers.

    J δ = Σ H(slope · (X δw + δb)) w' + H δw' + δb'   ≈   what is missing

Nothing but products with J and its transpose is asked for (Hestenes and Stiefel, 1952, with
Levenberg's damping). The preconditioner is what JᵀJ would be if slopes had nothing to do with X:
for each layer, the Gram matrix of its input times how much y moves with each of its outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..axes import Index
from ..model import Array
from .beside import in_order
from .gram import Matrix

#: W `[g, k, o]` and b `[g, o]` of each layer: the feeders, then the reader.
Weights = list[tuple[Matrix, Matrix]]


class Gather:
    """H `[g, n r, k]` of values in the rows of Z `[g, n r, o]`, and the transpose of that.

    Args:
        where: for one unit of a batch, the place in its Z of each element of its H, counted from 1;
            0 for what is padded. `[g, r, k]`
        size: how many places there are.
    """

    def __init__(self, where: Index, size: int) -> None:
        self.shape, self.size = where.shape, size
        self.where = where.ravel()
        order = np.argsort(self.where, kind="stable")
        order = order[np.searchsorted(self.where[order], 1) :]
        places = self.where[order]
        self.order = order
        self.starts = np.flatnonzero(np.diff(places, prepend=0))
        self.places = places[self.starts] - 1

    def __call__(self, z: Array) -> Array:
        g, _, o = z.shape
        n = z.size // self.size
        units = z.reshape(g, n, -1, o).transpose(1, 0, 2, 3).reshape(n, -1)
        padded = np.concatenate([np.zeros((n, 1), z.dtype), units], axis=1)
        found = np.take(padded, self.where, axis=1).reshape(n, *self.shape)
        return np.asarray(found.transpose(1, 0, 2, 3).reshape(self.shape[0], -1, self.shape[2]))

    def back(self, h: Array, shape: Sequence[int]) -> Array:
        """Of values in the rows of H: what each place of a Z of this shape is read as, summed."""
        g, r, k = self.shape
        units = h.reshape(g, -1, r, k).transpose(1, 0, 2, 3).reshape(-1, g * r * k)
        found = np.zeros((len(units), self.size), dtype=h.dtype)
        if len(self.order):
            taken = np.take(units, self.order, axis=1)
            found[:, self.places] = np.add.reduceat(taken, self.starts, axis=1)
        groups, _, o = shape
        parts = found.reshape(len(units), groups, -1, o).transpose(1, 0, 2, 3)
        return np.asarray(parts.reshape(groups, -1, o))


@dataclass
class Tangent:
    """One batch, and how y moves there at some weights."""

    #: Of each feeder, X `[g, r, k]`, the slopes of h in its products `[g, r, o]`, the way to H.
    x: list[Array]
    slopes: list[Array]
    gathers: list[Gather]
    #: Of the reader, H `[g, r, k]` and what y lacks `[g, r, o]`, in units of the emphasis.
    h: Array
    missing: Array


class Solver:
    """The step that some tangents ask for.

    Args:
        reader: w' `[g, k, o]` as y is made with it.
        emphasis: how much an error in each output counts, `[g, 1, o]`.
        threads: tangents that are multiplied with at once.
    """

    def __init__(
        self,
        tangents: Sequence[Tangent],
        weights: Weights,
        reader: Array,
        emphasis: Array,
        damping: float,
        threads: int = 1,
    ) -> None:
        self.tangents, self.emphasis, self.threads = tangents, emphasis, threads
        self.zero: Weights = [(np.zeros_like(w), np.zeros_like(b)) for w, b in weights]
        self.reader = reader.astype(np.float32)
        self.inverses: list[Matrix] = []
        self.curvature: list[Matrix] = []
        self.damping: list[float] = []
        strength = np.square(self.reader * emphasis).sum(axis=2)
        for i, gather in enumerate(tangents[0].gathers):
            moved = np.ascontiguousarray(np.broadcast_to(strength[:, None], gather.shape))
            moved = gather.back(moved, tangents[0].slopes[i].shape).mean(axis=1)
            slopes = np.mean([np.square(t.slopes[i]).mean(axis=1) for t in tangents], axis=0)
            self._precondition([t.x[i] for t in tangents], moved * slopes, damping)
        square = np.broadcast_to(np.square(emphasis[:, 0]), self.zero[-1][1].shape)
        self._precondition([t.h for t in tangents], square, damping)

    def _precondition(self, blocks: Sequence[Array], curvature: Array, damping: float) -> None:
        curvature = np.maximum(curvature, 1e-6 * max(float(curvature.max()), 1e-30))
        self.curvature.append(curvature.astype(np.float64))
        g, _, k = blocks[0].shape
        gram = np.zeros((g, k + 1, k + 1))
        for x in blocks:
            gram[:, :k, :k] += x.transpose(0, 2, 1) @ x
            total = x.sum(axis=1, dtype=np.float64)
            gram[:, :k, k] += total
            gram[:, k, :k] += total
            gram[:, k, k] += x.shape[1]
        size = np.maximum(np.trace(gram[:, :k, :k], axis1=1, axis2=2) / k, 1e-30)
        self.damping.append(float(damping * size.mean() * curvature.mean()))
        ridge = 10 * damping * size[:, None, None]
        self.inverses.append(np.linalg.inv(gram + ridge * np.eye(k + 1)))

    def solve(self, steps: int) -> Weights:
        """The step after so many iterations."""
        missing = [tangent.missing for tangent in self.tangents]
        step = self.zero
        gradient = self._back(missing)
        ahead = way = self._preconditioned(gradient)
        size = _dot(gradient, way)
        for _ in range(steps):
            moved = list(self._forward(ahead))
            curve = sum(float(np.square(m).sum(dtype=np.float64)) for m in moved)
            curve += sum(
                d * float(np.square(w).sum()) for d, (w, _) in zip(self.damping, ahead, strict=True)
            )
            if not (size > 0 and curve > 0):
                break
            length = size / curve
            step = combined(step, ahead, length)
            missing = [m - np.float32(length) * v for m, v in zip(missing, moved, strict=True)]
            gradient = [
                (w - d * s, b)
                for (w, b), d, (s, _) in zip(self._back(missing), self.damping, step, strict=True)
            ]
            way = self._preconditioned(gradient)
            size, old = _dot(gradient, way), size
            ahead = combined(way, ahead, size / old)
        return step

    def _forward(self, step: Weights) -> Iterator[Array]:
        """J δ, batch by batch."""

        def moved(tangent: Tangent) -> Array:
            y = affine(tangent.h, *step[-1])
            for x, slope, gather, (w, b) in zip(
                tangent.x, tangent.slopes, tangent.gathers, step, strict=False
            ):
                y += gather(affine(x, w, b) * slope) @ self.reader
            return y * self.emphasis

        return in_order(moved, self.tangents, self.threads)

    def _back(self, missing: Sequence[Array]) -> Weights:
        """Jᵀ of something like y."""

        def back(both: tuple[Tangent, Array]) -> list[tuple[Array, Matrix]]:
            tangent, given = both
            r = given * self.emphasis
            wide = r @ self.reader.transpose(0, 2, 1)
            parts = [
                gather.back(wide, slope.shape) * slope
                for slope, gather in zip(tangent.slopes, tangent.gathers, strict=True)
            ]
            return [
                (x.transpose(0, 2, 1) @ z, z.sum(axis=1, dtype=np.float64))
                for x, z in zip([*tangent.x, tangent.h], [*parts, r], strict=True)
            ]

        found = [(w.copy(), b.copy()) for w, b in self.zero]
        pairs = zip(self.tangents, missing, strict=True)
        for each in in_order(back, pairs, self.threads):
            for (w, b), (dw, db) in zip(found, each, strict=True):
                w += dw
                b += db
        return found

    def _preconditioned(self, gradient: Weights) -> Weights:
        found = []
        for (w, b), inverse, curvature in zip(gradient, self.inverses, self.curvature, strict=True):
            both = inverse @ (np.concatenate([w, b[:, None]], axis=1) / curvature[:, None])
            found.append((both[:, :-1], both[:, -1]))
        return found


def affine(x: Array, w: Matrix, b: Matrix) -> Array:
    """`x w + b`, in float32."""
    return np.asarray(x @ w.astype(np.float32) + b[:, None].astype(np.float32))


def combined(a: Weights, b: Weights, scale: float) -> Weights:
    """`a + scale b`."""
    return [(w + scale * v, x + scale * y) for (w, x), (v, y) in zip(a, b, strict=True)]


def _dot(a: Weights, b: Weights) -> float:
    return sum(
        float(np.vdot(x, y)) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )
