"""Inspection: what of a model could be removed, what can't, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .axes import Axis, Concat, Dim, Product, leaves, resolve
from .groups import Group, pinned_axes
from .infer import Network
from .model import node_name
from .tables import operator_name


@dataclass(frozen=True)
class GroupInfo:
    """One group, as a person reads it."""

    name: str
    role: str
    size: int
    #: `exact` or `statistical`
    kind: str
    #: (constant, axis, whether it carries importance)
    members: list[tuple[str, int, bool]]
    #: DepGraph's kinds of dependency that are in it: basic, residual, concatenation, reduction.
    dependencies: list[str]
    #: Elements of weights that its channels are part of.
    parameters: int


@dataclass(frozen=True)
class PinnedInfo:
    """Axes of weights that lose nothing, for one reason."""

    reason: str
    where: list[str]
    axes: list[tuple[str, int]]
    #: Elements of weights none of whose axes is free, and for which this is the first reason.
    locked: int


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`."""

    groups: list[GroupInfo]
    pinned: list[PinnedInfo]
    #: Nodes that no rule could read: (node, operator, reason).
    refused: list[tuple[str, str, str]]
    #: Weights, in the order of the graph: rows and columns of the grouping matrix.
    layers: list[str]
    #: DepGraph's grouping matrix, sparse: for each group the layers (by number) in it.
    grouping: list[list[int]]
    parameters: int
    #: The share of parameters left when every group is halved.
    left_at_half: float

    def matrix(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The grouping matrix, `[layers, layers]`: true where two layers share a group."""
        found = np.eye(len(self.layers), dtype=bool)
        for rows in self.grouping:
            found[np.ix_(rows, rows)] = True
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def look_into(network: Network, groups: Sequence[Group]) -> Inspection:
    """Describe what was found in a network."""
    layers = [
        name
        for name in dict.fromkeys(m.tensor for g in groups for m in g.members if m.scored)
        if len(network.model.constants[name].dims) > 1
    ]
    number = {name: i for i, name in enumerate(layers)}
    contracted = _reduced(network)
    infos = []
    for group in groups:
        members = list(dict.fromkeys((m.tensor, m.axis, m.scored) for m in group.members))
        infos.append(
            GroupInfo(
                group.name,
                group.role,
                group.size,
                group.kind,
                members,
                dependencies(network, group, contracted),
                sum(elements(network, name) for name in {tensor for tensor, _, _ in members}),
            )
        )
    weights = weight_names(network)
    return Inspection(
        infos,
        _pinned(network),
        [
            (node_name(node), operator_name(node.domain, node.op_type), reason)
            for node, reason in network.refused
        ],
        layers,
        [sorted({number[m.tensor] for m in g.members if m.tensor in number}) for g in groups],
        sum(elements(network, name) for name in weights),
        share_left(network, {group.dim: 0.5 for group in groups if group.role != "conv-groups"}),
    )


def elements(network: Network, name: str) -> int:
    """The number of elements of a constant."""
    return int(np.prod(network.model.constants[name].dims, dtype=np.int64))


def weight_names(network: Network) -> list[str]:
    """Constants that count as parameters: those with channels, or that carry importance."""
    return [
        name
        for name, tensor in network.model.constants.items()
        if len(tensor.dims) > 0 and name in network.axes and tensor.data_type not in (6, 7, 8, 9)
    ]


def share_left(network: Network, fractions: dict[Dim, float]) -> float:
    """The share of parameters left when each dim keeps that fraction of its channels."""

    def fraction(axis: Axis) -> float:
        axis = resolve(axis)
        if isinstance(axis, Dim):
            return fractions.get(axis, 1.0)
        if isinstance(axis, Product):
            return float(np.prod([fraction(part) for part in axis.parts]))
        return sum(fraction(part) * (part.size or 0) for part in axis.parts) / (axis.size or 1)

    whole = left = 0.0
    for name in weight_names(network):
        count = elements(network, name)
        whole += count
        left += count * float(np.prod([fraction(a) for a in network.axes[name] or () if a.size]))
    return left / whole if whole else 1.0


def dependencies(network: Network, group: Group, reduced: set[Dim]) -> list[str]:
    """Which of DepGraph's four kinds of dependency (its figure 2) couple a group's members."""
    found = ["basic"]
    axes = [
        resolve((network.axes.get(m.tensor) or [])[m.axis])
        for m in group.members
        if m.scored and len(network.model.constants[m.tensor].dims) > 1
    ]
    producers = {
        m.tensor
        for m in group.members
        if m.scored and len(network.model.constants[m.tensor].dims) > 1 and _produces(network, m)
    }
    if len(producers) > 1:
        found.append("residual")
    if any(_in_runs(axis, group.dim) for axis in axes):
        found.append("concatenation")
    if group.dim in reduced or any(_merged_with_pinned(axis, group.dim) for axis in axes):
        found.append("reduction")
    return found


def _produces(network: Network, member: Any) -> bool:
    """Whether a weight's output channels (and not its input's) are the member's axis."""
    for record in network.records:
        if member.tensor in record.node.input:
            dims = {
                dim
                for output in record.node.output
                for axis in network.axes.get(output) or ()
                for dim in leaves(axis)
            }
            mine = set(leaves((network.axes.get(member.tensor) or [])[member.axis]))
            return bool(mine & dims)
    return False


def _in_runs(axis: Axis, dim: Dim) -> bool:
    """The dim is one of several runs laid end to end."""
    axis = resolve(axis)
    if isinstance(axis, Dim):
        return False
    if isinstance(axis, Concat) and any(dim is leaf for leaf in leaves(axis)):
        return True
    return any(_in_runs(part, dim) for part in axis.parts)


def _merged_with_pinned(axis: Axis, dim: Dim) -> bool:
    """The dim stands in a product with positions that stay: it was flattened."""
    axis = resolve(axis)
    if isinstance(axis, Dim):
        return False
    if isinstance(axis, Product):
        dims = list(leaves(axis))
        return dim in dims and any(other.pinned for other in dims)
    return any(_merged_with_pinned(part, dim) for part in axis.parts)


def _reduced(network: Network) -> set[Dim]:
    found: set[Dim] = set()
    for record in network.records:
        if record.node.op_type.startswith("Reduce"):
            for name in record.node.input[:1]:
                inside = {d for a in network.axes.get(name) or () for d in leaves(a)}
                outside = {
                    d
                    for output in record.node.output
                    for a in network.axes.get(output) or ()
                    for d in leaves(a)
                }
                found |= inside - outside
    return found


def _pinned(network: Network) -> list[PinnedInfo]:
    free = {
        name
        for name, axes in network.axes.items()
        if name in network.model.constants
        and any(not d.pinned and (d.size or 0) > 1 for a in axes or () for d in leaves(a))
    }
    where: dict[str, dict[str, None]] = defaultdict(dict)
    axes: dict[str, list[tuple[str, int]]] = defaultdict(list)
    locked: dict[str, int] = defaultdict(int)
    counted: set[str] = set()
    for kept in pinned_axes(network):
        for pin in kept.pins:
            where[pin.reason].setdefault(pin.where)
            axes[pin.reason].append((kept.tensor, kept.axis))
        if kept.tensor not in free and kept.tensor not in counted and kept.pins:
            counted.add(kept.tensor)
            locked[kept.pins[0].reason] += elements(network, kept.tensor)
    return sorted(
        (
            PinnedInfo(reason, [w for w in places if w], axes[reason], locked[reason])
            for reason, places in where.items()
        ),
        key=lambda info: (-info.locked, info.reason),
    )
