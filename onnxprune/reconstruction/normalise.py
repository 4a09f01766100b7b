"""Normalisations: scale and shift of each channel, refitted where statistics were taken of fewer.

A LayerNormalization over half of its channels divides by another spread than before. The node has
run already; its output y' is set against the original's y, channel by channel: y ≈ a y' + b. Then
its scale becomes a γ, its shift a β + b, and what is stored of y' becomes what it gives now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from ..axes import Index
from ..model import Array, node_name
from ..network import Network
from .gram import Matrix
from .problem import HELD_OUT
from .segments import Frontier
from .sites import Site
from .writing import Writer

#: The a and b of each channel.
Line = tuple[Matrix, Matrix]
#: Towards a = 1: for channels that hardly vary.
_RIDGE = 1e-3
#: For each operator: the operands of its scale and its shift, and the axis of its channels.
_OPERANDS: dict[tuple[str, str], tuple[int, int | None, int]] = {
    ("", "BatchNormalization"): (1, 2, 1),
    ("", "InstanceNormalization"): (1, 2, 1),
    ("", "GroupNormalization"): (1, 2, 1),
    ("", "LayerNormalization"): (1, 2, -1),
    ("", "RMSNormalization"): (1, None, -1),
    ("", "SimplifiedLayerNormalization"): (1, None, -1),
    ("com.microsoft", "SkipLayerNormalization"): (2, 3, -1),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): (2, None, -1),
}


@dataclass(eq=False)
class Norm:
    """One normalisation that can be refitted."""

    node: NodeProto
    index: int
    scale: int
    shift: int | None
    axis: int

    @property
    def name(self) -> str:
        return node_name(self.node)

    @property
    def y(self) -> str:
        return str(self.node.output[0])


def find_norms(network: Network, sites: Sequence[Site]) -> list[Norm]:
    """The normalisations of a model, but those that a site's target looks through."""
    inside = {step.node.output[0] for site in sites for step in site.steps}
    constants = network.model.constants
    found = []
    for index, node in enumerate(network.model.proto.graph.node):
        operands = _OPERANDS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        if operands is None or node.output[0] in inside:
            continue
        scale, shift, axis = operands
        if shift is not None and (shift >= len(node.input) or not node.input[shift]):
            shift = None
        slots = [scale] if shift is None else [scale, shift]
        axes = network.axes.get(node.output[0])
        if axes is None or any(
            node.input[slot] not in constants
            or list(constants[node.input[slot]].dims) != [axes[axis].size]
            for slot in slots
        ):
            continue  # computed at run time, or of more axes than one
        found.append(Norm(node, index, scale, shift, axis))
    return found


class _Sums:
    """What a line through each channel's points needs: sums over rows, `[channels]` each."""

    def __init__(self) -> None:
        self.n = 0
        self.x = self.y = self.xx = self.xy = self.yy = np.zeros(())

    def add(self, x: Array, y: Array) -> None:
        """Take in rows `[rows, channels]`."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.n += len(x)
        self.x = self.x + x.sum(0)
        self.y = self.y + y.sum(0)
        self.xx = self.xx + np.square(x).sum(0)
        self.xy = self.xy + (x * y).sum(0)
        self.yy = self.yy + np.square(y).sum(0)

    def error(self, a: Matrix, b: Matrix) -> float:
        """The squared error of `a x + b`."""
        each = self.yy - 2 * (a * self.xy + b * self.y)
        each = each + a**2 * self.xx + 2 * a * b * self.x + self.n * b**2
        return float(np.maximum(each, 0).sum())

    def line(self, shifted: bool) -> Line:
        """The a and b that fit best."""
        if not shifted:
            ridge = _RIDGE * self.xx + 1e-12
            return (self.xy + ridge) / (self.xx + ridge), np.zeros_like(self.x)
        n = max(self.n, 1)
        xx, xy = self.xx - self.x**2 / n, self.xy - self.x * self.y / n
        ridge = _RIDGE * np.maximum(xx, 0) + 1e-12
        a = (xy + ridge) / (np.maximum(xx, 0) + ridge)
        return a, (self.y - a * self.x) / n


def refit_norm(
    norm: Norm, original: Frontier, pruned: Frontier, writer: Writer, kept: Sequence[Index | None]
) -> tuple[float, float, Line | None]:
    """Refit one; its relative squared error on held-out rows before and after, and by what line.

    What is stored of its output is then what it gives now; without a line, nothing has changed.
    """
    train, held = _Sums(), _Sums()
    every = min(HELD_OUT, pruned.count)
    for batch in range(pruned.count):
        x, y = pruned.get(norm.y, batch), original.get(norm.y, batch)
        for axis, index in enumerate(kept):
            if index is not None:
                y = np.take(y, index, axis=axis)
        rows = [np.moveaxis(v, norm.axis, -1).reshape(-1, v.shape[norm.axis]) for v in (x, y)]
        (held if every > 1 and batch % every == every - 1 else train).add(rows[0], rows[1])
    if not held.n:
        held = train
    a, b = train.line(norm.shift is not None)
    one, zero = np.ones_like(a), np.zeros_like(a)
    spread = max(float(np.maximum(held.yy - held.y**2 / held.n, 0).sum()), 1e-30)
    before, after = held.error(one, zero) / spread, held.error(a, b) / spread
    if not after < before * (1 - 1e-6) or before < 1e-10:
        return before, before, None
    node = writer.node(norm.y)
    for slot, add in ((norm.scale, zero), (norm.shift, b)):
        if slot is not None:
            name = node.input[slot]
            value = writer.read(name)
            new = (value.astype(np.float64) * a + add).astype(value.dtype)
            writer.write(node, slot, new, f"{name}_refitted")
    follow(norm, pruned, (a, b))
    return before, after, (a, b)


def follow(norm: Norm, pruned: Frontier, line: Line) -> None:
    """Have what is stored of the output be what it is with this line behind it."""
    a, b = line
    for batch in range(pruned.count):
        value = np.asarray(pruned.get(norm.y, batch))
        shape = [1] * value.ndim
        shape[norm.axis] = -1
        new = value * a.reshape(shape) + b.reshape(shape)
        pruned.replace(norm.y, batch, new.astype(value.dtype))
