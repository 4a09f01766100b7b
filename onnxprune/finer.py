"""Finer choice: dims of which each index of another dim may keep channels of its own.

Attention heads, the groups of a convolution: an outer dim h with d channels in each index. Removing
the same channels from every head is always right; removing others from each, the same number, is
right where no operator sees channels of two heads at once. Then the axes of all tensors keep their
shape, and their flat positions say which channels are left.

That holds for d and h where

1. every constant that d occurs in has h beside it, as another factor of the same product: so that
   the kept positions of that axis are one list. A weight of `[d]` (a norm of queries, a rotary
   table, the inputs of a grouped convolution) is read by every head, which needs one choice;
2. every other tensor that d occurs in has h once, beside it or on an axis of its own;
3. every operator that ties d of two of its tensors ties their h as well, and does to each index of
   h what it does to it alone: it does not sum over h, take statistics of it or pin it, unless d is
   merged with it there, so that the two are one axis to the operator.

The third is asked of the operator's own rule: it is applied again, to axes that have nothing in
common but what it says of them. By induction over the graph, another permutation of d for each
index of h then changes no output; the certificate does just that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from .axes import Axis, Dim, Product, leaves, resolve
from .infer import follow
from .model import Node, subgraphs
from .network import Axes, Network, Record, Unsure
from .op import Op

#: For each occurrence of d in a tensor's axes: that d, and the h that it belongs to.
Pairs = list[tuple[Dim, Dim]]


def outer_dims(network: Network) -> dict[Dim, Dim]:
    """The dims that may be chosen for each index of another dim, and that other one.

    The other one's own choice is common: nothing depends on what depends on something.
    """
    found: dict[Dim, Dim] = {}
    candidates = _beside_everywhere(network)
    for dim, records in _records(network, candidates).items():
        if dim in found.values():
            continue
        for outer in candidates[dim]:
            if outer not in found and all(_apart(network, r, dim, outer) for r in records):
                found[dim] = outer
                break
    return found


def _beside_everywhere(network: Network) -> dict[Dim, list[Dim]]:
    """For each free dim, those that are beside it in every constant, the widest first."""
    found: dict[Dim, dict[Dim, None]] = {}
    for name in network.model.constants:
        for axis in network.axes.get(name) or ():
            for dim, factors in _with_factors(axis):
                if not dim.pinned and (dim.size or 0) > 1:
                    before = found.get(dim, factors)
                    found[dim] = dict.fromkeys(h for h in before if h in factors and h is not dim)
    return {
        dim: sorted(factors, key=lambda h: -(h.size or 0))
        for dim, factors in found.items()
        if factors
    }


def _with_factors(axis: Axis, beside: tuple[Dim, ...] = ()) -> Iterator[tuple[Dim, list[Dim]]]:
    """Each occurrence of a dim in an axis, with the dims that are factors of products around it."""
    axis = resolve(axis)
    if isinstance(axis, Dim):
        yield axis, list(beside)
        return
    for i, part in enumerate(axis.parts):
        around = beside
        if isinstance(axis, Product):
            others = (*axis.parts[:i], *axis.parts[i + 1 :])
            around += tuple(h for h in others if isinstance(h, Dim) and (h.size or 0) > 1)
        yield from _with_factors(part, around)


def _records(network: Network, dims: Collection[Dim]) -> Mapping[Dim, list[Record]]:
    """What was said of each node that reads or writes a tensor in which a dim occurs.

    Dims that occur in bodies are left out.
    """
    found: dict[Dim, list[Record]] = {dim: [] for dim in dims}
    occurring: dict[str, set[Dim]] = {}
    main = {name for node in network.model.proto.graph.node for name in node.output}
    for record in network.records if dims else ():
        names = (*record.node.input, *record.node.output)
        for name in names:
            if name not in occurring:
                occurring[name] = _dims(network.axes.get(name) or ()).intersection(dims)
        inside = not main.issuperset(record.node.output)
        for dim in set().union(*(occurring[name] for name in names)) & found.keys():
            if inside:
                del found[dim]
            else:
                found[dim].append(record)
    return found


def _dims(axes: Iterable[Axis]) -> set[Dim]:
    return {dim for axis in axes for dim in leaves(axis)}


def _apart(network: Network, record: Record, dim: Dim, outer: Dim) -> bool:
    """True where a node does with the `dim` of each index of `outer` what it does with it alone."""
    node = record.node
    names = [name for name in node.input if name]
    fresh = _Fresh(dim, outer)
    operands = {name: fresh.copies(network.axes.get(name) or ()) for name in names}
    if any(True for _ in subgraphs(node)):
        return False
    pairs: Pairs = []
    for name, axes in operands.items():
        if names.count(name) > 1 and not _dims(axes).isdisjoint(fresh.inner):
            return False  # one tensor is two operands, which can't be told apart here
        found = paired(axes, fresh.inner, fresh.outer)
        if found is None:
            return False
        pairs += found
    return _tied(network, record, operands, pairs)


def _tied(network: Network, record: Record, operands: Mapping[str, Axes], pairs: Pairs) -> bool:
    """True where a node's rule, applied to these axes, ties what `pairs` pairs."""
    probe = replace(
        network,
        axes={name: axes for name, axes in operands.items() if axes},
        symbols=dict(network.symbols),
        patches=[],
        frozen=[],
        records=[],
        statistical=[],
        roles=[],
        scored=set(),
        refused=[],
        shape_nodes=[],
    )
    # Sizes that only the run time knows are the network's own: computed shapes refer to them.
    shared = {d for d in _dims(a for axes in operands.values() for a in axes) if d.size is None}
    before = [(d, d.pins, d.bound) for d in shared.union(network.symbols.values())]
    try:
        follow(Op(probe, Node.of(record.node), record.rule))
        return _holds(probe, record, pairs)
    except Unsure:
        return False
    finally:
        for d, pins, bound in before:
            d.pins, d.bound = pins, bound


def _holds(probe: Network, record: Record, pairs: Pairs) -> bool:
    """What is tied is tied in pairs; the outputs are of the same pairs; outer dims are free."""
    belongs: dict[Dim, Dim] = {}
    for d, h in pairs:
        inner, outer = resolve(d), resolve(h)
        if not isinstance(inner, Dim) or not isinstance(outer, Dim) or outer.pinned:
            return False
        if belongs.setdefault(inner, outer) is not outer:
            return False
    summed = [axis for axis, _ in probe.statistical]
    summed += [axis for each in probe.records for axis in each.contracted]
    for axis in summed:
        here = set(leaves(axis))
        if any(h in here and d not in here for d, h in belongs.items()):
            return False
    for name in record.node.output:
        made = paired(probe.axes.get(name) or (), belongs, belongs.values())
        if made is None or any(belongs[d] is not h for d, h in made):
            return False
    return True


def paired(axes: Iterable[Axis], inner: Collection[Dim], outer: Collection[Dim]) -> Pairs | None:
    """Each occurrence of a dim of `inner` in a tensor's axes, with that of `outer` it belongs to.

    That is the one beside it in a product, or else the only one on another axis. None where that
    is none, or one of several.
    """
    every = [list(_with_factors(axis)) for axis in axes]
    found: Pairs = []
    for i, here in enumerate(every):
        for dim, factors in here:
            if dim not in inner:
                continue
            beside = [h for h in factors if h in outer]
            if not beside:
                beside = [h for k, on in enumerate(every) if k != i for h, _ in on if h in outer]
            if len(beside) != 1:
                return None
            found.append((dim, beside[0]))
    return found


class _Fresh:
    """Copies of axes, in which every occurrence of two dims is a dim of its own."""

    def __init__(self, dim: Dim, outer: Dim) -> None:
        self.inner: list[Dim] = []
        self.outer: list[Dim] = []
        self._several = {dim: self.inner, outer: self.outer}
        self._others: dict[Dim, Dim] = {}

    def copies(self, axes: Iterable[Axis]) -> Axes:
        return [self._copy(axis) for axis in axes]

    def _copy(self, axis: Axis) -> Axis:
        axis = resolve(axis)
        if not isinstance(axis, Dim):
            return type(axis)([self._copy(part) for part in axis.parts])
        if axis.size is None:
            return axis
        if axis in self._several:
            self._several[axis].append(Dim(axis.size))
            return self._several[axis][-1]
        return self._others.setdefault(axis, Dim(axis.size, axis.pins))
