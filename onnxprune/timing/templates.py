"""One operator, apart from its model, at any widths: what is timed.

A node's shapes are given by the sizes of a few *coordinates*: the axes that can change, products
taken apart. A `Template` can be built as a small graph for any sizes of them. Templates whose
configuration (operator, attributes, shapes but for the coordinates) is the same have the same
`key`, and are timed once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto, TensorProto, helper

from onnxprune.axes import Axis, Concat, Dim, Product, leaves, resolve

from . import stairs
from .executed import Executed, Operand

#: A size: a number, times coordinates by their numbers.
Size = tuple[int, tuple[int, ...]]


class Coordinates:
    """The axes of a node that can change, each distinct one once."""

    def __init__(self) -> None:
        self.axes: list[Axis] = []
        self._numbers: dict[Any, int] = {}

    def size(self, axis: Axis | int) -> Size:
        """The size of an axis in terms of coordinates."""
        if isinstance(axis, int):
            return axis, ()
        axis = resolve(axis)
        if all(dim.pinned or (dim.size or 0) <= 1 for dim in leaves(axis)):
            return axis.size or 0, ()
        if isinstance(axis, Product):
            sizes = [self.size(part) for part in axis.parts]
            return math.prod(n for n, _ in sizes), tuple(i for _, each in sizes for i in each)
        key = _identity(axis)
        if key not in self._numbers:
            self._numbers[key] = len(self.axes)
            self.axes.append(axis)
        return 1, (self._numbers[key],)

    @property
    def full(self) -> tuple[int, ...]:
        return tuple(axis.size or 0 for axis in self.axes)


def _identity(axis: Axis) -> Any:
    axis = resolve(axis)
    if isinstance(axis, Dim):
        return id(axis)
    return isinstance(axis, Concat), *(_identity(part) for part in axis.parts)


def evaluate(size: Size, at: Sequence[int]) -> int:
    """A size where the coordinates have these sizes."""
    value, numbers = size
    for i in numbers:
        value *= at[i]
    return value


@dataclass
class Piece:
    """A part of a graph: its nodes, what it reads as `(name, shape, type)`, its last tensor."""

    nodes: list[NodeProto] = field(default_factory=list)
    inputs: list[tuple[str, list[int], int]] = field(default_factory=list)
    weights: list[tuple[str, list[int], int]] = field(default_factory=list)
    values: list[TensorProto] = field(default_factory=list)
    result: str = ""


@dataclass(frozen=True)
class Template:
    """An operator to be timed."""

    key: str
    axes: tuple[Axis, ...]
    #: For each coordinate the widths to measure, and the height of its stairs.
    edges: tuple[tuple[int, ...], ...]
    steps: tuple[int, ...]
    #: The graph for some sizes; every name in it starts with the second argument.
    build: Callable[[Sequence[int], str], Piece]
    opset: int
    #: Multiply-accumulates and the like, for planning the time that measuring takes.
    work: Callable[[Sequence[int]], float]

    @property
    def full(self) -> tuple[int, ...]:
        return tuple(edges[-1] for edges in self.edges)


# -- any other operator --------------------------------------------------------------------------


def operator(
    done: Executed,
    shapes: Sequence[Sequence[Axis | int]],
    bound: Mapping[str, Axis],
    constants: Mapping[str, TensorProto],
    opset: int,
) -> Template | None:
    """A node just as it was run, its operands in `shapes`; None where it can't stand alone.

    Args:
        bound: attributes that hold the size of an axis.
        constants: operands that are values, by name.
    """
    if not done.inputs or any(not operand.dtype for operand in done.inputs):
        return None
    coordinates = Coordinates()
    sizes = [[coordinates.size(axis) for axis in shape] for shape in shapes]
    sizes = [
        _matched(o, s, sizes, coordinates.full) for o, s in zip(done.inputs, sizes, strict=True)
    ]
    held = {name: coordinates.size(axis) for name, axis in bound.items()}
    if not coordinates.axes or len(coordinates.axes) > 3:
        return None
    operands = []
    for operand, each in zip(done.inputs, sizes, strict=True):
        fixed = not any(numbers for _, numbers in each)
        value = constants.get(operand.name) if fixed else None
        if operand.dtype in _INTEGERS and value is None:
            return None
        operands.append((operand, each, value))
    attrs = {a.name: a for a in done.node.attribute if a.name not in held}
    key = json.dumps(
        {
            "op": f"{done.node.domain}:{done.node.op_type}",
            "opset": opset,
            "attributes": sorted(str(a).replace("\n", " ") for a in attrs.values()),
            "bound": held,
            "operands": [
                [o.dtype, o.constant, each, None if v is None else v.raw_data.hex()[:64]]
                for o, each, v in operands
            ],
        },
        sort_keys=True,
    )
    present = iter(operands)
    slots = [next(present) if name else None for name in done.node.input]

    def build(at: Sequence[int], tag: str) -> Piece:
        piece, names = Piece(result=f"{tag}y0"), []
        for i, slot in enumerate(slots):
            names.append(f"{tag}i{i}" if slot else "")
            if slot is None:
                continue
            operand, each, value = slot
            if value is not None:
                copy = TensorProto()
                copy.CopyFrom(value)
                copy.name = names[-1]
                piece.values.append(copy)
            else:
                entry = (names[-1], [evaluate(n, at) for n in each], operand.dtype)
                (piece.weights if operand.constant else piece.inputs).append(entry)
        outputs = [f"{tag}y{i}" if name else "" for i, name in enumerate(done.node.output)]
        node = helper.make_node(
            done.node.op_type, names, outputs, f"{tag}node", domain=done.node.domain
        )
        node.attribute.extend(attrs.values())
        for name, size in held.items():
            node.attribute.append(helper.make_attribute(name, evaluate(size, at)))
        piece.nodes.append(node)
        return piece

    def work(at: Sequence[int]) -> float:
        return float(sum(math.prod(evaluate(n, at) for n in each) for _, each, _ in operands))

    edges = tuple(tuple(stairs.coarse(size, 16)) for size in coordinates.full)
    steps = (1,) * len(edges)
    return Template(key, tuple(coordinates.axes), edges, steps, build, opset, work)


_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


def _matched(
    operand: Operand, sizes: list[Size], others: Sequence[list[Size]], full: Sequence[int]
) -> list[Size]:
    """The sizes of a weight that a fusion made: an axis as long as one that changes is that one."""
    if not operand.constant or any(numbers for _, numbers in sizes):
        return sizes
    changing = {evaluate(n, full): n for each in others for n in each if n[1]}
    return [changing.get(size, (size, ())) for size, _ in sizes]
