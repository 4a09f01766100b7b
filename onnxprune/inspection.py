"""Inspection: what of a model could be removed, what can't, and why."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from .advice import advice
from .attribution import GroupTimes
from .axes import Axis, Concat, Dim, Product, leaves, resolve
from .errors import UsageError
from .groups import Group, pinned_axes
from .model import node_name
from .model_costs import macs_cost, parameters_cost
from .network import Network
from .shapes import dynamic_size
from .tables import operator_name
from .words import near


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
    #: How many choices of channels there are: one for each head or group, or 1.
    choices: int = 1
    #: Multiply-accumulates of one run that its channels are part of (dynamic sizes are `dynamic`).
    macs: float | None = None
    #: Of the kernels that work on its channels, in one run; where time was measured.
    ms: float | None = None


@dataclass(frozen=True)
class WeightInfo:
    """A constant that is cut, or could be if it were not pinned."""

    shape: list[int]
    #: The nodes that read it.
    nodes: list[str]


@dataclass(frozen=True)
class PinnedInfo:
    """Axes of weights that lose nothing, for one reason."""

    reason: str
    where: list[str]
    axes: list[tuple[str, int]]
    #: Elements of weights none of whose axes is free, and for which this is the first reason.
    locked: int
    #: Which options, or settings of the export, would free them.
    advice: list[str] = field(default_factory=list)


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
    #: The share of parameters left when one channel of every group stays: no less is possible.
    least_left: float = 1.0
    #: Multiply-accumulates of one run (dynamic sizes are `dynamic`), and shares left of them.
    macs: float | None = None
    macs_left_at_half: float | None = None
    least_macs_left: float | None = None
    #: The size that MACs are counted at where the file leaves one open; the batch is 1.
    dynamic: int = 1
    #: Of all kernels in one run, as onnxruntime's profile has it; where time was measured.
    ms: float | None = None
    #: Of those that stand for no node of the file, by operator.
    ms_elsewhere: dict[str, float] = field(default_factory=dict)
    #: The weights in groups, and those that are pinned.
    weights: dict[str, WeightInfo] = field(default_factory=dict)
    #: Whether all groups are in it: not after `select`.
    complete: bool = True

    def select(self, globs: Sequence[str]) -> Inspection:
        """The same with those groups alone whose name, or a member of which, matches a glob.

        Raises UsageError where a glob matches nothing.
        """
        chosen: set[int] = set()
        for glob in globs:
            names = [
                {group.name, *(tensor for tensor, _, _ in group.members)} for group in self.groups
            ]
            by_name = [i for i, group in enumerate(self.groups) if fnmatchcase(group.name, glob)]
            by_member = [
                i for i, each in enumerate(names) if any(fnmatchcase(name, glob) for name in each)
            ]
            if not by_member:
                hint = near(glob, set().union(*names))
                raise UsageError(f"no group and no member of one matches {glob!r}{hint}")
            chosen.update(by_name or by_member)
        order = sorted(chosen)
        return replace(
            self,
            groups=[self.groups[i] for i in order],
            grouping=[self.grouping[i] for i in order],
            complete=False,
        )

    def matrix(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The grouping matrix, `[layers, layers]`: true where two layers share a group."""
        found = np.eye(len(self.layers), dtype=bool)
        for rows in self.grouping:
            found[np.ix_(rows, rows)] = True
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def weigh(found: Inspection, network: Network, groups: Sequence[Group]) -> Inspection:
    """The same with what it costs: MACs, and the least that could be left."""
    free = [group for group in groups if group.role != "second-factor"]
    halves = {group.dim: max(1, group.size // 2) for group in free}
    least = {group.dim: 1 for group in free}
    cost, parameters = macs_cost(network), parameters_cost(network)
    whole, counted = cost.total(), parameters.total()
    shares: list[float | None] = [None, None]
    if whole:
        shares = [cost.total(widths) / whole for widths in (halves, least)]
    infos = [
        replace(
            info,
            macs=sum(
                term.value(*(axis.size or 0 for axis in term.axes))
                for term in cost.terms_of(group.dim)
            ),
        )
        for info, group in zip(found.groups, groups, strict=True)
    ]
    readers: dict[str, dict[str, None]] = defaultdict(dict)
    for record in network.records:
        for name in record.node.input:
            readers[name].setdefault(node_name(record.node))
    names = [tensor for group in infos for tensor, _, _ in group.members]
    names += [tensor for pinned in found.pinned for tensor, _ in pinned.axes]
    return replace(
        found,
        groups=infos,
        parameters=round(counted),
        left_at_half=parameters.total(halves) / counted if counted else 1.0,
        least_left=parameters.total(least) / counted if counted else 1.0,
        macs=whole,
        macs_left_at_half=shares[0],
        least_macs_left=shares[1],
        dynamic=dynamic_size(network.model.proto),
        weights={
            name: WeightInfo(list(network.model.constants[name].dims), list(readers[name]))
            for name in dict.fromkeys(names)
        },
    )


def timed(found: Inspection, times: GroupTimes) -> Inspection:
    """The same with what kernels take."""
    infos = [replace(info, ms=ms) for info, ms in zip(found.groups, times.groups, strict=True)]
    return replace(found, groups=infos, ms=times.whole, ms_elsewhere=times.elsewhere)


def look_into(network: Network, groups: Sequence[Group]) -> Inspection:
    """Describe what was found in a network."""
    layers = [
        name
        for name in dict.fromkeys(m.tensor for g in groups for m in g.members if m.scored)
        if len(network.model.constants[name].dims) > 1
    ]
    number = {name: i for i, name in enumerate(layers)}
    kinds = dependencies(network)
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
                kinds[group.dim],
                sum(elements(network, name) for name in {tensor for tensor, _, _ in members}),
                group.rows,
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
        share_left(network, {group.dim: 0.5 for group in groups if group.role != "second-factor"}),
    )


def elements(network: Network, name: str) -> int:
    """The number of elements of a constant."""
    return math.prod(network.model.constants[name].dims)


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
            return math.prod(fraction(part) for part in axis.parts)
        return sum(fraction(part) * (part.size or 0) for part in axis.parts) / (axis.size or 1)

    whole = left = 0.0
    for name in weight_names(network):
        count = elements(network, name)
        whole += count
        left += count * math.prod(fraction(a) for a in network.axes[name] or () if a.size)
    return left / whole if whole else 1.0


def dependencies(network: Network) -> Mapping[Dim, list[str]]:
    """Which of DepGraph's four kinds of dependency (its figure 2) couple each dim's weights."""
    producers: dict[Dim, set[str]] = defaultdict(set)
    concatenated: set[Dim] = set()
    reduced = _reduced(network)
    seen: set[str] = set()
    for record in network.records:
        weights = {
            name
            for name in record.node.input
            if name in network.scored and name in network.model.constants and name not in seen
        }
        seen |= weights
        made = _dims(network, record.node.output) if weights else set()
        for name in weights:
            axes = network.axes.get(name) or []
            for axis in axes if len(axes) > 1 else ():
                for dim in made.intersection(leaves(axis)):
                    producers[dim].add(name)
                concatenated |= _in_runs(axis)
                reduced |= _merged_with_pinned(axis)
    found: dict[Dim, list[str]] = defaultdict(lambda: ["basic"])
    coupled = {dim for dim, names in producers.items() if len(names) > 1}
    for kind, dims in (
        ("residual", coupled),
        ("concatenation", concatenated),
        ("reduction", reduced),
    ):
        for dim in dims:
            found[dim].append(kind)
    return found


def _in_runs(axis: Axis) -> set[Dim]:
    """The dims of an axis that are runs laid end to end."""
    axis = resolve(axis)
    if isinstance(axis, Concat):
        return set(leaves(axis))
    return set().union(*map(_in_runs, axis.parts)) if isinstance(axis, Product) else set()


def _merged_with_pinned(axis: Axis) -> set[Dim]:
    """The dims of an axis that stand in a product with positions that stay: it was flattened."""
    axis = resolve(axis)
    if isinstance(axis, Product):
        dims = set(leaves(axis))
        return dims if any(dim.pinned for dim in dims) else set()
    return set().union(*map(_merged_with_pinned, axis.parts)) if isinstance(axis, Concat) else set()


def _dims(network: Network, names: Iterable[str]) -> set[Dim]:
    return {dim for name in names for axis in network.axes.get(name) or () for dim in leaves(axis)}


def _reduced(network: Network) -> set[Dim]:
    found: set[Dim] = set()
    for record in network.records:
        if record.node.op_type.startswith("Reduce"):
            found |= _dims(network, record.node.input[:1]) - _dims(network, record.node.output)
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
            PinnedInfo(
                reason,
                [w for w in places if w],
                axes[reason],
                locked[reason],
                advice(reason, list(places)),
            )
            for reason, places in where.items()
        ),
        key=lambda info: (-info.locked, info.reason),
    )
