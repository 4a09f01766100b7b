"""The costs of a network that can be counted: MACs, parameters and bytes of any choice of widths.

What `measure.count` finds in a file after rewriting, these predict before it: MACs and parameters
exactly, bytes but for the few that names and nodes of sizes written anew take (a budget of bytes is
confirmed by counting the rewritten model).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .axes import Axis, Dim, Pin
from .costs import Cost, Scaled, Term, at_size
from .external import bytes_of as bytes_of_elements
from .macs import Product, multiplications
from .measure import bytes_of, parameters, stored_bytes
from .model import node_name
from .network import Network
from .shapes import Shapes, infer


def macs_cost(network: Network, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Cost:
    """Multiply-accumulates of one run, as `measure.count` has them.

    Args:
        input_shapes: `{input: [d, ...]}`; dynamic dims that it leaves open have
            `shapes.dynamic_size`, mostly 1.

    Raises:
        UsageError: ``input_shapes`` contradicts the model.
    """
    terms: list[Term] = []
    # Equal products are many (the blocks of a network): each is one term, times their number.
    for (axes, where), times in _merged(network, input_shapes).items():
        terms.append(Term(where, axes, Scaled(times)))
    return Cost(terms, "MACs")


def _merged(
    network: Network, input_shapes: Mapping[str, Sequence[int]] | None
) -> dict[tuple[tuple[Axis, ...], str], float]:
    found: dict[tuple[tuple[Axis, ...], str], float] = defaultdict(float)
    for graph, shapes in infer(network.model.proto, input_shapes):
        for node in graph.node:
            for product in multiplications(node, shapes) or ():
                axes, times = _variable(network, product, shapes)
                found[axes, node_name(node)] += times
    return found


def _variable(network: Network, product: Product, shapes: Shapes) -> tuple[tuple[Axis, ...], float]:
    """The axes of a product that widths can change, and the number that all others make."""
    axes, times = [], product.times
    for factor in product.factors:
        if isinstance(factor, int):
            times *= factor
            continue
        axis = axis_at(network, *factor, shapes)
        if isinstance(axis, int):
            times *= axis
        else:
            axes.append(axis)
    return tuple(axes), times


def axis_at(network: Network, tensor: str, number: int, shapes: Shapes) -> Axis | int:
    """An axis of a tensor, all sizes known; or its size, where no width can change it."""
    size = shapes[tensor][number]
    axes = network.axes.get(tensor)
    if not axes or len(axes) != len(shapes[tensor]):
        return size
    axis = at_size(axes[number], size)
    return size if isinstance(axis, Dim) and (axis.pinned or size <= 1) else axis


def parameters_cost(network: Network) -> Cost:
    """Elements of weights, as `measure.count` has them."""
    counted = {name for name, _ in parameters(network.model.proto)}
    terms = [
        _term(network, name, _Elements()) for name in network.model.constants if name in counted
    ]
    return Cost(terms, "parameters")


def bytes_cost(network: Network) -> Cost:
    """Bytes of the file and of its external data."""
    model = network.model
    terms, held = [], 0
    for name, tensor in model.constants.items():
        whole = stored_bytes(tensor)
        held += whole
        terms.append(_term(network, name, _Bytes(tensor.data_type, whole)))
    return Cost(terms, "bytes", fixed=bytes_of(model.proto, model.proto) - held)


@dataclass(frozen=True)
class _Elements:
    def __call__(self, count: int, changed: bool) -> int:
        return count


@dataclass(frozen=True)
class _Bytes:
    """The bytes of a tensor; one that changes is written anew, as raw data in the file."""

    data_type: int
    whole: int

    def __call__(self, count: int, changed: bool) -> int:
        return bytes_of_elements(self.data_type, count) if changed else self.whole


def _term(network: Network, name: str, value: Callable[[int, bool], int]) -> Term:
    model = network.model
    axes = _axes(network, name)
    full = tuple(axis.size or 0 for axis in axes)
    original = model.copies.get(name)
    if original is None or original not in model.constants:
        return Term(name, axes, lambda *sizes: value(math.prod(sizes), sizes != full))
    # A copy that loading made stays one only if it or what it is a copy of changes.
    also = _axes(network, original)
    both = full + tuple(axis.size or 0 for axis in also)

    def copied(*sizes: int) -> int:
        return (
            0 if sizes == both else value(math.prod(sizes[: len(full)]), sizes[: len(full)] != full)
        )

    return Term(name, axes + also, copied)


def _axes(network: Network, name: str) -> tuple[Axis, ...]:
    """The axes of a constant."""
    dims = network.model.constants[name].dims
    axes = network.axes.get(name)
    if axes is None or len(axes) != len(dims):
        return tuple(Dim(size, (_UNREAD,)) for size in dims)
    return tuple(axes)


_UNREAD = Pin("no rule reads it")
