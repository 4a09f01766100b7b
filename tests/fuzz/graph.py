"""A graph in the making: values with known shapes, and weights that reach them in many ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx import numpy_helper as numpy_tensors

Array = NDArray[Any]
T = TypeVar("T")

#: Opsets that differ in what is an operand and what an attribute.
OPSETS = (12, 13, 17, 18, 21, 23)
_IR = 10


@dataclass(frozen=True)
class Value:
    """A float32 tensor: its name, its shape when the model runs, and which axis weights made."""

    name: str
    shape: tuple[int, ...]
    #: The axis whose channels come from a weight; a hint for the grammar, no claim.
    channel: int | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass
class Scope:
    """What one graph, or the body of a node, is made of."""

    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)


class Graph:
    """Appends nodes, and hands back values. All randomness comes from `rng`."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.opset = self.pick(OPSETS)
        self.scopes = [Scope()]
        self.inputs: list[ValueInfoProto] = []
        self.feeds: dict[str, Array] = {}
        #: The same inputs, with other sizes of what the run time knows alone.
        self.resized: dict[str, Array] = {}
        self.dynamic = False
        self.pool: list[Value] = []
        #: Values that nothing has read.
        self.open: list[Value] = []
        #: Matrices and vectors that a later operator may share, with their shapes.
        self.weights: list[tuple[str, tuple[int, ...]]] = []
        self.domains: set[str] = set()
        self._count = 0

    # -- drawing ---------------------------------------------------------------------------------

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def int(self, low: int, high: int) -> int:
        """An integer of `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def width(self) -> int:
        """How many channels a layer makes."""
        return self.pick((2, 3, 4, 4, 6, 6, 8, 12))

    def divisor(self, n: int) -> int:
        """A divisor; one that is neither 1 nor all of it more often than not."""
        inner = [d for d in range(2, n) if n % d == 0]
        return self.pick(inner if inner and self.chance(0.7) else (1, n))

    # -- nodes -----------------------------------------------------------------------------------

    def name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

    def nodes(
        self, op: str, inputs: Sequence[str | Value], count: int, domain: str = "", **attrs: Any
    ) -> list[str]:
        """A node of several outputs; their names."""
        names = [each.name if isinstance(each, Value) else each for each in inputs]
        while names and not names[-1]:
            names.pop()
        made = [self.name(op) for _ in range(count)]
        attrs = {key: value for key, value in attrs.items() if value is not None}
        self.scopes[-1].nodes.append(
            helper.make_node(op, names, made, name=made[0], domain=domain, **attrs)
        )
        if domain:
            self.domains.add(domain)
        return made

    def node(self, op: str, *inputs: str | Value, domain: str = "", **attrs: Any) -> str:
        """A node of one output; its name."""
        return self.nodes(op, inputs, 1, domain, **attrs)[0]

    def value(
        self,
        op: str,
        inputs: Sequence[str | Value],
        shape: Sequence[int],
        channel: int | None,
        **attrs: Any,
    ) -> Value:
        """A node of one float output."""
        return Value(self.node(op, *inputs, **attrs), tuple(map(int, shape)), channel)

    def like(self, op: str, x: Value, *more: str | Value, **attrs: Any) -> Value:
        """A node whose output has the shape of its first input."""
        return replace(x, name=self.node(op, x, *more, **attrs))

    @contextmanager
    def body(self) -> Iterator[Scope]:
        """Nodes made inside are those of a node's body."""
        self.scopes.append(Scope())
        known = len(self.weights)
        yield self.scopes[-1]
        self.scopes.pop()
        del self.weights[known:]  # they can't be seen from outside

    def subgraph(
        self, scope: Scope, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> GraphProto:
        return helper.make_graph(
            scope.nodes, self.name("body"), inputs, outputs, scope.initializers
        )

    # -- constants -------------------------------------------------------------------------------

    def store(self, array: Array, *, outside: bool = False) -> str:
        """An initializer, or a Constant node."""
        name = self.name("const")
        scope = self.scopes[0 if outside else -1]
        tensor = numpy_tensors.from_array(np.asarray(array, order="C"), name)
        if outside or not self.chance(0.15):
            scope.initializers.append(tensor)
        else:
            scope.nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
        return name

    def ints(self, *values: int) -> str:
        return self.store(np.array(values, dtype=np.int64))

    def floats(self, shape: Sequence[int], scale: float = 1.0, shift: float = 0.0) -> str:
        """A constant of random numbers that is not shared."""
        array = self.rng.standard_normal(tuple(shape)) * scale + shift
        return self.store(array.astype(np.float32))

    def listed(self, values: Sequence[int], attribute: str, since: int) -> tuple[list[str], Any]:
        """Integers that are an operand since an opset, and were an attribute before."""
        if self.opset >= since:
            return [self.ints(*values)], {}
        return [], {attribute: [int(each) for each in values]}

    def weight(self, *shape: int, fan: int | None = None, tie: bool = True) -> str:
        """A weight of normal values over the root of `fan`: stored, shared or computed."""
        if tie and self.chance(0.12):
            same = [name for name, known in self.weights if known == shape]
            if same:
                return self.pick(same)
        fan = fan or (prod(shape[1:]) if len(shape) > 1 else 4)
        array = self.rng.standard_normal(shape).astype(np.float32) / np.float32(fan) ** 0.5
        form = self.pick(_FORMS) if self.chance(0.4) else _plain
        name = form(self, array)
        self.weights.append((name, shape))
        return name

    # -- ending ----------------------------------------------------------------------------------

    def add(self, *values: Value) -> None:
        """These values can be read from now on."""
        self.pool.extend(values)
        self.open.extend(values)

    def take(self, fits: Callable[[Value], bool] = lambda _: True) -> Value | None:
        """Some value of the pool, an unread one more often than not."""
        for among in (self.open, self.pool) if self.chance(0.75) else (self.pool,):
            found = [value for value in among if fits(value)]
            if found:
                return self.pick(found)
        return None

    def read(self, *values: Value) -> None:
        """These have been read."""
        self.open = [value for value in self.open if value not in values]

    def model(self, outputs: Sequence[Value]) -> ModelProto:
        made = [
            helper.make_tensor_value_info(each.name, TensorProto.FLOAT, [None] * each.rank)
            for each in outputs
        ]
        scope = self.scopes[0]
        graph = helper.make_graph(scope.nodes, "fuzz", self.inputs, made, scope.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(name, 1) for name in sorted(self.domains)]
        return helper.make_model(graph, ir_version=_IR, opset_imports=opsets)


# -- ways of a weight to its operator ------------------------------------------------------------


def _plain(g: Graph, array: Array) -> str:
    return g.store(array, outside=g.chance(0.5))


def _identity(g: Graph, array: Array) -> str:
    return g.node("Identity", g.store(array))


def _transposed(g: Graph, array: Array) -> str:
    perm = [int(i) for i in g.rng.permutation(array.ndim)]
    back = [perm.index(i) for i in range(array.ndim)]
    return g.node("Transpose", g.store(array.transpose(perm)), perm=back)


def _reshaped(g: Graph, array: Array) -> str:
    flat = g.store(array.reshape(-1) if g.chance(0.5) else array.reshape(array.shape[0], -1))
    return g.node("Reshape", flat, g.ints(*array.shape))


def _cast(g: Graph, array: Array) -> str:
    kind = g.pick((np.float64, np.float16))
    return g.node("Cast", g.store(array.astype(kind)), to=TensorProto.FLOAT)


def _dequantised(g: Graph, array: Array) -> str:
    """int8 or uint8 codes, with one scale, or one for each index of an axis."""
    if g.opset < 13:
        return _plain(g, array)
    axis = g.int(0, array.ndim - 1) if g.chance(0.6) else None
    over = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.abs(array).max(axis=None if axis is None else over) / 100 + 1e-4
    kind = g.pick((np.int8, np.uint8))
    point = g.int(-9, 9) if kind is np.int8 else g.int(118, 138)
    wide = [1] * array.ndim
    if axis is not None:
        wide[axis] = -1
    codes = np.round(array / np.reshape(scale, wide)) + point
    limits = np.iinfo(kind)
    operands = [
        g.store(np.clip(codes, limits.min, limits.max).astype(kind)),
        g.store(np.asarray(scale, dtype=np.float32)),
        g.store(np.full(np.shape(scale), point, dtype=kind)),
    ]
    return g.node("DequantizeLinear", *operands, axis=axis)


def _joined(g: Graph, array: Array) -> str:
    """Two parts laid end to end."""
    axis = g.int(0, array.ndim - 1)
    if array.shape[axis] < 2:
        return _plain(g, array)
    at = g.int(1, array.shape[axis] - 1)
    parts = [g.store(each) for each in np.split(array, [at], axis)]
    return g.node("Concat", *parts, axis=axis)


def _scaled(g: Graph, array: Array) -> str:
    """A direction times a length for each index of the first axis (weight normalisation)."""
    wide = [-1] + [1] * (array.ndim - 1)
    length = np.abs(g.rng.standard_normal(array.shape[0])).astype(np.float32) + 0.5
    stored = g.store((array / length.reshape(wide)).astype(np.float32))
    return g.node("Mul", stored, g.store(length.reshape(wide)))


def _cut_out(g: Graph, array: Array) -> str:
    """A run of a longer weight."""
    axis = g.int(0, array.ndim - 1)
    before, after = g.int(0, 2), g.int(0, 2)
    pads = [(before, after) if i == axis else (0, 0) for i in range(array.ndim)]
    stored = g.store(np.pad(array, pads, constant_values=0.5))
    end = before + array.shape[axis]
    return g.node("Slice", stored, g.ints(before), g.ints(end), g.ints(axis))


_FORMS = (
    *(_identity, _transposed, _reshaped, _cast),
    *(_dequantised, _dequantised, _joined, _scaled, _cut_out),
)
