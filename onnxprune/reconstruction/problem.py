"""The least-squares problem of one site: what it reads in the pruned model, what it should give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from onnx import NodeProto

from ..axes import Index
from ..model import Array, attributes
from .beside import in_order
from .gram import Gram, Matrix
from .parts import Place
from .segments import Frontier
from .sites import Step
from .writing import Writer

#: bytes of unfolded rows that are kept between two passes over the data
_CACHE = 400_000_000
#: Rows for each unknown, and at least this many: more change nothing but the time it takes.
ROWS_PER_UNKNOWN = 48
LEAST_ROWS = 60_000
#: One sample of this many is held out.
HELD_OUT = 8


T = TypeVar("T")


@dataclass
class Block:
    """Rows of one batch: X `[g, r, k]`, Y `[g, r, o]`, and the floor below which Y is all one."""

    x: Array
    y: Array
    floor: Array | None
    held: bool


class Problem:
    """The rows of one site over the calibration data.

    Args:
        place: the site in the pruned model.
        kept: for each axis of the site's end, the original's positions that are left, or None.
        hidden: where the product is no tensor of the graph, the original's W `[g, k, o]` and
            b `[g, o]`, the shape of its weights, and the outputs that are left.
    """

    def __init__(
        self,
        place: Place,
        original: Frontier,
        pruned: Frontier,
        kept: Sequence[Index | None],
        hidden: tuple[Matrix, Matrix, Sequence[int], Index | None] | None = None,
        seed: int = 0,
        rows: int | None = None,
    ) -> None:
        self.site, self.linear, self.x = place.site, place.linear, place.x
        self.original, self.pruned, self.kept = original, pruned, kept
        self.shape = place.shape
        self.scale, self.shift = (
            each.astype(np.float32) for each in affine(self.site.steps, place.writer)
        )
        self.hidden, self.seed = hidden, seed
        self.unknowns = int(np.prod(self.shape)) // max(self._outputs(), 1)
        self.budget = rows or max(LEAST_ROWS, ROWS_PER_UNKNOWN * self.unknowns)
        self._cached: list[Block] | None = None

    @property
    def holds_out(self) -> bool:
        """True where some batches are held out."""
        return self.pruned.count > 1

    def _outputs(self) -> int:
        return int(self.linear.matrix(np.empty(self.shape, dtype=np.int8)).shape[2])

    def over(self, function: Callable[[Block], T]) -> Iterator[T]:
        """What `function` gives of each batch's rows, in order; the same rows each time."""
        threads = self.pruned.threads
        if self._cached is not None:
            yield from in_order(function, self._cached, threads)
            return

        def made(batch: int) -> tuple[Block, T]:
            block = self._block(batch)
            return block, function(block)

        kept: list[Block] | None = []
        size = 0
        for block, result in in_order(made, range(self.pruned.count), threads):
            size += block.x.nbytes + block.y.nbytes * (1 if block.floor is None else 2)
            if kept is not None and size <= _CACHE:
                kept.append(block)
            else:
                kept = None
            yield result
        self._cached = kept

    def _block(self, batch: int) -> Block:
        x = np.asarray(self.pruned.get(self.x, batch))
        if x.dtype != np.float64:
            x = x.astype(np.float32, copy=False)
        rows = self._rows(batch, x)
        y, floor = self.target(batch, rows)
        every = min(HELD_OUT, self.pruned.count)
        held = self.holds_out and batch % every == every - 1
        design = self.linear.design(x, self.shape, rows)
        if self.linear.scale != 1.0:
            design = design * np.asarray(self.linear.scale, dtype=design.dtype)
        return Block(design, y, floor, held)

    def _rows(self, batch: int, x: Array) -> Index:
        total = self.linear.positions(x.shape, self.shape)
        images = x.shape[0] if self.linear.per_image else 1
        wanted = -(-self.budget // (self.pruned.count * images))
        if wanted >= total:
            return np.arange(total, dtype=np.int64)
        rng = np.random.default_rng((self.seed, batch))
        return np.sort(rng.choice(total, wanted, replace=False)).astype(np.int64)

    def target(self, batch: int, rows: Index) -> tuple[Array, Array | None]:
        """Y of some rows of a batch, and where only what exceeds a floor is read, that floor."""
        site = self.site
        other = None
        if site.other:
            other = np.asarray(self.pruned.get(site.other, batch), dtype=np.float32)
        if self.hidden is not None:
            y = self._product(batch, rows)
            if other is not None:
                there = np.asarray(self.original.get(site.other, batch), dtype=np.float32)
                gap = self._taken(there) - other
                y = y + self.linear.response(gap, self.shape, rows)
        else:
            end = self._taken(np.asarray(self.original.get(site.end, batch), dtype=np.float32))
            y = self.linear.response(self._undone(end, other), self.shape, rows)
        if not site.relu:
            return y, None
        if other is None and not site.steps:
            return y, np.zeros((), dtype=y.dtype)
        like = other if other is not None else end
        floor = self._undone(np.zeros_like(like), other)
        return y, self.linear.response(floor, self.shape, rows)

    def _undone(self, end: Array, other: Array | None) -> Array:
        """What the site should give so that its end is `end`."""
        if other is not None:
            end = end - other
        if self.site.steps:
            end = (end - self.shift) / self.scale
        return end.astype(np.float32, copy=False)

    def _taken(self, value: Array) -> Array:
        for axis, index in enumerate(self.kept):
            if index is not None:
                value = np.take(value, index, axis=axis)
        return value

    def _product(self, batch: int, rows: Index) -> Array:
        """The original's product, where it is inside of a node."""
        assert self.hidden is not None
        w, b, shape, outputs = self.hidden
        x = np.asarray(self.original.get(self.site.x, batch), dtype=np.float32)
        design = self.site.linear.design(x, shape, rows) * np.float32(self.site.linear.scale)
        y = np.asarray(design @ w.astype(np.float32) + b[:, None].astype(np.float32))
        if outputs is not None:
            g = self.linear.groups(self.shape)
            flat = y.transpose(1, 0, 2).reshape(y.shape[1], -1)[:, outputs]
            y = flat.reshape(y.shape[1], g, -1).transpose(1, 0, 2)
        return y

    def grams(self) -> tuple[Gram, Gram]:
        """What the rows for fitting come to, and those held out."""
        first = self._block(0)
        train = Gram(first.x.mean(axis=1), first.y.mean(axis=1))
        held = Gram.like(train)
        del first

        def gram(block: Block) -> tuple[Gram, bool]:
            return Gram.of(train, block.x, block.y), block.held

        for found, is_held in self.over(gram):
            if is_held:
                held += found
            else:
                train += found
        if held.rows == 0:
            held = train + held
        return train, held


def affine(steps: Sequence[Step], writer: Writer) -> tuple[Array, Array]:
    """The scale and shift that `steps` come to; they broadcast against the site's output."""
    scale: Array = np.ones((), dtype=np.float64)
    shift: Array = np.zeros((), dtype=np.float64)
    for step in steps:
        node = writer.node(step.node.output[0])
        operands = [n for i, n in enumerate(node.input) if i != step.data]
        if node.op_type in ("Identity", "Dropout"):
            continue
        if node.op_type == "BatchNormalization":
            a, b = _normalisation(node, writer)
            scale, shift = scale * a, shift * a + b
            continue
        if not _is_constant(writer, operands[0]):
            continue  # the residual Add itself
        c = writer.read(operands[0]).astype(np.float64)
        if node.op_type == "Add":
            shift = shift + c
        elif node.op_type == "Sub":
            scale, shift = (scale, shift - c) if step.data == 0 else (-scale, c - shift)
        elif node.op_type == "Mul":
            scale, shift = scale * c, shift * c
        elif node.op_type == "Div":
            scale, shift = scale / c, shift / c
    return scale, shift


def _is_constant(writer: Writer, name: str) -> bool:
    node = writer.nodes.get(name)
    return name in writer.initializers or (node is not None and node.op_type == "Constant")


def _normalisation(node: NodeProto, writer: Writer) -> tuple[Array, Array]:
    gamma, beta, mean, variance = (writer.read(n).astype(np.float64) for n in node.input[1:5])
    a = gamma / np.sqrt(variance + float(attributes(node).get("epsilon", 1e-5)))
    rank = writer_rank(node, writer)
    shape = (1, -1, *[1] * (rank - 2))
    return a.reshape(shape), (beta - mean * a).reshape(shape)


def writer_rank(node: NodeProto, writer: Writer) -> int:
    """The rank of what a normalisation reads."""
    return writer.ranks[node.input[0]]
