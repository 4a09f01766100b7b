"""Products of what is computed with a constant weight, as operators of many kinds write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from ..axes import Axis, Dim, leaves
from ..model import Array, attributes
from ..network import Network
from .facts import nonzero
from .rows import Floats


@dataclass(frozen=True)
class Contraction:
    """y = sum over `summed` of data · weight, plus bias.

    The weight seen as `[groups, out, in, taps]` is `matrix(value)`; data has groups · in positions
    on its axis `in_axis`, and y groups · out on its axis `out_axis`.
    """

    node: NodeProto
    data: str
    weight: str
    bias: str
    in_axis: int
    out_axis: int
    groups: int
    #: Which of the weight's axes are out and in.
    order: tuple[int, int]
    #: The groups are on the weight's axis that is summed over.
    transposed: bool
    #: Something that is not data (a zero of the border) may stand in for data.
    padded: bool
    #: The dims that are summed over; those of the groups are not.
    summed: frozenset[Dim]

    def matrix(self, value: Array) -> Array:
        """The weight as `[groups, out, in, taps]`."""
        moved = np.moveaxis(value, self.order, (0, 1))
        out, inner = moved.shape[:2]
        taps = moved.reshape(out, inner, -1)
        if self.transposed:
            split = taps.reshape(out, self.groups, inner // self.groups, -1)
            return np.moveaxis(split, 1, 0)
        return taps.reshape(self.groups, out // self.groups, inner, -1)

    def interval(self, value: Array, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Bounds of the products `[groups · out]` from those of data `[groups · in]`."""
        matrix = self.matrix(value)
        if not (np.isfinite(low).any() or np.isfinite(high).any()):
            silent = ~nonzero(matrix.reshape(-1, *matrix.shape[2:]), 0)
            return np.where(silent, 0, -np.inf), np.where(silent, 0, np.inf)
        up = np.maximum(matrix, 0).sum(axis=3, dtype=np.float64)
        down = np.minimum(matrix, 0).sum(axis=3, dtype=np.float64)
        low, high = low.reshape(self.groups, -1), high.reshape(self.groups, -1)
        found = []
        for first, second in ((low, high), (high, low)):
            finite = [np.where(np.isfinite(each), each, 0) for each in (first, second)]
            total = np.einsum("goi,gi->go", up, finite[0])
            total += np.einsum("goi,gi->go", down, finite[1])
            open_ = (up != 0) & ~np.isfinite(first)[:, None]
            open_ |= (down != 0) & ~np.isfinite(second)[:, None]
            found.append((total, open_.any(axis=2)))
        (bottom, no_bottom), (top, no_top) = found
        bottom = np.where(no_bottom, -np.inf, bottom)
        top = np.where(no_top, np.inf, top)
        return bottom.ravel(), top.ravel()


def contraction(network: Network, node: NodeProto) -> Contraction | None:
    """The node as a product with a constant weight, if it is one."""
    if not any(node.output):
        return None
    known = network.model.constants
    names = [*node.input, "", "", ""]
    given = attributes(node)
    data, weight, bias = names[:3]
    axes = network.axes
    if not axes.get(data) and node.op_type != "MatMul":
        return None
    if node.op_type in ("Conv", "FusedConv", "ConvTranspose") and weight in known:
        if node.op_type == "FusedConv" and (given.get("activation") or names[3]):
            return None
        transposed = node.op_type == "ConvTranspose"
        groups = int(given.get("group", 1))
        kernel = (axes.get(weight) or [])[2:]
        # Every output of a transposed convolution misses some taps.
        padded = transposed or _padded(given, len(kernel))
        order = (1, 0) if transposed else (0, 1)
        summed = _leaves((axes.get(weight) or [])[order[1] :][:1])
        if transposed and groups > 1:
            summed -= _leaves((axes.get(node.output[0]) or [])[1:2])
        return Contraction(
            node, data, weight, bias, 1, 1, groups, order, transposed, padded, summed
        )
    if node.op_type == "Gemm" and weight in known and data not in known:
        plain = given.get("alpha", 1.0) == 1 and given.get("beta", 1.0) == 1
        if not plain or given.get("transA") or (bias and not _vector(network, bias)):
            return None
        order = (0, 1) if given.get("transB") else (1, 0)
        summed = _leaves((axes.get(data) or [])[1:2])
        return Contraction(node, data, weight, bias, 1, 1, 1, order, False, False, summed)
    if node.op_type == "MatMul" and weight in known and data not in known:
        if len(known[weight].dims) != 2 or not axes.get(data):
            return None
        last = len(axes[data] or []) - 1
        summed = _leaves((axes[data] or [])[last:])
        return Contraction(node, data, weight, "", last, last, 1, (1, 0), False, False, summed)
    return None


def _leaves(axes: Sequence[Axis]) -> frozenset[Dim]:
    return frozenset(dim for axis in axes for dim in leaves(axis))


def _padded(given: dict[str, object], rank: int) -> bool:
    auto = given.get("auto_pad", b"NOTSET")
    if auto == b"VALID":
        return False
    pads = given.get("pads", [0] * 2 * rank)
    return auto != b"NOTSET" or any(pads)  # type: ignore[arg-type]


def _vector(network: Network, name: str) -> bool:
    tensor = network.model.constants.get(name)
    return tensor is not None and len(tensor.dims) == 1
