"""Groups: every dim that can be pruned, with all the weights that must be cut together with it.

A group is what DepGraph calls by that name: the maximal set of coupled parameters that lose the
same channels. Here it is one dim and every (constant, axis) in which the dim occurs, and all the
couplings (residual, concatenation, reduction) have happened in the algebra already.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from .axes import Axis, Dim, Index, Pin, Product, leaves, occurrences, resolve
from .network import Network

#: Of several roles that a dim plays, the first of these is the one it is called by.
_PRECEDENCE = ("heads", "head-dim", "conv-groups", "hidden", "channels", "ffn")


@dataclass(frozen=True)
class Member:
    """One occurrence of a group's dim: along `axis` of the constant `tensor`.

    At position `positions[i]` of the axis stands channel `channels[i]` of the group.
    """

    tensor: str
    axis: int
    positions: Index
    channels: Index
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
    coupled: dict[Dim, list[Member]] = defaultdict(list)
    for name in constants_in_order(network):
        for i, axis in enumerate(network.axes.get(name) or ()):
            for dim, positions, channels in occurrences(axis):
                if not dim.pinned and (dim.size or 0) > 1:
                    scored = name in network.scored
                    coupled[dim].append(Member(name, i, positions, channels, scored))
    roles = _roles(network)
    groups = []
    names: dict[str, int] = defaultdict(lambda: 1)
    taken: set[str] = set()
    for dim, members in coupled.items():
        if not any(member.scored for member in members):
            continue
        first = next(member for member in members if member.scored)
        name = first.tensor
        while name in taken:  # another tensor may be called like a second group of this one
            names[first.tensor] += 1
            name = f"{first.tensor}#{names[first.tensor]}"
        taken.add(name)
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
                # The widest dim says most: in (4 h), h and not the four gates.
                dims.sort(key=lambda dim: -(dim.size or 0))
                pins = dict.fromkeys(pin for dim in dims for pin in dim.pins)
                found.append(Kept(name, i, axis.size or 0, tuple(pins)))
    return found


def _roles(network: Network) -> dict[Dim, str]:
    """What users call each dim, from what the rules said of the axes that it is part of."""
    marks: dict[Dim, set[str]] = defaultdict(set)
    for axis, role in network.roles:
        for dim in leaves(axis):
            marks[dim].add(role)
    halved = _factors_of_free_widths(network)
    attention = any("heads" in found and not dim.pinned for dim, found in marks.items())
    roles: dict[Dim, str] = {}
    for dim, found in marks.items():
        if "projection" in found and not found & {"hidden", "channels"}:
            found = found | {"ffn"}
        if "normalised" in found and attention and "channels" not in found:
            found = found | {"hidden"}
        if dim not in halved:
            found = found - {"conv-groups"}
        roles[dim] = next((role for role in _PRECEDENCE if role in found), "channels")
    return roles


def _factors_of_free_widths(network: Network) -> set[Dim]:
    """Dims that stand in a product with another dim that can be pruned.

    A width that is made of convolution groups and the channels inside them is halved by halving
    the one; halving both would leave a quarter.
    """
    found: set[Dim] = set()
    for name in network.scored & network.model.constants.keys():
        for axis in network.axes.get(name) or ():
            todo = [resolve(axis)]
            while todo:
                axis = todo.pop()
                if isinstance(axis, Product):
                    dims = axis_dims(axis)
                    if len(dims) > 1:
                        found.update(dims)
                if not isinstance(axis, Dim):
                    todo.extend(resolve(part) for part in axis.parts)
    return found


def axis_dims(axis: Axis) -> list[Dim]:
    """The dims of an axis that can be pruned."""
    return [dim for dim in dict.fromkeys(leaves(axis)) if not dim.pinned and (dim.size or 0) > 1]
