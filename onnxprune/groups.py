"""Groups: every dim that can be pruned, with all the weights that must be cut together with it.

A group is what DepGraph calls by that name: the maximal set of coupled parameters that lose the
same channels. Here it is one dim and every (constant, axis) in which the dim occurs, and all the
couplings (residual, concatenation, reduction) have happened in the algebra already.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from .axes import Axis, Dim, Index, Pin, leaves, occurrences, resolve
from .infer import Network

#: Of several roles that a dim plays, the first of these is the one it is called by.
_PRECEDENCE = ("heads", "head-dim", "conv-groups", "hidden", "channels", "ffn")


@dataclass(frozen=True)
class Member:
    """One occurrence of a group's dim: along `axis` of the constant `tensor`.

    `index` has the axis's size; it holds the dim's index at each position, or -1 outside of it.
    """

    tensor: str
    axis: int
    index: Index
    scored: bool


@dataclass
class Group:
    """Weights that lose the same channels together."""

    name: str
    dim: Dim
    role: str
    members: list[Member] = field(default_factory=list)
    exact: bool = False

    @property
    def size(self) -> int:
        """How many channels the group has."""
        return self.dim.size or 0

    @property
    def kind(self) -> str:
        """`exact` or `statistical`: whether removing channels equals masking them."""
        return "exact" if self.exact else "statistical"


@dataclass(frozen=True)
class Kept:
    """A constant's axis of which nothing can be removed, and why."""

    tensor: str
    axis: int
    size: int
    pins: tuple[Pin, ...]


def find_groups(network: Network) -> list[Group]:
    """All groups of a network, in the order in which the graph first uses their weights."""
    occurs: dict[Dim, list[tuple[str, int]]] = defaultdict(list)
    alone: set[Dim] = set()
    for name in constants_in_order(network):
        for i, axis in enumerate(network.axes.get(name) or ()):
            axis = resolve(axis)
            if isinstance(axis, Dim):
                alone.add(axis)
            for dim in dict.fromkeys(leaves(axis)):
                if not dim.pinned and (dim.size or 0) > 1:
                    occurs[dim].append((name, i))
    roles = _roles(network, alone)
    groups = []
    names: dict[str, int] = defaultdict(int)
    for dim, places in occurs.items():
        members = [
            Member(name, i, index, name in network.scored)
            for name, i in places
            for found, index in occurrences((network.axes.get(name) or [])[i])
            if found is dim
        ]
        if not any(member.scored for member in members):
            continue
        first = next(member for member in members if member.scored)
        names[first.tensor] += 1
        count = names[first.tensor]
        name = first.tensor if count == 1 else f"{first.tensor}#{count}"
        groups.append(Group(name, dim, roles.get(dim, "channels"), members))
    return groups


def constants_in_order(network: Network) -> list[str]:
    """The constants that carry axes, in the order of the nodes that read them."""
    seen: dict[str, None] = {}
    for record in network.records:
        for name in record.node.input:
            if name in network.model.constants and name in network.axes:
                seen.setdefault(name)
    for name in network.model.constants:
        if name in network.axes:
            seen.setdefault(name)
    return list(seen)


def pinned_axes(network: Network) -> list[Kept]:
    """Every axis of a scored constant that can't lose anything, with the reasons."""
    found = []
    for name in constants_in_order(network):
        if name not in network.scored:
            continue
        for i, axis in enumerate(network.axes.get(name) or ()):
            dims = list(leaves(axis))
            if (axis.size or 0) > 1 and all(dim.pinned or dim.size == 1 for dim in dims):
                pins = dict.fromkeys(pin for dim in dims for pin in dim.pins)
                found.append(Kept(name, i, axis.size or 0, tuple(pins)))
    return found


def _roles(network: Network, alone: set[Dim]) -> dict[Dim, str]:
    """What users call each dim, from what the rules said of the axes that it is part of."""
    marks: dict[Dim, set[str]] = defaultdict(set)
    for axis, role in network.roles:
        for dim in leaves(axis):
            marks[dim].add(role)
    attention = any("heads" in found and not dim.pinned for dim, found in marks.items())
    roles: dict[Dim, str] = {}
    for dim, found in marks.items():
        if "conv-groups" in found and dim in alone:
            # Depthwise: one channel for each group, so the groups are the channels.
            found = found - {"conv-groups"} | {"channels"}
        if "projection" in found and not found & {"hidden", "channels"}:
            found = found | {"ffn"}
        if "normalised" in found and attention and "channels" not in found:
            found = found | {"hidden"}
        roles[dim] = next((role for role in _PRECEDENCE if role in found), "channels")
    return roles


def axis_dims(axis: Axis) -> list[Dim]:
    """The dims of an axis that can be pruned."""
    return [dim for dim in dict.fromkeys(leaves(axis)) if not dim.pinned and (dim.size or 0) > 1]
