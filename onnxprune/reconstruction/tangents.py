"""A pair at some weights: what it gives on some rows of the data, and how that moves with them.

    feeders  z = X w + b   →   h = φ(z)   →   reader  y = H(h) w' + b'

φ and its slopes are run in onnxruntime, whatever it is made of. Few rows are looked at, a run of
output positions in each sample, and only those positions of z that they depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..axes import Index
from ..model import Array
from ..runtime import Feeds, run
from .conjugate import Gather, Tangent, Weights, affine
from .gram import Matrix
from .parts import Place
from .problem import Problem
from .segments import Frontier


@dataclass
class View:
    """Some output positions of the reader, and where what they depend on is found.

    Elements are counted within a unit of a batch: what the layers treat each alike.
    """

    #: None for all.
    rows: Index | None
    #: The way from h to H.
    to_h: Gather
    #: Of each feeder: its rows, the element of z of each element of Z, the way from Z to H.
    feeder_rows: list[Index | None]
    of_z: list[Index]
    gathers: list[Gather]


@dataclass
class Batch:
    """One batch: the feeders' X `[g, r, k]`, the reader's target and floor `[g, r, o]`."""

    view: View
    shape: tuple[int, ...]
    units: int
    x: list[Array]
    y: Array
    floor: Array | None


class Views:
    """What may be looked at of a pair: positions in each sample, or samples' rows as they are."""

    def __init__(self, feeders: Sequence[Place], reader: Place, pruned: Frontier) -> None:
        self.feeders, self.reader = feeders, reader
        linears = [place.linear for place in (*feeders, reader)]
        self.per_image = all(linear.per_image for linear in linears)
        #: False where the layers don't lie alike: there are no units.
        self.exist = self.per_image or all(linear.per_row for linear in linears)
        like = pruned.get(reader.x, 0)
        #: Of h and each z, in one unit.
        self.shape = self._unit(like)
        self.size = int(np.prod(self.shape))
        self.inputs = [self._unit(pruned.get(place.x, 0)) for place in feeders]
        self.positions = reader.linear.positions(self.shape, reader.shape) if self.exist else 0

    def _unit(self, value: Array) -> tuple[int, ...]:
        if self.per_image:
            return (1, *value.shape[1:])
        return (*([1] * (value.ndim - 1)), value.shape[-1])

    def units(self, value: Array) -> int:
        """How many there are in a batch of h."""
        return value.size // self.size

    def at(self, start: int, count: int) -> View:
        """`count` positions of each unit, from `start` on."""
        rows: Index = np.arange(start, start + count, dtype=np.int64)
        places = np.arange(1, self.size + 1).reshape(self.shape)
        # For each element of H, that of h, from 1; 0 for what a convolution pads.
        of_h = self.reader.linear.design(places, self.reader.shape, rows)
        view = View(rows if self.per_image else None, Gather(of_h, self.size), [], [], [])
        needed = np.zeros(self.size, dtype=bool)
        needed[of_h[of_h > 0] - 1] = True
        for place, x in zip(self.feeders, self.inputs, strict=True):
            every = np.arange(place.linear.positions(x, place.shape), dtype=np.int64)
            order = place.linear.response(places - 1, place.shape, every)
            mine = np.flatnonzero(needed[order].any(axis=(0, 2)))
            order = order[:, mine]
            back = np.zeros(self.size + 1, dtype=np.int64)
            back[order.ravel() + 1] = np.arange(1, order.size + 1)
            view.feeder_rows.append(mine if self.per_image else None)
            view.of_z.append(order.ravel())
            view.gathers.append(Gather(back[of_h], order.size))
        return view


class PairFunction:
    """What a pair makes of the data."""

    def __init__(
        self,
        names: Sequence[str],
        feeders: Sequence[Place],
        reader: Place,
        problem: Problem,
    ) -> None:
        self.names, self.feeders, self.reader, self.problem = names, feeders, reader, problem
        self.pruned = problem.pruned
        self.views = Views(feeders, reader, self.pruned)
        like = self.pruned.get(reader.x, 0)
        self.kind = like.dtype
        self.live = self.pruned.between({name: like for name in names}, [reader.x])
        self.scale = np.float32(reader.linear.scale)
        g, _, o = reader.read()[0].shape
        size: Array = np.abs(np.asarray(problem.scale, dtype=np.float64)).ravel()
        if size.size != g * o:
            size = np.ones(g * o)
        size = size.reshape(g, 1, o) / max(float(size.max()), 1e-30)
        #: How much an error in each output counts behind it: one for the most, `[g, 1, o]`.
        self.emphasis: Array = size.astype(np.float32)

    def batch(self, i: int, view: View) -> Batch:
        """One batch, seen so."""
        x = []
        for place, rows in zip(self.feeders, view.feeder_rows, strict=True):
            value = np.asarray(self.pruned.get(place.x, i), dtype=np.float32)
            design = place.linear.design(value, place.shape, _rows(place, value, rows))
            x.append(design * np.float32(place.linear.scale))
        h = self.pruned.get(self.reader.x, i)
        y, floor = self.problem.target(i, _rows(self.reader, h, view.rows))
        return Batch(view, h.shape, self.views.units(h), x, y, floor)

    def _z(self, batch: Batch, weights: Weights) -> list[Array]:
        """The feeders' products, as tensors; zero where they aren't looked at."""
        found = []
        for x, order, (w, b) in zip(batch.x, batch.view.of_z, weights, strict=False):
            z = np.zeros((batch.units, self.views.size), dtype=np.float32)
            g, _, o = w.shape
            units = affine(x, w, b).reshape(g, batch.units, -1, o).transpose(1, 0, 2, 3)
            z[:, order] = units.reshape(batch.units, -1)
            found.append(z.reshape(batch.shape))
        return found

    def _h(self, z: Sequence[Array]) -> Array:
        feeds: Feeds = {
            name: each.astype(self.kind, copy=False)
            for name, each in zip(self.names, z, strict=True)
        }
        return np.asarray(run(self.live, feeds)[self.reader.x], dtype=np.float32)

    def _slopes(self, z: Sequence[Array]) -> list[Array]:
        """The slope of h in each feeder's z, by central differences, as tensors."""
        found = []
        for i, each in enumerate(z):
            step = _small(each)
            ends = [self._h([*z[:i], each + sign * step, *z[i + 1 :]]) for sign in (1, -1)]
            found.append((ends[0] - ends[1]) / (2 * step))
        return found

    def is_elementwise(self, batch: Batch, weights: Weights) -> bool:
        """Whether slopes say what a random step does: then nothing is mixed on the way."""
        z = self._z(batch, weights)
        h = self._h(z)
        if h.shape != z[0].shape:
            return False
        rng = np.random.default_rng(0)
        signs = np.array([-1, 1], dtype=np.float32)
        steps = [_small(each) * rng.choice(signs, each.shape) for each in z]
        wanted = self._h([a + b for a, b in zip(z, steps, strict=True)]) - h
        given = np.sum([s * d for s, d in zip(self._slopes(z), steps, strict=True)], axis=0)
        # Only where z was computed: elsewhere it is zero, where a Relu has its kink.
        seen = np.unique(np.concatenate(batch.view.of_z))
        wanted, given = (each.reshape(batch.units, -1)[:, seen] for each in (wanted, given))
        size = float(np.square(wanted).sum(dtype=np.float64))
        off = float(np.square(wanted - given).sum(dtype=np.float64))
        return size > 0 and off <= 0.02 * size

    def _wide(self, h: Array, batch: Batch) -> Array:
        """H of h."""
        return np.asarray(batch.view.to_h(h.reshape(1, -1, 1)) * self.scale)

    def error(self, batch: Batch, weights: Weights) -> float:
        """The squared error behind the reader."""
        y = affine(self._wide(self._h(self._z(batch, weights)), batch), *weights[-1])
        target = batch.y
        if batch.floor is not None:
            y, target = np.maximum(y, batch.floor), np.maximum(target, batch.floor)
        return float(np.square((y - target) * self.emphasis).sum(dtype=np.float64))

    def tangent(self, batch: Batch, weights: Weights) -> Tangent:
        """How y moves with the weights."""
        z = self._z(batch, weights)
        slopes = []
        for slope, order, (w, _) in zip(self._slopes(z), batch.view.of_z, weights, strict=False):
            g, _, o = w.shape
            units = slope.reshape(batch.units, -1)[:, order].reshape(batch.units, g, -1, o)
            slopes.append(units.transpose(1, 0, 2, 3).reshape(g, -1, o))
        h = self._wide(self._h(z), batch)
        y = affine(h, *weights[-1])
        target = batch.y
        if batch.floor is not None:  # as in `relu`: what nobody reads may stay as it is
            target = np.where(target > batch.floor, target, np.minimum(y, batch.floor))
        missing = (target - y) * self.emphasis
        return Tangent(batch.x, slopes, batch.view.gathers, h, missing)

    def matrix(self, w: Matrix) -> Array:
        """The reader's weights as y is made with them."""
        return np.asarray(w.astype(np.float32) * self.scale)


def _rows(place: Place, x: Array, rows: Index | None) -> Index:
    if rows is not None:
        return rows
    return np.arange(place.linear.positions(x.shape, place.shape), dtype=np.int64)


def _small(z: Array) -> Array:
    """A step that is small beside z, and large beside its last bits."""
    return np.array(2e-3 * max(float(z.std()), 1e-6), dtype=np.float32)
