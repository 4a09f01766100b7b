"""Where a group's channels are summed over: the operators that consume them.

A convolution or a matrix product sums over its input channels. What it reads, and the weight that
it multiplies them with, say how much a channel matters to what comes after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from .axes import Axis, Dim, Index, leaves, occurrences
from .groups import Group
from .model import attributes
from .network import Network, Record
from .statistics import measurable
from .tables import REST

_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "QLinearConv", "ConvInteger"})
#: Their inputs are multiplied with their second operand; what their states are, no tensor tells.
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True)
class Place:
    """A group's cells along one axis of a tensor: at `positions[i]` stands cell `cells[i]`."""

    tensor: str
    axis: int
    #: The length of that axis.
    size: int
    positions: Index
    cells: Index


@dataclass(frozen=True)
class Consumer:
    """An operator that sums over a group's channels.

    `data` is what it reads (a tensor of the main graph that depends on the model's inputs), and
    `weight` what it multiplies that with, where that does not. `unfolds` says that it is a
    convolution, which sees more of `data` than one position (see `statistics.Request`).
    """

    node: NodeProto
    data: Place
    weight: Place | None

    @property
    def unfolds(self) -> bool:
        """Whether it is a convolution (whose kernel may be of size 1)."""
        return self.node.op_type in _CONVOLUTIONS


class Uses:
    """The consumers of every dim of a network."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.measurable = measurable(network)
        self._constant = _constant(network)
        self._records: dict[Dim, list[Record]] = defaultdict(list)
        for record in network.records:
            for dim in {dim for axis in record.contracted for dim in leaves(axis)}:
                self._records[dim].append(record)

    def consumers(self, group: Group) -> list[Consumer]:
        """What sums over the group's channels, in the order of the graph."""
        found = []
        for record in self._records.get(group.dim, ()):
            for data, weight in self._operands(record):
                read = self._place(group, record, data)
                if read is None or read.tensor not in self.measurable:
                    continue
                held = None if weight is None else self._place(group, record, weight)
                found.append(Consumer(record.node, read, held))
        return found

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is the same for all inputs."""
        return name in self._constant

    def _operands(self, record: Record) -> Iterator[tuple[int, int | None]]:
        """The operands that are multiplied and summed: (data, weight or None)."""
        names = record.node.input
        terms: list[tuple[int, ...]] = [
            term
            for term in (record.rule.sums or record.rule.zero or ())
            if len(term) == 2 and REST not in term and max(term) < len(names)
        ]
        if record.node.op_type in _RECURRENT:
            terms = [(0, 1)]
        for a, b in sorted({(min(term), max(term)) for term in terms}):
            fixed = [name in self._constant for name in (names[a], names[b])]
            if fixed == [False, True]:
                yield a, b
            elif fixed == [True, False]:
                yield b, a
            elif fixed == [False, False]:
                yield a, None
                yield b, None
        if not terms and names and names[0] not in self._constant:
            yield 0, None

    def _place(self, group: Group, record: Record, operand: int) -> Place | None:
        """Where operand `operand` has the channels that are summed over."""
        name = record.node.input[operand]
        axes = self.network.axes.get(name)
        if not axes:
            return None
        here = [i for i, axis in enumerate(axes) if group.dim in set(leaves(axis))]
        at = _summed_axis(record.node, operand, len(axes))
        if at is None and len(here) == 1:
            (at,) = here
        if at is None or at not in here:
            return None
        positions, cells = _cells(axes[at], group)
        return Place(name, at, axes[at].size or 0, positions, cells)


def _summed_axis(node: NodeProto, operand: int, rank: int) -> int | None:
    """The axis of an operand that a product or convolution sums over; None where it is not known.

    A dim may be the output channels as well (a residual stream), so its presence says too little.
    """
    kind = node.op_type
    if kind in _CONVOLUTIONS and node.domain in ("", "ai.onnx", "com.microsoft"):
        return 1
    if kind == "ConvTranspose":
        return 1 if operand == 0 else 0
    if kind in _RECURRENT:
        return 2
    if kind == "MatMul":
        return rank - 1 if operand == 0 or rank == 1 else rank - 2
    if kind == "Gemm":
        turned = bool(attributes(node).get("transB" if operand else "transA", 0))
        return int(turned) if operand else 1 - int(turned)
    return None


def _cells(axis: Axis, group: Group) -> tuple[Index, Index]:
    """The positions of an axis at which the group's cells stand, and which.

    Where each row of a group keeps channels of its own, but the axis has no rows (they are another
    axis of the tensor), a position stands for that channel in every row.
    """
    found = occurrences(axis)
    rows = np.full(axis.size or 0, -1, dtype=np.int64)
    for dim, positions, index in found:
        if group.outer is not None and dim is group.outer:
            rows[positions] = index
    where: list[Index] = []
    cells: list[Index] = []
    for dim, positions, channels in found:
        if dim is not group.dim:
            continue
        row = rows[positions]
        if group.outer is None:
            where, cells = [*where, positions], [*cells, channels]
        elif (row >= 0).all():
            where, cells = [*where, positions], [*cells, channels + row * group.size]
        else:
            every = range(group.rows)
            where += [positions for _ in every]
            cells += [channels + each * group.size for each in every]
    return np.concatenate(where), np.concatenate(cells)


def _constant(network: Network) -> set[str]:
    """Constants, and everything that is computed from constants alone."""
    found = set(network.model.constants)
    for record in network.records:
        names = [name for name in record.node.input if name]
        if names and all(name in found for name in names):
            found.update(name for name in record.node.output if name)
    return found


def chain(network: Network, name: str) -> Sequence[NodeProto]:
    """The nodes that compute a tensor from constants, in an order in which they can run."""
    order: dict[int, NodeProto] = {}
    todo = [(name, False)]
    while todo:
        each, ready = todo.pop()
        node = network.model.producers.get(each)
        if node is None or id(node) in order:
            continue
        if ready:
            order[id(node)] = node
        else:
            todo.append((each, True))
            todo.extend((operand, False) for operand in node.input if operand)
    return list(order.values())
