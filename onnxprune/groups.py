"""Groups: every dim that can be pruned, with all the weights that must be cut together with it.

A group is what DepGraph calls by that name: the maximal set of coupled parameters that lose the
same channels. Here it is one dim and every (constant, axis) in which the dim occurs, and all the
couplings (residual, concatenation, reduction) have happened in the algebra already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .axes import Axis, Dim, Index, Pin, Product, leaves, occurrences, resolve
from .finer import outer_dims
from .network import Network
from .uncollected import uncollected

#: Of several roles that a dim plays, the first of these is the one it is called by.
_PRECEDENCE = ("second-factor", "heads", "head-dim", "hidden", "channels", "ffn")


@dataclass(frozen=True)
class Member:
    """One occurrence of a group's dim: along `axis` of the constant `tensor`.

    At position `positions[i]` of the axis stands cell `channels[i]` of the group.
    """

    tensor: str
    axis: int
    positions: Index
    channels: Index
    scored: bool


@dataclass
class Group:
    """Weights that lose the same channels together.

    Where `outer` is given, each of its indices keeps channels of its own: the group has `rows` x
    `size` cells, and channel c of row h is cell `h * size + c`. Otherwise cells are channels.
    """

    name: str
    dim: Dim
    role: str
    members: list[Member] = field(default_factory=list)
    exact: bool = False
    outer: Dim | None = None
    #: What the plan calls `outer`: its group's name, if it has one.
    outer_name: str = ""

    @property
    def size(self) -> int:
        """How many channels the group has."""
        return self.dim.size or 0

    @property
    def rows(self) -> int:
        """How many choices of channels there are: one for each head or group, or 1."""
        return 1 if self.outer is None else self.outer.size or 1

    @property
    def cells(self) -> int:
        """How many scores the group has."""
        return self.rows * self.size

    def common(self) -> Group:
        """The same group with one choice of channels for all rows."""
        members = [replace(each, channels=each.channels % self.size) for each in self.members]
        return replace(self, members=members, outer=None, outer_name="")

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


@uncollected()
def find_groups(network: Network) -> list[Group]:
    """All groups of a network, in the order in which the graph first uses their weights."""
    coupled: dict[Dim, list[Member]] = defaultdict(list)
    outer = outer_dims(network)
    for name in constants_in_order(network):
        for i, axis in enumerate(network.axes.get(name) or ()):
            found = occurrences(axis)
            for dim, positions, channels in found:
                if not dim.pinned and (dim.size or 0) > 1:
                    if dim in outer:
                        rows = _indices(outer[dim], found, axis.size or 0)[positions]
                        channels = channels + rows * (dim.size or 0)
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
        role = roles.get(dim, "channels")
        groups.append(Group(name, dim, role, members, outer=outer.get(dim)))
    called = {group.dim: group.name for group in groups}
    for group in groups:
        if group.outer is not None:
            # One that is no group of its own is called by the first that has it.
            group.outer_name = called.setdefault(group.outer, _free(f"{group.name}/outer", taken))
    return groups


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def _indices(dim: Dim, found: Sequence[tuple[Dim, Index, Index]], size: int) -> Index:
    """The index of `dim` at each position of an axis of `size`; -1 where it does not occur."""
    indices = np.full(size, -1, dtype=np.int64)
    for other, positions, channels in found:
        if other is dim:
            indices[positions] = channels
    return indices


def free_dims(network: Network) -> list[Dim]:
    """Every dim of a constant that is not pinned, those that carry no importance included."""
    dims = (
        dim
        for name in constants_in_order(network)
        for axis in network.axes.get(name) or ()
        for dim in axis_dims(axis)
    )
    return list(dict.fromkeys(dims))


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
    merged, second = _merged(network, marks)
    attention = any("heads" in found and not dim.pinned for dim, found in marks.items())
    roles: dict[Dim, str] = {}
    for dim, found in marks.items():
        if "projection" in found and not found & {"hidden", "channels"}:
            found = found | {"ffn"}
        if "normalised" in found and attention and "channels" not in found:
            found = found | {"hidden"}
        if "channels" in found and dim not in merged:
            # A Gram matrix of features, not attention: no head, no part of one.
            found = found - {"heads", "head-dim"}
        if dim in second:
            found = found | {"second-factor"}
        roles[dim] = next((role for role in _PRECEDENCE if role in found), "channels")
    return roles


def _merged(network: Network, marks: Mapping[Dim, set[str]]) -> tuple[set[Dim], set[Dim]]:
    """Dims that are a factor of a wider axis; and those of them that are the second free factor.

    A width that is made of groups (of a convolution, of a normalisation) and the channels inside
    them is halved by halving the one: halving both would leave a quarter. Heads are not such a
    width: how many there are and how wide each is are two choices. Nor is a dim that is an axis of
    a matrix by itself.
    """
    merged: set[Dim] = set()
    alone: set[Dim] = set()
    first: set[Dim] = set()
    second: set[Dim] = set()
    for name in constants_in_order(network):
        if name not in network.scored:
            continue
        axes = [resolve(axis) for axis in network.axes.get(name) or ()]
        if sum(axis.size != 1 for axis in axes) > 1:
            alone.update(axis for axis in axes if isinstance(axis, Dim))
        for axis in axes:
            for factors in _products(axis):
                merged.update(factors)
                free = [d for d in factors if not d.pinned and (d.size or 0) > 1]
                if len(free) < 2 or any(marks[d] & {"heads", "head-dim"} for d in free):
                    continue
                # Inside of the groups, if a convolution says which they are; else the widest.
                free.sort(key=lambda d: ("conv-groups" in marks[d], d in second, -(d.size or 0)))
                chosen = next((d for d in free if d in first), free[0])
                first.add(chosen)
                second.update(d for d in free if d not in first)
    return merged, second - first - alone


def _products(axis: Axis) -> Iterator[list[Dim]]:
    """The dims of each product in an axis."""
    todo = [resolve(axis)]
    while todo:
        axis = todo.pop()
        if isinstance(axis, Product):
            yield list(dict.fromkeys(dim for dim in leaves(axis) if dim.size != 1))
        if not isinstance(axis, Dim):
            todo.extend(resolve(part) for part in axis.parts)


def axis_dims(axis: Axis) -> list[Dim]:
    """The dims of an axis that can be pruned."""
    return [dim for dim in dict.fromkeys(leaves(axis)) if not dim.pinned and (dim.size or 0) > 1]
