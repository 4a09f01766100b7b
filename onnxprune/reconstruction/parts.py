"""The weights and biases of sites: read from a model, written, and cut further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto

from ..axes import Axis, Choice, Index
from ..model import Array, attributes
from ..network import Network
from ..rewrite import changed_positions, rewrite
from .gram import Matrix
from .operators import Linear
from .sites import Site
from .writing import Writer


@dataclass(frozen=True)
class Part:
    """One site's weights as they are stored, and what its product is shifted by, `[g * o]`."""

    weight: Array
    bias: Array


#: The parts of a model, by the tensor that the site makes.
Parts = Mapping[str, Part]


class Place:
    """A site's node in one model, and where its weights and bias are.

    An intercept goes where there is room for it: into the operator's own bias, or the constant of
    an Add behind it, or a new bias, or a new Add. What an Add has taken is not read back: the
    target is without it, and `bias` says what it has come to.
    """

    def __init__(self, site: Site, writer: Writer) -> None:
        self.site, self.writer = site, writer
        self.node: NodeProto = writer.node(site.y)
        self.added: NodeProto | None = None
        if self.node.op_type == "Add" and site.node.op_type != "Add":  # put in by `write`
            self.added, self.node = self.node, writer.node(self.node.input[0])
        self.linear: Linear = replace(site.linear, attrs=attributes(self.node))

    @property
    def x(self) -> str:
        """The tensor that the site reads."""
        return str(self.node.input[self.linear.x])

    @property
    def shape(self) -> list[int]:
        """The shape of its weights."""
        return self.writer.shape(self.node.input[self.linear.w])

    def read(self) -> tuple[Matrix, Matrix]:
        """W `[g, k, o]` and the operator's own bias, `[g, o]`."""
        weight = self.writer.read(self.node.input[self.linear.w])
        w = self.linear.matrix(weight).astype(np.float64)
        g, _, o = w.shape
        if self.added is not None:
            value = self.writer.read(self.added.input[1])
        elif self._has_bias():
            value = self.writer.read(self.node.input[self.linear.bias or 0])
            value = value.astype(np.float64) * self.linear.bias_scale
        else:
            return w, np.zeros((g, o))
        return w, value.astype(np.float64).reshape(g, o)

    def part(self) -> Part:
        """The weights and bias as they are, to be written into another model."""
        w, b = self.read()
        absorbed = self.writer.absorbed.get(self.site.y)
        weight = np.ascontiguousarray(self.linear.tensor(w, self.shape))
        return Part(weight, b.ravel() if absorbed is None else absorbed)

    def _has_bias(self) -> bool:
        slot = self.linear.bias
        return slot is not None and slot < len(self.node.input) and bool(self.node.input[slot])

    def write(self, w: Matrix, b: Matrix) -> None:
        """Give the site these weights and this bias; there may be a new constant or node for it."""
        linear, node, writer = self.linear, self.node, self.writer
        _, b0 = self.read()
        name = node.input[linear.w]
        kind = writer.read(name).dtype
        writer.write(node, linear.w, linear.tensor(w, self.shape).astype(kind), f"{name}_refitted")
        shift = (b - b0).ravel()
        if not shift.any():
            return
        if self.added is not None:
            value = b.reshape(writer.shape(self.added.input[1]))
            writer.write(self.added, 1, value.astype(kind), f"{name}_bias")
        elif linear.bias is not None and linear.bias_scale and self._has_bias():
            bias = node.input[linear.bias]
            value = (b.ravel() / linear.bias_scale).reshape(writer.shape(bias))
            writer.write(node, linear.bias, value.astype(kind), f"{bias}_refitted")
        elif self.site.absorber is not None:
            taker = writer.node(self.site.absorber[0].output[0])
            slot = self.site.absorber[1]
            old = writer.read(taker.input[slot]).astype(np.float64)
            value = (old.ravel() + shift).reshape(old.shape)
            writer.write(taker, slot, value.astype(kind), f"{taker.input[slot]}_refitted")
            writer.absorb(node, shift)
        elif linear.bias is not None and linear.bias_scale:
            value = shift / linear.bias_scale
            writer.write(node, linear.bias, value.astype(kind), f"{name}_bias")
        else:
            below = -1 - linear.channel_axis if linear.channel_axis < 0 else 0
            writer.insert_add(node, shift.reshape(-1, *[1] * below).astype(kind))


@dataclass
class Cut:
    """A model that is cut to some choice, to be refitted in place."""

    model: ModelProto
    #: What the Add behind a tensor has taken of its intercept already (see `Writer.absorbed`).
    absorbed: dict[str, Array]


def cut(
    network: Network,
    sites: Sequence[Site],
    choice: Choice,
    parts: Parts | None = None,
    old: Choice | None = None,
) -> Cut:
    """The network with only `choice`; its sites with the parts of a model that is cut to `old`.

    Indices that `choice` keeps, `old` keeps as well.
    """
    model = rewrite(network, choice)
    ranks = {name: len(axes) for name, axes in network.axes.items() if axes is not None}
    writer = Writer(model, network.model.base_dir, ranks)
    for site in sites:
        part = (parts or {}).get(site.y)
        if part is not None and site.y in writer.nodes:
            _carry(network, Place(site, writer), part, old or {}, choice)
    writer.sweep()
    return Cut(model, writer.absorbed)


def _carry(network: Network, place: Place, part: Part, old: Choice, new: Choice) -> None:
    site, weight = place.site, part.weight
    for i, axis in enumerate(network.axes.get(site.weight) or ()):
        kept = relative(axis, old, new)
        if kept is not None:
            weight = np.take(weight, kept, axis=i)
    kept = relative(site.axes[site.linear.channel_axis], old, new)
    bias = part.bias if kept is None else part.bias[kept]
    w = place.linear.matrix(weight)
    place.write(w, bias.reshape(w.shape[0], w.shape[2]))


def relative(axis: Axis, old: Choice, new: Choice) -> Index | None:
    """The positions that `new` keeps of an axis that is cut to `old` already; None for all."""
    after = changed_positions(axis, new)
    before = changed_positions(axis, old)
    if after is None:
        return None
    if before is None:
        return after
    if len(before) == len(after):
        return None
    return np.searchsorted(before, after).astype(np.int64)
