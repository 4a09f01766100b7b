"""Operators as matrix products: `Y = X @ W + b`, in groups, whatever their layout.

A `Linear` reads one node with constant weights as a batch of least-squares problems:

    design    x -> X [g, rows, k]     what each output is a combination of (an unfolded convolution)
    response  y -> Y [g, rows, o]     the outputs of the same rows
    matrix    w -> W [g, k, o]        the weights; `tensor` is its inverse

`g` is the number of groups of a convolution, else 1. Rows are output positions: of a convolution,
the spatial ones, the same in each image of a batch; of a matrix product, its rows. `rows` picks
some of them, for there are many more than unknowns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from ..axes import Index
from ..model import Array, attributes


class Unsupported(Exception):
    """This node can't be read as a matrix product with constant weights, and why."""


@dataclass(frozen=True)
class Linear:
    """One node as a matrix product. Operands: `x` is the data's number, `w` the weights'."""

    x: int
    w: int
    #: The operand of a bias `[g * o]`, where the operator has a place for one.
    bias: int | None
    #: The axis of the output along which its channels lie.
    channel_axis: int
    attrs: Mapping[str, Any]
    #: What one is multiplied by inside: alpha of a Gemm.
    scale: float = 1.0
    bias_scale: float = 1.0

    #: True where each image of a batch has the same positions.
    per_image = False

    @property
    def per_row(self) -> bool:
        """True where each row of the last axis of x makes the same row of y, and no other."""
        return False

    def positions(self, x: Sequence[int], w: Sequence[int]) -> int:
        """How many rows there are to choose from, for operands of these shapes."""
        raise NotImplementedError

    def design(self, x: Array, w: Sequence[int], rows: Index) -> Array:
        """X `[g, rows, k]` of data `x` for weights of shape `w`."""
        raise NotImplementedError

    def response(self, y: Array, w: Sequence[int], rows: Index) -> Array:
        """Y `[g, rows, o]` of outputs `y`, or of anything of their shape."""
        raise NotImplementedError

    def matrix(self, w: Array) -> Array:
        """W `[g, k, o]`."""
        raise NotImplementedError

    def tensor(self, matrix: Array, w: Sequence[int]) -> Array:
        """The weights of shape `w` that `matrix` is of."""
        raise NotImplementedError

    def groups(self, w: Sequence[int]) -> int:
        """g, for weights of shape `w`."""
        return 1


# -- convolutions --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conv(Linear):
    """x `[n, c, *s]` (or channels last), w `[g o, i, *k]`."""

    last: bool = False
    per_image = True

    def groups(self, w: Sequence[int]) -> int:
        return int(self.attrs.get("group", 1))

    def positions(self, x: Sequence[int], w: Sequence[int]) -> int:
        return math.prod(self._geometry(self._spatial(x), w[2:])[2])

    def _spatial(self, x: Sequence[int]) -> Sequence[int]:
        return x[1:-1] if self.last else x[2:]

    def _geometry(
        self, spatial: Sequence[int], kernel: Sequence[int]
    ) -> tuple[list[tuple[int, int]], list[int], list[int]]:
        """Pads, the kernels' extents with dilation, and the output's spatial sizes."""
        rank = len(kernel)
        strides = list(self.attrs.get("strides") or [1] * rank)
        dilations = list(self.attrs.get("dilations") or [1] * rank)
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        auto = self.attrs.get("auto_pad", b"NOTSET")
        auto = auto.decode() if isinstance(auto, bytes) else auto
        if auto.startswith("SAME"):
            total = [
                max((-(-s // t) - 1) * t + e - s, 0)
                for s, t, e in zip(spatial, strides, extents, strict=True)
            ]
            small = [t // 2 for t in total]
            pads = [
                (a, t - a) if auto == "SAME_UPPER" else (t - a, a)
                for a, t in zip(small, total, strict=True)
            ]
        else:
            given = [0] * 2 * rank if auto == "VALID" else self.attrs.get("pads") or [0] * 2 * rank
            pads = list(zip(given[:rank], given[rank:], strict=True))
        out = [
            (s + a + b - e) // t + 1
            for s, (a, b), e, t in zip(spatial, pads, extents, strides, strict=True)
        ]
        return pads, extents, out

    def design(self, x: Array, w: Sequence[int], rows: Index) -> Array:
        if self.last:
            x = np.moveaxis(x, -1, 1)
        kernel, groups = w[2:], self.groups(w)
        pads, extents, out = self._geometry(x.shape[2:], kernel)
        rank = len(kernel)
        strides = list(self.attrs.get("strides") or [1] * rank)
        dilations = list(self.attrs.get("dilations") or [1] * rank)
        if any(a or b for a, b in pads):
            x = np.pad(x, [(0, 0), (0, 0), *pads])
        return _patches(x, groups, extents, strides, dilations, out, rows)

    def response(self, y: Array, w: Sequence[int], rows: Index) -> Array:
        if self.last:
            y = np.moveaxis(y, -1, 1)
        groups = self.groups(w)
        flat = y.reshape(y.shape[0], groups, y.shape[1] // groups, -1)[..., rows]
        return np.ascontiguousarray(flat.transpose(1, 0, 3, 2)).reshape(
            groups, -1, y.shape[1] // groups
        )

    def matrix(self, w: Array) -> Array:
        groups = self.groups(w.shape)
        return np.asarray(w.reshape(groups, w.shape[0] // groups, -1).transpose(0, 2, 1))

    def tensor(self, matrix: Array, w: Sequence[int]) -> Array:
        return np.asarray(matrix.transpose(0, 2, 1).reshape(w))


def _patches(
    x: Array,
    groups: int,
    extents: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    out: Sequence[int],
    rows: Index,
) -> Array:
    """`[g, n * rows, i * k]`: what the kernel sees at each of `rows` of the output's positions."""
    n, c = x.shape[:2]
    spatial = tuple(range(2, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(x, tuple(extents), spatial)
    at = np.unravel_index(rows, tuple(out))
    index = tuple(p * t for p, t in zip(at, strides, strict=True))
    steps = tuple(slice(None, None, d) for d in dilations)
    everything: tuple[Any, ...] = (slice(None), slice(None), *index, *steps)
    picked = view[everything]
    # [n, c, rows, *k] -> [g, n, rows, i, *k]
    rows_of = picked.reshape(n, groups, c // groups, len(rows), -1).transpose(1, 0, 3, 2, 4)
    return np.ascontiguousarray(rows_of).reshape(groups, n * len(rows), -1)


@dataclass(frozen=True)
class ConvTranspose(Linear):
    """x `[n, g i, *s]`, w `[g i, o, *k]`: a convolution of the input with zeros in between."""

    per_image = True

    def groups(self, w: Sequence[int]) -> int:
        return int(self.attrs.get("group", 1))

    def _geometry(
        self, spatial: Sequence[int], kernel: Sequence[int]
    ) -> tuple[list[tuple[int, int]], list[int], list[int], list[int]]:
        """Pads of the stretched input, the kernels' extents, output sizes, strides."""
        rank = len(kernel)
        strides = list(self.attrs.get("strides") or [1] * rank)
        dilations = list(self.attrs.get("dilations") or [1] * rank)
        extra = list(self.attrs.get("output_padding") or [0] * rank)
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        full = [
            (s - 1) * t + e + p for s, t, e, p in zip(spatial, strides, extents, extra, strict=True)
        ]
        auto = self.attrs.get("auto_pad", b"NOTSET")
        auto = auto.decode() if isinstance(auto, bytes) else auto
        shape = self.attrs.get("output_shape")
        if shape is not None or auto.startswith("SAME"):
            wanted = (
                list(shape)[-rank:]
                if shape is not None
                else [s * t for s, t in zip(spatial, strides, strict=True)]
            )
            total = [max(f - o, 0) for f, o in zip(full, wanted, strict=True)]
            cut = [
                (t - t // 2, t // 2) if auto == "SAME_LOWER" else (t // 2, t - t // 2)
                for t in total
            ]
        else:
            given = [0] * 2 * rank if auto == "VALID" else self.attrs.get("pads") or [0] * 2 * rank
            cut = list(zip(given[:rank], given[rank:], strict=True))
        out = [f - a - b for f, (a, b) in zip(full, cut, strict=True)]
        pads = [
            (e - 1 - a, e - 1 - b + p) for e, (a, b), p in zip(extents, cut, extra, strict=True)
        ]
        return pads, extents, out, strides

    def positions(self, x: Sequence[int], w: Sequence[int]) -> int:
        return math.prod(self._geometry(x[2:], w[2:])[2])

    def design(self, x: Array, w: Sequence[int], rows: Index) -> Array:
        kernel = w[2:]
        rank = len(kernel)
        pads, extents, out, strides = self._geometry(x.shape[2:], kernel)
        dilations = list(self.attrs.get("dilations") or [1] * rank)
        sizes = [(s - 1) * t + 1 for s, t in zip(x.shape[2:], strides, strict=True)]
        wide = np.zeros((*x.shape[:2], *sizes), dtype=x.dtype)
        between: tuple[Any, ...] = (..., *(slice(None, None, t) for t in strides))
        wide[between] = x
        if any(a < 0 or b < 0 for a, b in pads):
            cut = [slice(max(-a, 0), s - max(-b, 0)) for (a, b), s in zip(pads, sizes, strict=True)]
            inside: tuple[Any, ...] = (..., *cut)
            wide = wide[inside]
        wide = np.pad(wide, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in pads)])
        return _patches(wide, self.groups(w), extents, [1] * rank, dilations, out, rows)

    def response(self, y: Array, w: Sequence[int], rows: Index) -> Array:
        groups = self.groups(w)
        flat = y.reshape(y.shape[0], groups, y.shape[1] // groups, -1)[..., rows]
        return np.asarray(flat.transpose(1, 0, 3, 2).reshape(groups, -1, y.shape[1] // groups))

    def matrix(self, w: Array) -> Array:
        groups, spatial = self.groups(w.shape), tuple(range(2, w.ndim))
        flipped = np.flip(w, spatial).reshape(groups, w.shape[0] // groups, w.shape[1], -1)
        return np.asarray(flipped.transpose(0, 1, 3, 2).reshape(groups, -1, w.shape[1]))

    def tensor(self, matrix: Array, w: Sequence[int]) -> Array:
        groups, kernel = self.groups(w), math.prod(w[2:])
        parts = matrix.reshape(groups, w[0] // groups, kernel, w[1]).transpose(0, 1, 3, 2)
        return np.flip(parts.reshape(w), tuple(range(2, len(w))))


# -- matrix products -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Product(Linear):
    """A matrix product, the weights on its right (`x @ w`) or on its left (`w @ x`).

    `flip_x`, `flip_w`: the operand's last two axes are exchanged first.
    """

    left: bool = False
    flip_x: bool = False
    flip_w: bool = False

    @property
    def per_row(self) -> bool:
        return not self.left and not self.flip_x

    def _rows(self, x: Array) -> Array:
        if self.flip_x != self.left and x.ndim > 1:
            x = np.swapaxes(x, -1, -2)
        return x.reshape(-1, x.shape[-1])

    def positions(self, x: Sequence[int], w: Sequence[int]) -> int:
        k = w[-1] if self.left != self.flip_w else w[0]
        return math.prod(x) // k

    def design(self, x: Array, w: Sequence[int], rows: Index) -> Array:
        return self._rows(x)[rows][None]

    def response(self, y: Array, w: Sequence[int], rows: Index) -> Array:
        if self.left:
            y = np.swapaxes(y, -1, -2)
        return y.reshape(-1, y.shape[-1])[rows][None]

    def matrix(self, w: Array) -> Array:
        w = w.reshape(w.shape[-2:])
        return (w.T if self.flip_w != self.left else w)[None]

    def tensor(self, matrix: Array, w: Sequence[int]) -> Array:
        found = matrix[0].T if self.flip_w != self.left else matrix[0]
        return np.ascontiguousarray(found).reshape(w)


Reader = Callable[[NodeProto, dict[str, Any], Sequence[bool], Sequence[int]], Linear]


def _conv(node: NodeProto, attrs: dict[str, Any], constant: Sequence[bool], _: object) -> Linear:
    if "auto_pad" in attrs and isinstance(attrs["auto_pad"], str):
        attrs["auto_pad"] = attrs["auto_pad"].encode()
    last = node.op_type.startswith("Nhwc")
    return Conv(0, 1, 2, -1 if last else 1, attrs, last=last)


def _transposed(node: NodeProto, attrs: dict[str, Any], constant: object, _: object) -> Linear:
    return ConvTranspose(0, 1, 2, 1, attrs)


def _gemm(node: NodeProto, attrs: dict[str, Any], constant: Sequence[bool], _: object) -> Linear:
    flips = bool(attrs.get("transA", 0)), bool(attrs.get("transB", 0))
    alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
    if constant[1]:
        return Product(0, 1, 2, -1, attrs, alpha, beta, flip_x=flips[0], flip_w=flips[1])
    return Product(1, 0, None, 0, attrs, alpha, beta, True, flip_x=flips[1], flip_w=flips[0])


def _matmul(
    node: NodeProto, attrs: dict[str, Any], constant: Sequence[bool], rank: Sequence[int]
) -> Linear:
    w = 1 if constant[1] else 0
    if rank[w] != 2:
        raise Unsupported("its weights are a stack of matrices, or a vector")
    flips = [bool(attrs.get("transA", 0)), bool(attrs.get("transB", 0))]
    if attrs.get("transBatchA", 0) or attrs.get("transBatchB", 0):
        raise Unsupported("its batch axes are moved")
    left = w == 0
    if rank[1 - w] < 2 and left:
        raise Unsupported("a vector operand")
    scale = float(attrs.get("alpha", 1.0))
    axis = -2 if left else -1
    return Product(
        1 - w, w, None, axis, attrs, scale, 1.0, left, flip_x=flips[1 - w], flip_w=flips[w]
    )


_READERS: dict[tuple[str, str], Reader] = {
    ("", "Conv"): _conv,
    ("com.microsoft", "FusedConv"): _conv,
    ("com.microsoft", "NhwcFusedConv"): _conv,
    ("com.microsoft", "NhwcConv"): _conv,
    ("", "ConvTranspose"): _transposed,
    ("", "Gemm"): _gemm,
    ("com.microsoft", "FusedGemm"): _gemm,
    ("", "MatMul"): _matmul,
    ("com.microsoft", "FusedMatMul"): _matmul,
    ("com.microsoft", "TransposeMatMul"): _matmul,
}


def linear_of(node: NodeProto, constant: Sequence[bool], rank: Sequence[int]) -> Linear | None:
    """How `node` is a matrix product; None where its operator is none.

    Args:
        constant: for each operand, whether it is a constant.
        rank: for each operand, its number of axes.

    Raises:
        Unsupported: it is a matrix product of a kind that can't be refitted.
    """
    reader = _READERS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
    if reader is None or len(constant) < 2 or constant[0] == constant[1]:
        return None
    return reader(node, attributes(node), constant, rank)
