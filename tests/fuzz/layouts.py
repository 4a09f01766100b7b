"""Productions that move channels: reshaping, runs of an axis, reductions, pooling, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
from onnx import TensorProto, helper

from .graph import Graph, Value

Made = Value | list[Value] | None

_END = (2**63 - 1, 2**31 - 1)
#: Values are not made larger than this.
_LARGEST = 3000

# -- what other productions use ------------------------------------------------------------------


def transposed(g: Graph, x: Value, perm: Sequence[int]) -> Value:
    perm = list(perm)
    given = None if perm == list(reversed(range(x.rank))) and g.chance(0.5) else perm
    channel = None if x.channel is None else perm.index(x.channel)
    return g.value("Transpose", [x], [x.shape[i] for i in perm], channel, perm=given)


def reshaped(g: Graph, x: Value, shape: Sequence[int], channel: int | None) -> Value:
    """A Reshape whose target is written in one of its ways, or computed from Shape."""
    shape = tuple(shape)
    if g.chance(0.4 if g.dynamic else 0.2):
        target = _computed(g, x, shape)
    else:
        elements = list(shape)
        for i in range(min(len(shape), x.rank)):
            if shape[i] == x.shape[i] and g.chance(0.9 if g.dynamic and i < 2 else 0.4):
                elements[i] = 0
        if g.dynamic and elements[0] and g.chance(0.8):
            elements[0] = -1
        elif g.chance(0.5):
            elements[g.int(0, len(elements) - 1)] = -1
        target = g.ints(*elements)
    return g.value("Reshape", [x, target], shape, channel)


def _computed(g: Graph, x: Value, shape: tuple[int, ...]) -> str:
    """The target as exporters compute it: leading sizes from Shape, the rest constant."""
    same = 0
    while same < min(len(shape), x.rank) and shape[same] == x.shape[same]:
        same += 1
    if same == 0:
        return g.ints(*shape)
    sizes = g.node("Shape", x)
    kept = min(same, 2) if g.dynamic and g.chance(0.6) else g.int(1, same)
    parts: list[str]
    if g.chance(0.5):
        parts = [g.node("Slice", sizes, g.ints(0), g.ints(kept), g.ints(0))]
    else:
        parts = []
        for i in range(kept):
            at = g.store(np.array(g.pick((i, i - x.rank)), dtype=np.int64))
            one = g.node("Gather", sizes, at, axis=0)
            where, attrs = g.listed([0], "axes", 13)
            parts.append(g.node("Unsqueeze", one, *where, **attrs))
    rest = list(shape[kept:])
    if rest and g.chance(0.4):
        rest[g.int(0, len(rest) - 1)] = -1
    if rest and kept < x.rank and shape[kept] % x.shape[kept] == 0 and g.chance(0.3):
        # A size that is computed with: the product of a read one and a number.
        at = g.store(np.array([kept], dtype=np.int64))
        one = g.node("Gather", sizes, at, axis=0)
        by = g.ints(shape[kept] // x.shape[kept])
        parts.append(g.node("Mul", one, by))
        rest = list(shape[kept + 1 :])
    if rest:
        parts.append(g.ints(*rest))
    return g.node("Concat", *parts, axis=0)


def merged(g: Graph, x: Value, at: int) -> Value:
    """Axes `at` and `at + 1` as one."""
    shape = (*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :])
    return reshaped(g, x, shape, at)


def squeezed(g: Graph, x: Value, at: int) -> Value:
    where, attrs = g.listed([at if g.chance(0.5) else at - x.rank], "axes", 13)
    channel = x.channel
    if channel is not None:
        channel = None if channel == at else channel - (channel > at)
    return g.value("Squeeze", [x, *where], (*x.shape[:at], *x.shape[at + 1 :]), channel, **attrs)


def unsqueezed(g: Graph, x: Value, at: int) -> Value:
    where, attrs = g.listed([at], "axes", 13)
    channel = x.channel
    if channel is not None:
        channel += channel >= at
    return g.value("Unsqueeze", [x, *where], (*x.shape[:at], 1, *x.shape[at:]), channel, **attrs)


def reduced(g: Graph, op: str, x: Value, axes: Sequence[int], keep: bool) -> Value:
    axes = sorted(axes)
    since = 13 if op == "ReduceSum" else 18
    written = [i if g.chance(0.5) else i - x.rank for i in axes]
    where, attrs = g.listed(written, "axes", since)
    shape = [1 if i in axes else s for i, s in enumerate(x.shape) if keep or i not in axes]
    channel = x.channel
    if channel is not None:
        channel = None if channel in axes else channel
        if channel is not None and not keep:
            channel -= sum(i < channel for i in axes)
    return g.value(op, [x, *where], shape, channel, keepdims=int(keep), **attrs)


def _some_axis(g: Graph, x: Value, channel: float) -> int:
    """An axis; that of the channels with this probability."""
    if x.channel is not None and g.chance(channel):
        return x.channel
    others = [i for i in range(x.rank) if i != x.channel]
    return g.pick(others or [0])


# -- shapes --------------------------------------------------------------------------------------


def transpose(g: Graph, x: Value) -> Made:
    if x.rank < 2:
        return None
    return transposed(g, x, [int(i) for i in g.rng.permutation(x.rank)])


def reshape(g: Graph, x: Value) -> Made:
    """Two axes as one, one as two, both, or another grouping of all elements."""
    way = g.pick(("merge", "merge", "cut", "cut", "regroup", "flatten", "back"))
    if way in ("merge", "regroup") and x.rank > 1:
        at = g.int(0 if x.rank < 3 else 1, x.rank - 2)
        x = merged(g, x, at)
    if way in ("cut", "regroup"):
        at = _some_axis(g, x, 0.7)
        n = x.shape[at]
        divisors = [d for d in range(2, n) if n % d == 0]
        if x.rank > 4 or not divisors:
            return None if way == "cut" else x
        d = g.pick(divisors)
        return reshaped(g, x, (*x.shape[:at], d, n // d, *x.shape[at + 1 :]), at + g.int(0, 1))
    if way == "flatten":
        at = g.int(0, x.rank)
        left, right = prod(x.shape[:at]), prod(x.shape[at:])
        if not g.chance(0.3):
            at, left, right = 1, x.shape[0] if x.rank else 1, prod(x.shape[1:])
        if x.rank < 2:
            return None
        return g.value(
            "Flatten",
            [x],
            (left, right),
            1,
            axis=at if g.chance(0.7) else at - x.rank if at < x.rank else at,
        )
    if way == "back" and x.rank > 1:
        shape = [int(s) for s in g.rng.permutation(x.shape)]
        return reshaped(g, x, shape, None) if g.chance(0.3) else merged(g, x, x.rank - 2)
    return x if way in ("merge", "regroup") and x.rank else None


def ones(g: Graph, x: Value) -> Made:
    """Squeeze and Unsqueeze; without axes where that is right."""
    single = [i for i, s in enumerate(x.shape) if s == 1]
    if single and x.rank > 2 and g.chance(0.7):
        if g.chance(0.4) and x.rank - len(single) >= 2:
            channel = x.channel
            if channel is not None:
                channel = None if channel in single else channel - sum(i < channel for i in single)
            return g.value("Squeeze", [x], [s for s in x.shape if s != 1], channel)
        return squeezed(g, x, g.pick(single))
    return unsqueezed(g, x, g.int(1, x.rank)) if x.rank < 5 else None


def with_view(g: Graph, x: Value) -> Made:
    """Another value brought to the shape of this one by Reshape, and added."""
    y = g.take(lambda y: y.size == x.size and y.shape != x.shape)
    if y is None:
        return None
    g.read(y)
    return g.like("Add", x, reshaped(g, y, x.shape, x.channel))


# -- runs of an axis -----------------------------------------------------------------------------


def split(g: Graph, x: Value) -> Made:
    at = _some_axis(g, x, 0.8)
    n = x.shape[at] if x.rank else 0
    if n < 2:
        return None
    count = g.int(2, min(3, n))
    cuts = sorted(int(i) for i in g.rng.choice(np.arange(1, n), count - 1, replace=False))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    axis = at if g.chance(0.5) else at - x.rank
    if n % count == 0 and g.chance(0.6):
        sizes = [n // count] * count
        attrs = {"num_outputs": count} if g.opset >= 18 else {}
        names = g.nodes("Split", [x], count, axis=axis, **attrs)
    else:
        more, attrs = g.listed(sizes, "split", 13)
        names = g.nodes("Split", [x, *more], count, axis=axis, **attrs)
    return [
        Value(name, (*x.shape[:at], size, *x.shape[at + 1 :]), x.channel)
        for name, size in zip(names, sizes, strict=True)
    ]


def concat(g: Graph, x: Value) -> Made:
    """With other values, itself, or a constant."""
    if not x.rank:
        return None
    at = _some_axis(g, x, 0.8)

    def fits(y: Value) -> bool:
        return y.rank == x.rank and all(
            i == at or a == b for i, (a, b) in enumerate(zip(x.shape, y.shape, strict=True))
        )

    others = []
    for _ in range(g.int(1, 2)):
        y = x if g.chance(0.1) else g.take(fits)
        if y is not None:
            others.append(y)
    if g.chance(0.15) or not others:
        shape = [*x.shape]
        shape[at] = g.int(1, 2)
        others.append(Value(g.floats(shape), tuple(shape)))
    g.read(*others)
    operands = [x, *others]
    if g.chance(0.5):
        operands.reverse()
    shape = [*x.shape]
    shape[at] = sum(each.shape[at] for each in operands)
    if prod(shape) > _LARGEST:
        return None
    axis = at if g.chance(0.5) else at - x.rank
    return g.value("Concat", operands, shape, x.channel if x.channel is not None else at, axis=axis)


def streams(g: Graph, x: Value) -> Made:
    """Values of one shape end to end, cut where some of them begin and end, by Shape's sizes."""
    if x.rank < 2:
        return None
    at, count = _some_axis(g, x, 0.2), g.int(2, 3)
    if x.size * count > _LARGEST:
        return None
    size = g.node("Gather", g.node("Shape", x), g.ints(at), axis=0)

    def times(n: int) -> str:
        way = g.pick(("product", "sum", "difference")) if n else "number"
        if way == "sum":
            found = size
            for _ in range(n - 1):
                found = g.node("Add", found, size)
            return found
        if way == "difference":
            return g.node("Sub", g.node("Mul", size, g.ints(n + 1)), size)
        return g.node("Mul", size, g.ints(n)) if n else g.ints(0)

    parts = [x if g.chance(0.5) else g.like(g.pick(("Relu", "Tanh")), x) for _ in range(count)]
    shape = [*x.shape]
    shape[at] *= count
    y = g.value("Concat", parts, shape, x.channel, axis=at)
    first = g.int(0, count - 1)
    last = g.int(first + 1, count)
    end = g.ints(g.pick(_END)) if last == count and g.chance(0.5) else times(last)
    shape[at] = x.shape[at] * (last - first)
    y = g.value("Slice", [y, times(first), end, g.ints(at)], shape, x.channel)
    if g.chance(0.5):
        y = _expanded(g, y)
    if g.chance(0.5):
        return y
    # One axis for the streams, one for what is in them; the last size is left open.
    sizes = g.node("Shape", x)
    parts_of_target = [g.ints(last - first)]
    if at:
        parts_of_target.insert(0, g.node("Slice", sizes, g.ints(0), g.ints(at), g.ints(0)))
    if at < x.rank - 1:
        parts_of_target.append(g.node("Slice", sizes, g.ints(at), g.ints(-1), g.ints(0)))
    target = g.node("Concat", *parts_of_target, g.ints(-1), axis=0)
    channel = x.channel if x.channel is None or x.channel < at else x.channel + 1
    return g.value("Reshape", [y, target], (*x.shape[:at], last - first, *x.shape[at:]), channel)


def _expanded(g: Graph, x: Value) -> Value:
    """A number added to it, expanded as PyTorch's exporter does: where a size is -1, to 1."""
    sizes = g.node("Shape", x)
    one = helper.make_tensor("value", TensorProto.INT64, [1], [1])
    ones = g.node("ConstantOfShape", g.node("Shape", sizes), value=one)
    target = g.node("Where", g.node("Equal", sizes, g.ints(-1)), ones, sizes)
    return g.like("Add", x, g.node("Expand", g.floats([1] * x.rank), target))


def cut(g: Graph, x: Value) -> Made:
    """Slice along one axis or two, with steps and ends of all kinds."""
    if not x.rank:
        return None
    axes = {_some_axis(g, x, 0.6)}
    if g.chance(0.2):
        axes.add(g.int(0, x.rank - 1))
    shape = [*x.shape]
    starts, ends, steps = [], [], []
    for at in sorted(axes):
        n = x.shape[at]
        if n < 2:
            return None
        step = g.pick((1, 1, 1, 1, 2, -1))
        if step == 1:
            start, end = sorted(int(i) for i in g.rng.choice(n + 1, 2, replace=False))
        elif step == 2:
            start, end = g.int(0, 1), n
        else:
            start, end = n - 1, -n - 1
        shape[at] = len(range(*slice(start, None if step < 0 else end, step).indices(n)))
        if step > 0 and start and g.chance(0.3):
            start -= n
        if step > 0 and end == n and g.chance(0.5):
            end = g.pick(_END)
        elif step > 0 and end < n and g.chance(0.3):
            end -= n
        starts.append(start)
        ends.append(end)
        steps.append(step)
    operands: list[str | Value] = [x, g.ints(*starts), g.ints(*ends), g.ints(*sorted(axes))]
    if any(step != 1 for step in steps) or g.chance(0.3):
        operands.append(g.ints(*steps))
    return g.value("Slice", operands, shape, x.channel)


def gather(g: Graph, x: Value) -> Made:
    """Constant indices: one, or a few; or elements side by side."""
    if x.rank < 2:
        return None
    at = _some_axis(g, x, 0.4)
    n = x.shape[at]
    if g.chance(0.4):
        index = g.store(np.array(g.int(-n, n - 1), dtype=np.int64))
        shape = [*x.shape[:at], *x.shape[at + 1 :]]
        channel = x.channel
        if channel is not None:
            channel = None if channel == at else channel - (channel > at)
        return g.value("Gather", [x, index], shape, channel, axis=at)
    count = g.int(1, n)
    indices = g.rng.integers(-n if g.chance(0.3) else 0, n, count)
    shape = [*x.shape]
    shape[at] = count
    if g.chance(0.25):
        every = np.broadcast_to(
            indices.reshape([-1 if i == at else 1 for i in range(x.rank)]), shape
        )
        return g.value("GatherElements", [x, g.store(every)], shape, x.channel, axis=at)
    return g.value("Gather", [x, g.store(indices)], shape, x.channel, axis=at)


def pad(g: Graph, x: Value) -> Made:
    if not x.rank:
        return None
    mode = g.pick(("constant", "constant", "constant", "reflect", "edge"))
    at = _some_axis(g, x, 0.5 if mode == "constant" else 0.05)
    before, after = g.int(0, 2), g.int(0, 2)
    if mode == "reflect":
        before, after = min(before, x.shape[at] - 1), min(after, x.shape[at] - 1)
    if mode == "constant" and g.chance(0.15) and x.shape[at] > 2:
        before, after = -1, 1
    pads = [0] * (2 * x.rank)
    pads[at], pads[at + x.rank] = before, after
    shape = [*x.shape]
    shape[at] += before + after
    more: list[str] = []
    if mode == "constant" and g.chance(0.5):
        more.append(g.store(np.float32(g.pick((0.0, 0.5)))))
    return g.value("Pad", [x, g.ints(*pads), *more], shape, x.channel, mode=mode)


def repeat(g: Graph, x: Value) -> Made:
    """Tile, or Expand of an axis of size 1."""
    if not x.rank or x.size > 600:
        return None
    single = [i for i, s in enumerate(x.shape) if s == 1]
    if single and g.chance(0.6):
        at = g.pick(single)
        shape = [*x.shape]
        shape[at] = g.int(2, 4)
        target = [1 if g.chance(0.4) and i != at else s for i, s in enumerate(shape)]
        return g.value("Expand", [x, g.ints(*target)], shape, x.channel)
    at = _some_axis(g, x, 0.5)
    repeats = [g.int(2, 3) if i == at else 1 for i in range(x.rank)]
    shape = [s * r for s, r in zip(x.shape, repeats, strict=True)]
    return g.value("Tile", [x, g.ints(*repeats)], shape, x.channel)


# -- fewer positions -----------------------------------------------------------------------------

_REDUCTIONS = (
    *("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1"),
    *("ReduceSumSquare", "ReduceLogSumExp"),
)


def reduce(g: Graph, x: Value) -> Made:
    if x.rank < 2:
        return None
    axes = {_some_axis(g, x, 0.25)}
    if g.chance(0.3):
        axes.add(_some_axis(g, x, 0.2))
    if len(axes) == x.rank or 0 in axes:
        return None
    return reduced(g, g.pick(_REDUCTIONS), x, sorted(axes), g.chance(0.5))


def softmax(g: Graph, x: Value) -> Made:
    if x.rank < 2:
        return None
    at = _some_axis(g, x, 0.4)
    if g.opset < 13:
        at = x.rank - 1
    y = g.like(g.pick(("Softmax", "Softmax", "LogSoftmax")), x, axis=at)
    return g.like("Mul", y, g.store(np.float32(x.shape[at])))


def other_norm(g: Graph, x: Value) -> Made:
    """LpNormalization, LRN, MeanVarianceNormalization, CumSum."""
    if x.rank == 4 and g.chance(0.3):
        return g.like("LRN", x, size=3)
    if x.rank == 4 and g.opset >= 13 and g.chance(0.2) and prod(x.shape[2:]) > 3:
        return g.like("MeanVarianceNormalization", x, axes=[0, 2, 3])
    at = _some_axis(g, x, 0.5)
    if x.rank < 2 or x.shape[at] < 2:
        return None
    if g.chance(0.4):
        return g.like("CumSum", x, g.store(np.array(_some_axis(g, x, 0.5), dtype=np.int64)))
    return g.like("LpNormalization", x, axis=at, p=g.pick((1, 2)))


def pool(g: Graph, x: Value) -> Made:
    if x.rank not in (3, 4):
        return None
    op = g.pick(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool"))
    n, c, *spatial = x.shape
    if op.startswith("Global"):
        return g.value(op, [x], (n, c, *(1 for _ in spatial)), 1)
    kernel = [g.int(1, min(2, s)) for s in spatial]
    strides = [g.int(1, 2) for _ in spatial]
    shape = [(s - k) // t + 1 for s, k, t in zip(spatial, kernel, strides, strict=True)]
    return g.value(op, [x], (n, c, *shape), 1, kernel_shape=kernel, strides=strides)


def resize(g: Graph, x: Value) -> Made:
    """By scales or sizes; twice the size along the last axes."""
    if x.rank != 4 or x.size > 300:
        return None
    shape = (*x.shape[:2], *(2 * s for s in x.shape[2:]))
    attrs = {"mode": g.pick(("nearest", "linear")), "coordinate_transformation_mode": "asymmetric"}
    if attrs["mode"] == "nearest":
        attrs["nearest_mode"] = "floor"
    empty = "" if g.opset >= 13 else g.store(np.zeros(0, dtype=np.float32))
    if g.chance(0.5):
        scales = g.store(np.array([1, 1, 2, 2], dtype=np.float32))
        return g.value("Resize", [x, empty, scales], shape, 1, **attrs)
    none = "" if g.opset >= 13 else g.store(np.zeros(0, dtype=np.float32))
    if g.chance(0.5):
        sizes = g.ints(*shape)
    else:
        head = g.node("Slice", g.node("Shape", x), g.ints(0), g.ints(2), g.ints(0))
        sizes = g.node("Concat", head, g.ints(*shape[2:]), axis=0)
    return g.value("Resize", [x, empty, none, sizes], shape, 1, **attrs)


def blocks(g: Graph, x: Value) -> Made:
    """DepthToSpace and SpaceToDepth."""
    if x.rank != 4:
        return None
    n, c, h, w = x.shape
    if c % 4 == 0 and g.chance(0.6):
        mode = g.pick(("DCR", "CRD"))
        shape = (n, c // 4, 2 * h, 2 * w)
        return g.value("DepthToSpace", [x], shape, 1, blocksize=2, mode=mode)
    if h % 2 or w % 2:
        return None
    return g.value("SpaceToDepth", [x], (n, 4 * c, h // 2, w // 2), 1, blocksize=2)


def quantised(g: Graph, x: Value) -> Made:
    """QuantizeLinear and DequantizeLinear, with one scale or one for each channel."""
    if g.opset < 13 or not x.rank:
        return None
    vector = x.channel is not None and g.chance(0.3)
    shape = (x.shape[x.channel],) if vector and x.channel is not None else ()
    scale = g.store((np.abs(g.rng.standard_normal(shape)) * 0.01 + 0.02).astype(np.float32))
    point = g.store(np.full(shape, 0, dtype=np.int8))
    axis = x.channel if vector else None
    codes = g.node("QuantizeLinear", x, scale, point, axis=axis)
    return replace(x, name=g.node("DequantizeLinear", codes, scale, point, axis=axis))
