"""The facts of every tensor of a network: one walk over its nodes, a short rule for each kind.

An operator that no rule knows leaves nothing known of its outputs, which is never wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from ..ahead import ahead
from ..axes import Axis, Concat, Dim, Index, Product, fold, occurrences
from ..external import is_external
from ..model import SMALL, Array, attributes
from ..network import Network
from .contraction import Contraction, contraction
from .facts import Facts, alike, nonzero, pairs, products
from .rows import Floats, Places, Rows, rows

#: They put slices elsewhere, take from them, or average over other axes: what commutes with a
#: factor, and gives nothing that is not within the slice's bounds.
_MOVING = {
    *("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"),
    *("Split", "Slice", "Concat", "Gather", "DepthToSpace", "SpaceToDepth", "Dropout"),
    *("MaxPool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "ReduceMax", "ReduceMin"),
}
#: Moving, with zeros that may come in from a border.
_BORDERED = {"AveragePool", "Pad", "Resize", "Upsample", "Trilu"}
#: They commute with positive factors only: the largest of -x is not that of x.
_POSITIVE = {
    *("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"),
    *("Relu", "LeakyRelu"),
}
_MONOTONE = {
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "Erf", "Softsign", "Atan"),
    *("Elu", "Celu", "Selu", "Softplus", "Exp", "Sqrt", "Floor", "Ceil", "Sinh"),
}
_OTHER_UNARY = {"Neg", "Gelu", "HardSwish", "Mish", "Abs", "Sin", "Cos", "Round", "Sign", "Cosh"}


#: Of a tensor with more dims than this (a Concat of thousands, cut again) nothing is known: facts
#: along each of so many, at every tensor on the way, would be quadratic in their number.
_MANY = 256
#: Distinct dims in order; None where they are more than `_MANY`.
_Dims = tuple[Dim, ...] | None


class Walk:
    """Facts by tensor and dim; `facts(name, dim)` gives what is known."""

    def __init__(self, network: Network, wanted: Set[Dim] | None = None) -> None:
        self.network = network
        #: The dims that facts are followed along; None for all that can be pruned.
        self.wanted = wanted
        self.known: dict[tuple[str, Dim], Facts] = {}
        self.values: dict[str, Array | None] = {}
        #: The large constant that was read last: operators ask for theirs several times in a row.
        self._latest: tuple[str, Array] | None = None
        self._dims: dict[str, list[Dim]] = {}
        #: Of the dims that have become something else, what they are made of.
        self._parts: dict[Dim, _Dims] = {}
        #: By identity, with the axis, which keeps that its own.
        self._places: dict[int, tuple[Axis, Places]] = {}
        self._there: dict[tuple[str, int], NDArray[np.bool_]] = {}
        #: Weights that will be asked for, each read while the one before is looked at.
        self._coming: Iterator[tuple[str, Array]] = iter(())
        self._expected: set[str] = set()

    def run(self) -> Walk:
        stored = dict.fromkeys(self._stored())
        self._expected = set(stored)
        self._coming = ahead((name, self.network.model.read(name)) for name in stored)
        for record in self.network.records:
            node = record.node
            if node.domain not in ("", "ai.onnx") and node.op_type != "FusedConv":
                continue
            rule = self._rule(node)
            if rule is not None:
                # A node that is not as its operator's specification has it says nothing.
                with np.errstate(all="ignore"), suppress(LookupError, TypeError, ValueError):
                    rule(node)
        self._coming, self._expected = iter(()), set()
        return self

    def _stored(self) -> Iterator[str]:
        """Weights in files of their own, in the order in which the walk will ask for them."""
        constants = self.network.model.constants
        if not any(map(is_external, constants.values())):
            return
        for record in self.network.records:
            found = contraction(self.network, record.node)
            stored = found is not None and is_external(constants[found.weight])
            if found is not None and stored and self.dims(record.node.output[0]):
                yield found.weight

    def _read(self, name: str) -> Array:
        if name in self._expected:
            self._latest = None
            for coming, value in self._coming:
                self._expected.discard(coming)
                if coming == name:
                    return value
        return self.network.model.read(name)

    def facts(self, name: str, dim: Dim) -> Facts:
        """What is known of a tensor along a dim; constants are looked into."""
        key = (name, dim)
        if key not in self.known:
            value = self.value(name)
            rows = None if value is None else self.rows(name, dim)
            self.known[key] = _of_rows(rows) if rows is not None else Facts.unknown(dim.size or 0)
        return self.known[key]

    def value(self, name: str) -> Array | None:
        """The value of a constant of floats; of large ones, only the latest is held."""
        if name in self.values:
            return self.values[name]
        if self._latest is not None and self._latest[0] == name:
            return self._latest[1]
        found = None
        if name in self.network.model.constants:
            read = self._read(name)
            found = read if read.dtype.kind == "f" else None
        if found is None or found.size <= SMALL:
            self.values[name] = found
        else:
            self._latest = name, found
            # It is read once: what may be asked of it later is seen now.
            for axis in range(found.ndim):
                self._there[name, axis] = nonzero(found, axis)
        return found

    def dims(self, name: str) -> list[Dim]:
        """The dims of a tensor that can be pruned: nothing is followed along the others."""
        if name not in self._dims:
            axes = self.network.axes.get(name) or ()
            free = _few([fold(axis, self._free, _joined, self._parts) for axis in axes])
            self._dims[name] = list(free or ())
        return self._dims[name]

    def _free(self, dim: Dim) -> _Dims:
        return (dim,) if self._followed(dim) else ()

    def _followed(self, dim: Dim) -> bool:
        free = dim.size is not None and dim.size > 1 and not dim.pinned
        return free and (self.wanted is None or dim in self.wanted)

    def rows(self, name: str, dim: Dim, axis: int | None = None) -> Rows | None:
        """The rows of a constant; see the function of this name."""
        value = self.value(name)
        if value is None:
            return None
        return rows(value, self.on(name), dim, axis)

    def on(self, name: str) -> list[Places]:
        """Where dims are on each axis of a tensor: read once, be an axis of thousands of runs."""
        return [self._placed(axis) for axis in self.network.axes.get(name) or []]

    def _placed(self, axis: Axis) -> Places:
        if id(axis) not in self._places:
            self._places[id(axis)] = axis, placed(axis)
        return self._places[id(axis)][1]

    def silent(self, name: str, dim: Dim, axis: int) -> NDArray[np.bool_] | None:
        """Which indices of a dim have nothing but zeros in a constant, along one of its axes.

        None where the constant is not of floats, or the dim is not on that axis.
        """
        places = self.on(name)[axis].get(dim)
        if places is None:
            return None
        if (name, axis) not in self._there:
            value = self.value(name)
            if value is None:
                return None
            self._there[name, axis] = nonzero(value, axis)
        there = self._there[name, axis]
        found = np.ones(dim.size or 0, dtype=bool)
        for positions, channels in places:
            found[channels[there[positions]]] = False
        return found

    def bounds(self, name: str, axis: int) -> tuple[Floats, Floats]:
        """Bounds of the slices of a tensor at each position of one of its axes."""
        (whole,) = self.network.axes[name][axis : axis + 1]  # type: ignore[index]
        low = np.full(whole.size or 0, -np.inf)
        high = np.full(whole.size or 0, np.inf)
        for dim, positions, channels in occurrences(whole):
            if self._followed(dim):
                facts = self.facts(name, dim)
                low[positions] = np.maximum(low[positions], facts.low[channels])
                high[positions] = np.minimum(high[positions], facts.high[channels])
        return low, high

    # -- kinds of operators ----------------------------------------------------------------------

    def _rule(self, node: NodeProto) -> Callable[[NodeProto], None] | None:
        kind = node.op_type
        if kind in _MOVING or kind in _BORDERED:
            return self._moved
        if kind in _MONOTONE or kind in _OTHER_UNARY:
            return self._unary
        if kind in ("Add", "Sub", "Mul", "Div"):
            return self._binary
        if kind == "BatchNormalization":
            return self._batch_norm
        if kind == "PRelu":
            return self._prelu
        return self._contracted if contraction(self.network, node) else None

    def _moved(self, node: NodeProto) -> None:
        operands = [name for name in node.input if name and self.network.axes.get(name)]
        zero = node.op_type in _BORDERED
        if node.op_type in ("Resize", "Upsample") and not _interpolates(node):
            return
        # The second output of a MaxPool says where, not what.
        outputs = node.output if node.op_type == "Split" else node.output[:1]
        for output in filter(None, outputs):
            for dim in self.dims(output):
                having = [name for name in operands if dim in self.dims(name)]
                if not having or not self.plain(output, dim):
                    continue
                facts = self.facts(having[0], dim)
                for name in having[1:]:
                    other = self.facts(name, dim)
                    label, scale = pairs(facts, other)
                    low, high = np.minimum(facts.low, other.low), np.maximum(facts.high, other.high)
                    facts = Facts(label, scale, low, high)
                if node.op_type in _POSITIVE:
                    facts = facts.signed()
                if zero and node.op_type == "Pad" and not _pads_zero(self, node):
                    continue
                if zero:
                    low, high = np.minimum(facts.low, 0), np.maximum(facts.high, 0)
                    facts = Facts(facts.label, facts.scale, low, high)
                self.known[output, dim] = facts

    def _unary(self, node: NodeProto) -> None:
        source, output = node.input[0], node.output[0]
        linear = node.op_type == "Neg"
        for dim in self.dims(output):
            facts = self.facts(source, dim)
            low, high = self._mapped(node, facts)
            if node.op_type in _POSITIVE:
                facts = facts.signed()
            elif not linear:
                facts = facts.unscaled()
            self.known[output, dim] = facts.bounded(low, high)

    def _mapped(self, node: NodeProto, facts: Facts) -> tuple[Floats, Floats]:
        """The bounds of f(x): f at both ends where it is monotone, else only of constants."""
        ends = np.stack([facts.low, facts.high])
        given = attributes(node)
        rising = given.get("alpha", 1.0) >= 0 and given.get("gamma", 1.0) >= 0
        if node.op_type not in _MONOTONE or not rising:
            ends = np.where(facts.constant, ends, np.nan)
        try:
            low, high = evaluate_unary(self.network, node, ends)
        except Exception:  # an operator that ONNX's evaluator lacks: nothing is known
            return np.full(ends.shape[1], -np.inf), np.full(ends.shape[1], np.inf)
        return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)

    def _binary(self, node: NodeProto) -> None:
        a, b = node.input[:2]
        output = node.output[0]
        for dim in self.dims(output):
            if not self.plain(output, dim):
                continue
            both = [self._operand(name, dim) for name in (a, b)]
            if both[0] is None and both[1] is None:
                continue
            x, y = (Facts.unknown(dim.size or 0) if f is None else f for f in both)
            self.known[output, dim] = _combined(node.op_type, x, y)

    def _operand(self, name: str, dim: Dim) -> Facts | None:
        """Facts of an operand along a dim of the result; the same for all where it lacks the dim.

        A value that is the same at every index is alike to itself, and constant if it is a scalar.
        """
        n = dim.size or 0
        if dim in self.dims(name):
            return self.facts(name, dim)
        value = self.value(name)
        if value is not None and value.size:
            low, high = np.full(n, value.min(), float), np.full(n, value.max(), float)
        else:
            low, high = np.full(n, -np.inf), np.full(n, np.inf)
        one = Facts.unknown(1)
        return Facts(np.repeat(one.label, n), np.ones(n), low, high).bounded(low, high)

    def _batch_norm(self, node: NodeProto) -> None:
        if len([name for name in node.output if name]) > 1 or attributes(node).get("training_mode"):
            return
        x, output = node.input[0], node.output[0]
        parts = [self.value(name) for name in node.input[1:5]]
        if any(part is None for part in parts):
            return
        scale, bias, mean, var = (np.asarray(part, np.float64) for part in parts)
        factor = scale / np.sqrt(var + attributes(node).get("epsilon", 1e-5))
        offset = bias - mean * factor
        places = self.on(node.input[1])
        for dim in self.dims(output):
            if not self.plain(output, dim):
                continue
            first, second = rows(factor, places, dim), rows(offset, places, dim)
            if first is None or second is None:
                continue
            facts = self.facts(x, dim)
            label, by = alike(first.scaled(facts.scale), second, within=facts.label)
            factors = first.all()
            ends = np.stack([factors * facts.low[:, None], factors * facts.high[:, None]])
            ends = np.where(factors == 0, 0, ends) + second.all()
            low, high = ends.min(axis=(0, 2)), ends.max(axis=(0, 2))
            self.known[output, dim] = Facts(label, by, low, high).bounded(low, high)

    def _prelu(self, node: NodeProto) -> None:
        x, slope = node.input[:2]
        for dim in self.dims(node.output[0]):
            if dim in self.dims(slope) or not self.plain(node.output[0], dim):
                continue
            facts = self.facts(x, dim).signed()
            low = np.where(facts.low >= 0, facts.low, -np.inf)
            high = np.where(facts.low >= 0, facts.high, np.inf)
            self.known[node.output[0], dim] = facts.bounded(low, high)

    def _contracted(self, node: NodeProto) -> None:
        found = contraction(self.network, node)
        assert found is not None
        output = node.output[0]
        dims = [dim for dim in self.dims(output) if self.plain(output, dim)]
        if not dims:
            return  # and its weight is not read
        bounds = self._product_bounds(found)
        if bounds is None:
            return
        for dim in dims:
            facts = self._product(found, dim)
            if facts is None:
                continue
            channels = _extremes(self.network.axes[output] or [], found.out_axis, dim, *bounds)
            self.known[output, dim] = facts.bounded(*channels) if channels else facts

    def _product(self, found: Contraction, dim: Dim) -> Facts | None:
        """Labels and scales of a product with a weight, along a dim of its output."""
        through = dim in self.dims(found.data) and dim not in found.summed
        weight = self.rows(found.weight, dim, None if through else found.order[0])
        bias = self.rows(found.bias, dim) if found.bias else None
        if found.bias and bias is None and weight is not None:
            return None  # a bias that is not a constant, or lies otherwise
        n = dim.size or 0
        unbounded = np.full(n, -np.inf), np.full(n, np.inf)
        if not through:
            if weight is None:
                return None
            return Facts(*alike(weight, *([] if bias is None else [bias])), *unbounded)
        facts = self.facts(found.data, dim)
        if weight is None:
            facts = Facts(facts.label, facts.scale, *unbounded)
            return facts.unscaled() if found.bias else facts
        whole = weight.scaled(facts.scale)
        parts = [whole] if bias is None else [whole, bias]
        return Facts(*alike(*parts, within=facts.label), *unbounded)

    def _product_bounds(self, found: Contraction) -> tuple[Floats, Floats] | None:
        """Bounds of a product at each position of its output's axis, by interval arithmetic.

        None where the weight is no floats: onnxruntime won't run that.
        """
        low, high = self.bounds(found.data, found.in_axis)
        if found.padded:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        value = self.value(found.weight)
        if value is None:
            return None
        bottom, top = found.interval(value, low, high)
        bias = self.value(found.bias) if found.bias else None
        if found.bias and (bias is None or bias.size != len(bottom)):
            return np.full(len(bottom), -np.inf), np.full(len(bottom), np.inf)
        added = 0.0 if bias is None else bias.astype(np.float64).ravel()
        return bottom + added, top + added

    def plain(self, name: str, dim: Dim) -> bool:
        """True where the dim is on one axis of the tensor only."""
        return sum(dim in places for places in self.on(name)) == 1


def _few(found: list[_Dims]) -> _Dims:
    distinct: dict[Dim, None] = {}
    for dims in found:
        if dims is None:
            return None
        distinct.update(dict.fromkeys(dims))
    return tuple(distinct) if len(distinct) <= _MANY else None


def _joined(_: Concat | Product, found: list[_Dims]) -> _Dims:
    return _few(found)


def placed(axis: Axis) -> Places:
    """Where each dim is on an axis."""
    found: dict[Dim, list[tuple[Index, Index]]] = defaultdict(list)
    for dim, positions, channels in occurrences(axis):
        found[dim].append((positions, channels))
    return dict(found)


def _of_rows(found: Rows) -> Facts:
    low, high = found.bounds()
    if (low == high).all():  # a vector: every row is a multiple of ones
        return Facts.unknown(len(low)).bounded(low, high)
    return Facts(*alike(found), low, high).bounded(low, high)


def _combined(kind: str, x: Facts, y: Facts) -> Facts:
    if kind in ("Add", "Sub"):
        if kind == "Sub":
            y = Facts(y.label, -y.scale, -y.high, -y.low)
        low, high = x.low + y.low, x.high + y.high
        facts = Facts(*pairs(x, y), low, high)
    else:
        if kind == "Div":
            if not y.constant.all() or not y.low.all():
                return Facts.unknown(len(x.label))
            y = Facts(y.label, 1 / y.scale, 1 / y.low, 1 / y.low)
        ends = np.stack([p * q for p in (x.low, x.high) for q in (y.low, y.high)])
        low, high = ends.min(axis=0), ends.max(axis=0)
        for each in (x, y):  # nothing times anything is nothing
            none = each.constant & (each.low == 0)
            low, high = np.where(none, 0, low), np.where(none, 0, high)
        facts = Facts(*products(x, y), low, high)
    low = np.where(np.isnan(low), -np.inf, low)
    high = np.where(np.isnan(high), np.inf, high)
    return facts.bounded(low, high)


def _extremes(
    axes: Sequence[Axis], axis: int, dim: Dim, low: Floats, high: Floats
) -> tuple[Floats, Floats] | None:
    """Bounds by position of an axis, as bounds by channel of a dim of it."""
    found = [(p, c) for each, p, c in occurrences(axes[axis]) if each is dim]
    if not found:
        return None
    n = dim.size or 0
    bottom, top = np.full(n, np.inf), np.full(n, -np.inf)
    for positions, channels in found:
        np.minimum.at(bottom, channels, low[positions])
        np.maximum.at(top, channels, high[positions])
    return bottom, top


def _interpolates(node: NodeProto) -> bool:
    """False for a Resize that overshoots (cubic), or fills in a value of its own."""
    given = attributes(node)
    crops = given.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    return given.get("mode", b"nearest") != b"cubic" and not crops


def _pads_zero(walk: Walk, node: NodeProto) -> bool:
    given = attributes(node)
    if given.get("mode", b"constant") != b"constant":
        return True  # reflected, repeated: values of the slice itself
    value = given.get("value", 0.0)
    if len(node.input) > 2 and node.input[2]:
        read = walk.network.value_of(node.input[2])
        return read is not None and not np.any(read)
    return not value


def evaluate_unary(network: Network, node: NodeProto, ends: Floats) -> Floats:
    """A unary operator at the given points, `[..., n]`, by ONNX's reference evaluator."""
    feeds: dict[str, Array] = {"x": ends.astype(np.float32)}
    names = ["x"]
    for i, name in enumerate(node.input[1:], 1):
        value = network.value_of(name) if name else None
        if name and value is None:
            raise ValueError(f"{name} is computed at run time")
        names.append(f"x{i}" if name else "")
        if name and value is not None:
            feeds[f"x{i}"] = value
    one = NodeProto()
    one.CopyFrom(node)
    del one.input[:], one.output[:]
    one.input.extend(names)
    one.output.append("y")
    kinds = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape))
        for k, v in feeds.items()
    ]
    result = helper.make_tensor_value_info("y", 1, list(ends.shape))
    opset = helper.make_opsetid("", network.model.opset)
    model = helper.make_model(
        helper.make_graph([one], "one", kinds, [result]), opset_imports=[opset], ir_version=8
    )
    (found,) = ReferenceEvaluator(model).run(None, feeds)
    evaluated: Floats = np.asarray(found, dtype=np.float64)
    return evaluated
