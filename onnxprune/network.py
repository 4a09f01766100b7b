"""What reading a graph gives: the axes of every tensor, and what its operators say of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from onnx import NodeProto, TensorProto

from .axes import Axis, Dim, Pin, leaves
from .external import is_external
from .model import SMALL, Array, Model, attributes
from .strides import Count
from .tables import Rule

Axes = list[Axis]

#: Constants of at most so many elements are told apart by their bytes, names included.
_TINY = 16


class Unsure(Exception):
    """Raised by a rule that can't say how the axes of this node hang together, and why."""


class Patch(NamedTuple):
    """Sizes that a node holds: element `i` of `slot` is the size of `sizes[i]`.

    `slot` is an operand's number or an attribute's name; `None` as element means all of it. An
    element that counts from the end of an axis changes with all of that axis: `of[i]`.
    """

    node: NodeProto
    slot: int | str
    sizes: Mapping[int | None, Axis]
    of: Mapping[int | None, Axis]


class Frozen(NamedTuple):
    """An attribute that is left out, and whose default comes from the size of `axis`.

    Where that axis changes, `value`, the default from before, is written. (A list that became an
    operand with opset 13 is written as that.)
    """

    node: NodeProto
    attribute: str
    value: float | list[int]
    axis: Axis


@dataclass(frozen=True)
class Quantised:
    """The names of the scale and the zero point of codes (or ""), and the axis they are along."""

    scale: str
    point: str
    axis: int

    def spread(self, values: Array, shape: Sequence[int], rows: slice = slice(None)) -> Array:
        """Scales or zero points as an array that is broadcast to codes of `shape`, or rows of it.

        Rows are indices of the first axis.
        """
        axis = self.axis % len(shape) if shape else 0
        if values.size == 1:
            return values.reshape(())
        at = np.arange(shape[axis])[rows if axis == 0 else slice(None)]
        if values.ndim == 1:
            return values[at].reshape([-1 if i == axis else 1 for i in range(len(shape))])
        if values.ndim < len(shape):  # one for each column of each matrix
            return np.expand_dims(values, 1)[rows]
        if axis and len(values) == shape[0]:
            values = values[rows]
        blocked = at // -(-shape[axis] // values.shape[axis])  # one for each block
        spread: Array = np.take(values, blocked, axis)
        return spread


@dataclass(slots=True)
class Record:
    """What one node did with axes: kept for proving which dims are exact."""

    node: NodeProto
    rule: Rule
    #: The names of what it reads and makes: read once, since each access to a proto costs.
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    contracted: Axes
    #: False where this node makes something of zero, whatever its rule's `zero` says.
    keeps_zero: bool = True


@dataclass
class Network:
    """The axes of every tensor of a model, and what its operators say of them."""

    model: Model
    rules: Mapping[str, Rule]
    axes: dict[str, Axes | None] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    #: The values of tiny constants by their bytes.
    tiny: dict[bytes, Array] = field(default_factory=dict)
    #: Of equal values, the one that stands for all of them; and what was computed of them.
    ones: dict[tuple[object, ...], Array] = field(default_factory=dict)
    computed: dict[tuple[object, ...], tuple[object, Array | None]] = field(default_factory=dict)
    #: Tensors that hold sizes, or what is computed of sizes alone.
    sizes: set[str] = field(default_factory=set)
    #: Index tensors whose elements rise by one step along each axis.
    counts: dict[str, Count] = field(default_factory=dict)
    patches: list[Patch] = field(default_factory=list)
    frozen: list[Frozen] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    statistical: list[tuple[Axis, str]] = field(default_factory=list)
    roles: list[tuple[Axis, str]] = field(default_factory=list)
    scored: set[str] = field(default_factory=set)
    #: Nodes that pinned all they touch: (node, reason).
    refused: list[tuple[NodeProto, str]] = field(default_factory=list)
    #: Shape nodes and the axes whose sizes they read.
    shape_nodes: list[tuple[NodeProto, Axes]] = field(default_factory=list)
    #: Nodes that only give their first operand another shape, in the words of another operator,
    #: and the axes of the result: written as a Reshape where these change.
    reshapes: list[tuple[NodeProto, Axes]] = field(default_factory=list)
    #: Sequences without elements.
    empty: set[str] = field(default_factory=set)
    #: If nodes whose condition is known, and the attribute with the branch that is never taken.
    never: list[tuple[NodeProto, str]] = field(default_factory=list)
    #: What the model and the bodies in it give back.
    results: frozenset[str] = frozenset()
    symbols: dict[str, Dim] = field(default_factory=dict)
    #: The dims of the model's inputs.
    given: set[Axis] = field(default_factory=set)
    shapes: dict[str, list[int | str | None]] = field(default_factory=dict)

    def axes_of(self, name: str) -> Axes | None:
        """The axes of a tensor, or None where not even its rank is known."""
        axes = self.axes.get(name)
        if axes is None and name in self.model.constants and name not in self.axes:
            self.axes[name] = axes = [Dim(dim) for dim in self.model.constants[name].dims[:]]
        return axes

    def value_of(self, name: str) -> Array | None:
        """The value of a small constant or of a computed shape (see `values` for its elements)."""
        known = self.values.get(name)
        if known is not None:
            return known
        tensor = self.model.constants.get(name)
        if tensor is None:
            return None
        if tensor.data_type == TensorProto.STRING or (count := math.prod(tensor.dims[:])) > SMALL:
            return None
        if count > _TINY or is_external(tensor):
            value = self.one(self.model.read(name))
        else:
            # Most are equal to one that was read before; bytes are read faster than fields are.
            content = tensor.SerializeToString()
            if content not in self.tiny:
                self.tiny[content] = self.one(self.model.read(name))
            value = self.tiny[content]
        self.values[name] = value
        return value

    def one(self, value: Array) -> Array:
        """The array that stands for all that are equal to `value`, types of elements included."""
        key: tuple[object, ...]
        if value.dtype.hasobject:
            elements = value.ravel().tolist()
            key = (value.shape, *elements, *map(type, elements))
        else:
            key = (value.shape, value.dtype, value.tobytes())
        return self.ones.setdefault(key, value)

    def quantised(self) -> dict[str, Quantised]:
        """The tensors that hold codes, by name."""
        found: dict[str, Quantised] = {}
        for record in self.records:
            names = record.node.input
            for codes, scale, point, *axis in record.rule.codes:
                if codes < len(names):
                    at = axis[0] if axis else attributes(record.node).get("axis", 1)
                    operands = [names[i] if 0 <= i < len(names) else "" for i in (scale, point)]
                    same = [at for name in operands for at in self._along(names[codes], name)]
                    at = same[0] if len(set(same)) == 1 else at
                    found.setdefault(names[codes], Quantised(operands[0], operands[1], at))
        return found

    def _along(self, name: str, vector: str) -> list[int]:
        """The axes of a tensor that are the one of `vector`."""
        (wanted, *more) = self.axes.get(vector) or [Dim(1)]
        if more or wanted.size == 1:
            return []
        dims = list(leaves(wanted))
        return [i for i, axis in enumerate(self.axes.get(name) or ()) if list(leaves(axis)) == dims]

    def symbol(self, size: int | str | None) -> Dim:
        """A dim for one entry of a declared shape; the same name gives the same dim."""
        if isinstance(size, int):
            return Dim(size)
        if size is None:
            return Dim(None, (DYNAMIC,))
        if size not in self.symbols:
            self.symbols[size] = Dim(None, (DYNAMIC,))
        return self.symbols[size]

    def declared(self, name: str) -> Axes | None:
        """Fresh axes from the shape that the file or ONNX's shape inference gives a tensor."""
        shape = self.shapes.get(name)
        return None if shape is None else [self.symbol(size) for size in shape]


DYNAMIC = Pin("its size is only known at run time")
