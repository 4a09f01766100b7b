"""Which sites read a group, and which of their unknowns and outputs are which channel's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..axes import Choice, Dim, Index, occurrences
from ..model import attributes
from ..network import Network
from ..rewrite import changed_positions
from .operators import Linear
from .sites import Site
from .writing import Writer


@dataclass(frozen=True)
class Layout:
    """Where a dim's channels stand in a site's problem; -1 where there is none of them.

    inputs: `[g, k]`, the channel of each unknown. outputs: `[g, o]`, the channel of each output.
    """

    inputs: Index | None
    outputs: Index | None


def layouts(network: Network, site: Site, linear: Linear, choice: Choice) -> dict[Dim, Layout]:
    """For each dim in a site's weights, what it is there, in the model that is cut to `choice`."""
    axes = network.axes.get(site.weight) or []
    shape = [axis.size or 1 for axis in axes]
    positions = tensor_positions_of(network, site.weight, choice)
    found: dict[Dim, Layout] = {}
    for number, axis in enumerate(axes):
        for dim, at, channels in occurrences(axis):
            if dim.pinned or (dim.size or 0) < 2:
                continue
            along = np.full(shape[number], -1, dtype=np.int64)
            along[at] = channels
            spread = np.broadcast_to(
                along.reshape([-1 if i == number else 1 for i in range(len(shape))]), shape
            )
            for i, kept in positions.items():
                spread = np.take(spread, kept, axis=i)
            layout = _layout(linear.matrix(np.ascontiguousarray(spread)))
            old = found.get(dim)
            found[dim] = layout if old is None else _both(old, layout)
    return found


def tensor_positions_of(network: Network, name: str, choice: Choice) -> Mapping[int, Index]:
    """The kept positions of one constant's axes, those that change."""

    found = {}
    for i, axis in enumerate(network.axes.get(name) or ()):
        kept = changed_positions(axis, choice)
        if kept is not None:
            found[i] = kept
    return found


def _layout(ids: Index) -> Layout:
    """From the channel of each weight, `[g, k, o]`."""
    if (ids == ids[:, :, :1]).all() and not (ids == ids[:, :1, :]).all():
        return Layout(ids[:, :, 0], None)
    if (ids == ids[:, :1, :]).all() and not (ids == ids[:, :, :1]).all():
        return Layout(None, ids[:, 0, :])
    if (ids == ids[:, :1, :1]).all():  # one for each group of a convolution: both
        return Layout(ids[:, :, 0], ids[:, 0, :])
    return Layout(None, None)


def _both(a: Layout, b: Layout) -> Layout:
    def merged(x: Index | None, y: Index | None) -> Index | None:
        if x is None or y is None:
            return x if y is None else y
        return np.where(x >= 0, x, y)

    return Layout(merged(a.inputs, b.inputs), merged(a.outputs, b.outputs))


def linear_in(site: Site, writer: Writer) -> Linear:
    """How a site's node reads in another model, whose attributes may have changed."""
    return replace(site.linear, attrs=attributes(writer.node(site.y)))
