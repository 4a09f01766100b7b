"""Shape arithmetic: the values of the small integer tensors that shapes are computed with.

A traced model computes its Reshape targets from Shape, Gather, Concat and the like. Here those
computations are followed symbolically (see `sizes` for the elements). Sizes known when the file is
read are plain numbers, the original ones; `rewrite` sees to it that they stay the original ones, so
that this arithmetic means the same before and after pruning.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from .axes import Dim, Pin, pin
from .model import SMALL, Array, tensor_array
from .sizes import UNKNOWN, Size, difference, equal, is_number, larger, same, size_of, smaller

if TYPE_CHECKING:
    from .network import Network
    from .op import Op


#: What is computed in ways that are not followed has at most this many unknown elements.
_FEW = 16
#: Axes that an array can have: numpy 1 takes no more.
_RANK = 32


def has_values(op: Op) -> bool:
    """Whether a node is arithmetic on values that are known, at least in part."""
    kind = op.kind
    if kind not in OPERATORS:
        return False
    if kind in _SOURCES:
        return True
    values, constants = op.network.values, op.network.model.constants
    one = kind == "Concat"  # of sizes, of which some may be data; all others need all of them
    for name in op.inputs:
        if name and (name in values or name in constants) == one:
            return one
    return not one


def compute(op: Op) -> bool:
    """Note the value of the output of a node that `has_values`.

    True where these are sizes, or computed of sizes alone: then there is nothing to prune, and no
    rule to apply. What it reads and makes is pinned.

    The blocks of a network compute with equal numbers. Equal values are one object here (see
    `Network.one`), so what was computed of an operator's operands once is known by their identity.
    """
    network, kind, name = op.network, op.kind, op.outputs[0]
    values, sizes = network.values, network.sizes
    if kind in _SOURCES:
        found = _computed(op, [])
        if found is not None:
            values[name] = network.one(found)
            sizes.add(name)
        return False  # its rule is to say whose sizes these are
    operands: list[Array | None] = []
    for each in op.inputs:
        value = values.get(each)
        if value is None and each:
            value = network.value_of(each)
            if value is None and kind == "Concat" and (few := unknown(network, each)) is not None:
                value = network.one(few)
            if value is None:
                return False
        operands.append(value)
    key = (kind, op.attributes_key(), *map(id, operands))
    known = network.computed.get(key)
    if known is None:
        found = _computed(op, operands)
        # The operands are kept with it, so that no other object gets the identity of one.
        known = operands, None if found is None else network.one(found)
        if kind != "Div" or found is None or not _has_unknown(found):
            network.computed[key] = known  # what a division leaves open, equal dims may tell later
    result = known[1]
    if result is None:
        return False
    values[name] = result
    if kind in _FILLED or not _are_sizes(op, operands):
        return False
    sizes.add(name)
    hint = network.shapes.get(name)
    if hint is not None and len(hint) != result.ndim:
        return False
    for each, value in zip(op.inputs, operands, strict=True):
        if value is not None and value.size > 1 and each not in sizes:
            for axis in network.axes_of(each) or ():
                pin(axis, _SIZES)
    network.axes[name] = [Dim(size, (_SIZES,)) for size in result.shape]
    return True


_SIZES = Pin("it holds sizes")


def _computed(op: Op, operands: Sequence[Array | None]) -> Array | None:
    """What a node makes of values, or None where it is beyond this arithmetic."""
    try:
        found: Array | None = OPERATORS[op.kind](op, *operands)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # malformed or beyond this arithmetic
    if found is None or found.size > SMALL or _beyond(found):
        return None
    return found


def _has_unknown(found: Array) -> bool:
    return found.dtype.hasobject and any(each is UNKNOWN for each in found.ravel().tolist())


def _beyond(found: Array) -> bool:
    """Whether a number is larger than any size: multiplied on, it would grow without end."""
    if not found.dtype.hasobject:
        return False
    return any(isinstance(n, int) and abs(n) >= 2**63 for n in found.ravel().tolist())


#: Operators that ask for sizes, and those that make a tensor of a given size, which may be data.
_SOURCES = frozenset({"Shape", "Size"})
_FILLED = frozenset({"ConstantOfShape", "Expand", "OneHot", "Range"})


def _are_sizes(op: Op, operands: Sequence[Array | None]) -> bool:
    """Whether some operands are sizes, and all others numbers or lists of integers."""
    sizes, found = op.network.sizes, False
    for name, value in zip(op.inputs, operands, strict=True):
        if name in sizes:
            found = True
        elif value is not None and value.ndim and (value.ndim > 1 or value.dtype.kind not in "iub"):
            return False
    return found


def note_unknown(op: Op) -> None:
    """Where a value was not found, what is known of it: how many elements it has."""
    network, name = op.network, op.outputs[0]
    if name not in network.values and (found := unknown(network, name)) is not None:
        network.values[name] = found


def unknown(network: Network, name: str) -> Array | None:
    """A few elements of which nothing is known: others that stand beside them may be."""
    axes = network.axes.get(name)
    if axes is None:
        return None
    known = [axis.size for axis in axes if axis.size is not None]
    if len(known) < len(axes) or len(known) > _RANK or min(known, default=0) < 0:
        return None
    if math.prod(known) > _FEW:
        return None
    return np.full(known, UNKNOWN, dtype=object)


def _objects(array: Array) -> Array:
    return array if array.dtype.hasobject else array.astype(object)


def _each(
    function: Callable[..., Any], plain: Callable[..., Any] | None = None
) -> Callable[..., Array]:
    """An elementwise operator of any number of operands; `plain`, where all are plain numbers."""
    ufunc: Any = None

    def apply(op: Op, *operands: Array) -> Array:
        nonlocal ufunc
        if math.prod(np.broadcast_shapes(*(array.shape for array in operands))) > SMALL:
            raise ValueError("too many for sizes")
        if plain is not None and not any(array.dtype.hasobject for array in operands):
            return np.asarray(plain(*operands))
        if ufunc is None or ufunc.nin != len(operands):
            ufunc = np.frompyfunc(function, len(operands), 1)
        return np.asarray(ufunc(*map(_objects, operands)), dtype=object)

    return apply


def _div(a: Any, b: Any) -> Any:
    if isinstance(a, (int, np.integer)) and isinstance(b, (int, np.integer)):
        return math.trunc(a / b) if abs(a) < 2**52 else a // b  # towards zero, as in C
    return a // b if isinstance(a, Size) or isinstance(b, Size) else a / b


def _pow(a: Any, b: Any) -> Any:
    if abs(b) > 64 and abs(a) > 1:
        raise OverflowError("no size is as large")
    return a**b


def _numbers(
    function: Callable[..., Any], plain: Callable[..., Any] | None = None
) -> Callable[..., Array]:
    """An elementwise operator that only numbers can go through."""
    return _each(lambda *xs: function(*xs) if all(map(is_number, xs)) else UNKNOWN, plain)


def _comparison(
    function: Callable[[Any, Any], bool], plain: Callable[..., Any]
) -> Callable[..., Array]:
    """Less, Greater and the like: what the ends of a range agree on, all in between do."""

    def compare(a: Any, b: Any) -> Any:
        if is_number(a) and is_number(b):
            return function(a, b)
        first, last = (function(end, 0) for end in difference(a, b))
        return first if first == last else UNKNOWN

    return _each(compare, plain)


_max = _each(lambda *xs: reduce(larger, xs))
_min = _each(lambda *xs: reduce(smaller, xs))


def _clip(op: Op, x: Array, *bounds: Array | None) -> Array:
    given = [*bounds, None, None][:2] if bounds else [op.attr("min"), op.attr("max")]
    for bound, function in zip(given, (_max, _min), strict=True):
        if bound is not None:
            x = function(op, x, np.asarray(bound))
    return x


def _where(c: Any, a: Any, b: Any) -> Any:
    if is_number(c):
        return a if c else b
    return a if same(a, b) else UNKNOWN


def _shape(op: Op) -> Array | None:
    axes = op.network.axes_of(op.inputs[0])
    if axes is None:
        return None
    start, end = shape_range(op, len(axes))
    return np.array([size_of(axis) for axis in axes[start:end]] + [None], dtype=object)[:-1]


def shape_range(op: Op, rank: int) -> tuple[int, int]:
    """Which axes a Shape node reads (its `start` and `end`, since opset 15)."""
    start, end, _ = slice(op.attr("start", 0), op.attr("end")).indices(rank)
    return start, max(start, end)


def _size(op: Op) -> Array | None:
    axes = op.network.axes_of(op.inputs[0])
    if axes is None:
        return None
    total: Any = 1
    for axis in axes:
        total = total * size_of(axis)
    return np.array(total, dtype=object)


_WHOLE = frozenset(
    {
        onnx.TensorProto.INT64,
        onnx.TensorProto.INT32,
        onnx.TensorProto.INT16,
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8,
        onnx.TensorProto.UINT64,
        onnx.TensorProto.UINT32,
    }
)


#: What is wide enough for the sizes that there are.
_WIDE = frozenset(
    {
        *(onnx.TensorProto.INT64, onnx.TensorProto.INT32),
        *(onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE),
    }
)
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16})


def _cast(op: Op, x: Array) -> Array:
    kind = op.attr("to")
    if kind == onnx.TensorProto.STRING:
        raise ValueError("no shape is made of strings")

    def convert(element: Any) -> Any:
        if not is_number(element):
            return element if kind in _WIDE else UNKNOWN
        if kind == onnx.TensorProto.BOOL:
            return bool(element)
        if kind in _WHOLE:
            return int(element)
        return float(element) if kind in _FLOATS else element

    flat = [convert(element) for element in x.ravel().tolist()]
    return np.array([*flat, None], dtype=object)[:-1].reshape(x.shape)


def _gather(op: Op, data: Array, indices: Array) -> Array:
    return np.asarray(data.take(indices.astype(np.int64), axis=op.attr("axis", 0)))


def _list(op: Op, given: Array | None, attribute: str) -> list[int] | None:
    if given is not None:
        return [int(e) for e in given.ravel().tolist()]
    found = op.attr(attribute)
    return None if found is None else list(found)


def _squeeze(op: Op, x: Array, given: Array | None = None) -> Array:
    axes = _list(op, given, "axes")
    return np.squeeze(x, None if axes is None else tuple(axes))


def _unsqueeze(op: Op, x: Array, given: Array | None = None) -> Array:
    axes = _list(op, given, "axes") or []
    rank, shape = x.ndim + len(axes), list(x.shape)
    for at in sorted(axis % rank for axis in axes):
        shape.insert(at, 1)
    return x.reshape(shape)


def _slice(
    op: Op,
    x: Array,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Array:
    first, last = _list(op, starts, "starts") or [], _list(op, ends, "ends") or []
    where = _list(op, axes, "axes")
    strides = _list(op, steps, "steps")
    index: list[Any] = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(first, last, strict=True)):
        step = strides[i] if strides else 1
        stop = None if (step < 0 and end < -x.shape[where[i] if where else i]) else end
        index[where[i] if where else i] = slice(start, stop, step)
    return np.asarray(x[tuple(index)])


def _reshape(op: Op, x: Array, shape: Array | None = None) -> Array:
    target = _list(op, shape, "shape") or []
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(target)])


def _concat(op: Op, *xs: Array) -> Array:
    if any(x.dtype.hasobject for x in xs):
        xs = tuple(map(_objects, xs))
    return np.concatenate(xs, axis=op.attr("axis", 0))


def _constant_of_shape(op: Op, shape: Array) -> Array | None:
    if not all(map(is_number, shape.ravel().tolist())):
        return None
    dims = [int(n) for n in shape.ravel().tolist()]
    if math.prod(dims) > SMALL:
        return None
    tensor = op.attr("value")
    if tensor is None:
        return np.zeros(dims, np.float32)
    return np.full(dims, tensor_array(tensor, op.network.model.base_dir).ravel()[0])


def _range(op: Op, start: Array, limit: Array, delta: Array) -> Array | None:
    found = [a.ravel().tolist()[0] for a in (start, limit, delta)]
    if not all(map(is_number, found)) or abs(found[1] - found[0]) > 4096 * abs(found[2]):
        return None
    return np.arange(*found)


def _one_hot(op: Op, indices: Array, depth: Array, pair: Array) -> Array | None:
    """How repeat_interleave writes its number of repeats."""
    count = int(depth.ravel()[0])
    if op.attr("axis", -1) != -1 or not 0 < count * indices.size <= 4096:
        return None
    hit = np.arange(count) == indices[..., None] % count
    return np.asarray(np.where(hit, pair[1], pair[0]))


def _expand(op: Op, x: Array, shape: Array) -> Array:
    dims = [int(n) for n in shape.ravel().tolist()]
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(dims)))


def _reduce(function: Callable[..., Any]) -> Callable[..., Array]:
    def apply(op: Op, x: Array, given: Array | None = None) -> Array:
        axes = _list(op, given, "axes")
        kept = bool(op.attr("keepdims", 1))
        return np.asarray(
            function(_objects(x), axis=None if axes is None else tuple(axes), keepdims=kept),
            dtype=object,
        )

    return apply


def _transpose(op: Op, x: Array) -> Array:
    return np.transpose(x, op.attr("perm"))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": lambda op, x: x,
    "Cast": _cast,
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Concat": _concat,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Expand": _expand,
    "OneHot": _one_hot,
    "Add": _each(lambda a, b: a + b, np.add),
    "Sub": _each(lambda a, b: a - b, np.subtract),
    "Mul": _each(lambda a, b: a * b, np.multiply),
    "Div": _each(_div),
    "Mod": _numbers(lambda a, b: a % b),
    "Neg": _each(lambda a: -a),
    "Floor": _each(lambda a: math.floor(a) if is_number(a) else a),
    "Ceil": _each(lambda a: math.ceil(a) if is_number(a) else a),
    "Sqrt": _numbers(lambda a: math.sqrt(a)),
    "Pow": _numbers(_pow),
    "Min": _min,
    "Max": _max,
    "Abs": _numbers(abs),
    "Clip": _clip,
    "Equal": _each(equal, np.equal),
    "Not": _numbers(lambda a: not a),
    "Greater": _comparison(operator.gt, np.greater),
    "Less": _comparison(operator.lt, np.less),
    "GreaterOrEqual": _comparison(operator.ge, np.greater_equal),
    "LessOrEqual": _comparison(operator.le, np.less_equal),
    "And": _numbers(lambda a, b: bool(a and b)),
    "Or": _numbers(lambda a, b: bool(a or b)),
    "Where": _each(_where, np.where),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
}
