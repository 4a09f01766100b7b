"""Productions of operators that few models have, and of weights that are computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper

from .graph import Graph, Value
from .layers import Made

_MS = "com.microsoft"


def fused(g: Graph, x: Value) -> Made:
    """onnxruntime's own operators."""
    if x.rank < 2:
        return None
    last, c = x.rank - 1, x.shape[-1]
    way = g.pick(("matmul", "gelu", "bias", "skip", "norm", "heads", "heads"))
    if way == "matmul":
        n, turned = g.width(), g.chance(0.5)
        w = g.weight(*((n, c) if turned else (c, n)), fan=c)
        return g.value(
            *("FusedMatMul", [x, w], (*x.shape[:-1], n), last),
            domain=_MS,
            alpha=0.5,
            transB=int(turned),
        )
    if way == "gelu":
        return g.like(g.pick(("Gelu", "QuickGelu")), x, domain=_MS)
    if way == "bias":
        return g.like(g.pick(("BiasGelu", "FastGelu")), x, g.weight(c, fan=4), domain=_MS)
    if x.rank != 3 or c < 2:
        return None
    if way == "skip":
        y = g.take(lambda y: y.shape == x.shape and y.name != x.name) or g.like("Tanh", x)
        g.read(y)
        operands = [y, g.weight(c, fan=1), g.weight(c, fan=4)]
        if g.chance(0.5):
            operands.append(g.weight(c, fan=4))
        return g.like("SkipLayerNormalization", x, *operands, domain=_MS, epsilon=1e-3)
    if way == "norm":
        return g.like("SimplifiedLayerNormalization", x, g.weight(c, fan=1), axis=-1, epsilon=1e-3)
    return _multi_head(g, x)


def _multi_head(g: Graph, x: Value) -> Made:
    """Attention in one node: onnxruntime's, or the standard's own from opset 23 on."""
    b, s, c = x.shape
    h, d = g.pick((1, 2, 3)), g.pick((2, 4))
    standard = g.opset >= 23 and g.chance(0.6)
    kv = h if not standard or g.chance(0.5) else 1
    widths = (h * d, kv * d, kv * d)
    q, k, v = (
        g.value("MatMul", [x, g.weight(c, n, fan=c, tie=False)], (b, s, n), 2) for n in widths
    )
    if standard:
        attrs = {"q_num_heads": h, "kv_num_heads": kv, "is_causal": g.int(0, 1)}
        return g.value("Attention", [q, k, v], (b, s, h * d), 2, **attrs)
    more = [g.weight(3 * h * d, fan=4)] if g.chance(0.5) else []
    return g.value(
        "MultiHeadAttention", [q, k, v, *more], (b, s, h * d), 2, domain=_MS, num_heads=h
    )


def integer(g: Graph, x: Value) -> Made:
    """Products of integers: activations quantised as they come, weights as codes."""
    if x.rank < 2:
        return None
    k, n = x.shape[-1], g.width()
    codes = g.store(g.rng.integers(-100, 100, (k, n)).astype(np.int8))
    scale = np.abs(g.rng.standard_normal(n if g.chance(0.5) else ())) * 0.01 + 0.002
    shape = (*x.shape[:-1], n)
    # A scale of its own for each value would depend on what is pruned: this one is constant.
    step, zero = g.store(np.float32(0.03)), g.store(np.uint8(120))
    quantised = g.node("QuantizeLinear", x, step, zero)
    point = (
        [g.store(g.rng.integers(-5, 5, np.shape(scale)).astype(np.int8))] if g.chance(0.5) else []
    )
    summed = g.node("MatMulInteger", quantised, codes, zero, *point)
    real = g.node("Cast", summed, to=TensorProto.FLOAT)
    return g.value("Mul", [real, g.store((scale * 0.03).astype(np.float32))], shape, x.rank - 1)


def computed_weight(g: Graph, x: Value) -> Made:
    """A weight plus a product of thin ones; standardised, masked, or picked from a longer one."""
    if x.rank < 2:
        return None
    k, n = x.shape[-1], g.width()
    way = g.pick(("low rank", "standardised", "picked", "masked", "padded", "sum"))
    w = g.weight(k, n, fan=k)
    if way == "low rank":
        r = g.pick((1, 2, 3))
        w = g.node("Add", w, g.node("MatMul", g.weight(k, r, fan=k), g.weight(r, n, fan=r)))
    elif way == "standardised":
        where, attrs = g.listed([0], "axes", 18)
        mean = g.node("ReduceMean", w, *where, keepdims=1, **attrs)
        w = g.node("Sub", w, mean)
    elif way == "picked":
        longer = g.weight(k, n + 3, fan=k)
        at = g.rng.permutation(n + 3)[:n]
        w = g.node("Gather", longer, g.ints(*(int(i) for i in at)), axis=1)
    elif way == "masked":
        kept = g.store(g.rng.random((k, n)) < 0.8)
        w = g.node("Where", kept, w, g.store(np.float32(0)))
    elif way == "padded":
        shorter = g.weight(k, n, fan=k)
        w = g.node("Pad", shorter, g.ints(0, 1, 0, 2))
        n += 3
    else:
        w = g.node("Mul", w, g.weight(k, 1, fan=1))
    return g.value("MatMul", [x, w], (*x.shape[:-1], n), x.rank - 1)


def picked(g: Graph, x: Value) -> Made:
    """TopK, ArgMax and one-hot codes of it, Trilu, scattered updates."""
    if x.rank < 2 or min(x.shape[1:]) < 2:
        return None
    at = g.int(1, x.rank - 1)
    way = g.pick(("trilu", "scatter", "scatter nd", "top", "gather nd"))
    if way == "trilu" and g.opset >= 14:
        return g.like("Trilu", x, upper=g.int(0, 1))
    if way == "top":
        k = g.int(1, x.shape[at])
        # Sorted values do not say which index they are from: no tie can flip them.
        names = g.nodes("TopK", [x, g.ints(k)], 2, axis=at)
        shape = [k if i == at else s for i, s in enumerate(x.shape)]
        return Value(names[0], tuple(shape), x.channel)
    if way == "scatter":
        shape = [g.int(1, 2) if i == at else s for i, s in enumerate(x.shape)]
        where = np.broadcast_to(
            g.rng.permutation(x.shape[at])[: shape[at]].reshape(
                [-1 if i == at else 1 for i in range(x.rank)]
            ),
            shape,
        )
        updates = g.floats(shape)
        return g.like("ScatterElements", x, g.store(where), updates, axis=at)
    if way == "scatter nd":
        rows = g.int(1, x.shape[0])
        where = g.store(np.arange(rows, dtype=np.int64)[:, None])
        return g.like("ScatterND", x, where, g.floats((rows, *x.shape[1:])))
    if way == "gather nd":
        where = g.store(g.rng.integers(0, x.shape[0], (2, 1)))
        return g.value("GatherND", [x, where], (2, *x.shape[1:]), x.channel)
    return None


def outer_sum(g: Graph, x: Value) -> Made:
    """A column plus a row of the same vector: one dim on two axes."""
    if x.rank != 2 or x.size > 40:
        return None
    n, c = x.shape
    column = g.value("Reshape", [x, g.ints(0, c, 1)], (n, c, 1), 1)
    row = g.value("Reshape", [x, g.ints(0, 1, c)], (n, 1, c), 2)
    return g.value(g.pick(("Add", "Mul", "Sub", "Max")), [column, row], (n, c, c), 2)


def crossed(g: Graph, x: Value) -> Made:
    """Parts of a value laid end to end in another order, and added to it."""
    at = x.channel
    if at is None or x.shape[at] < 2:
        return None
    n = x.shape[at]
    first = n // 2 if g.chance(0.6) else g.int(1, n - 1)
    sizes, attrs = g.listed([first, n - first], "split", 13)
    names = g.nodes("Split", [x, *sizes], 2, axis=at, **attrs)
    if g.chance(0.5):
        names[0] = g.node("Neg", names[0])
    turned = replace(x, name=g.node("Concat", *reversed(names), axis=at))
    return g.like(g.pick(("Add", "Mul", "Max")), x, turned)


def two_sizes(g: Graph, x: Value) -> Made:
    """A Concat, and a Split of it at other places."""
    at = x.channel
    if at is None or x.size > 500:
        return None
    y = g.take(lambda y: y.shape == x.shape) or x
    g.read(y)
    n = 2 * x.shape[at]
    shape = [n if i == at else s for i, s in enumerate(x.shape)]
    whole = g.value("Concat", [x, y], shape, at, axis=at)
    cuts = sorted({g.int(1, n - 1), g.int(1, n - 1)})
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    more, attrs = g.listed(sizes, "split", 13)
    names = g.nodes("Split", [whole, *more], len(sizes), axis=at, **attrs)
    return [
        replace(x, name=name, shape=tuple(size if i == at else s for i, s in enumerate(x.shape)))
        for name, size in zip(names, sizes, strict=True)
    ]


def shaped(g: Graph, x: Value) -> Made:
    """Sizes that are read off a tensor and become shapes, bounds or numbers of others."""
    if x.rank < 2 or x.channel is None:
        return None
    sizes = g.node("Shape", x)
    way = g.pick(("expand", "constant", "positions", "half", "data", "view"))
    if way == "expand":
        wide = tuple(s if i == x.channel else 1 for i, s in enumerate(x.shape))[x.channel :]
        return g.like("Add", x, g.node("Expand", g.weight(*wide, fan=4), sizes))
    if way == "constant":
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.5])
        return g.like(g.pick(("Add", "Mul")), x, g.node("ConstantOfShape", sizes, value=value))
    if way == "positions" and x.rank == 3 and x.channel == 2:
        end = g.node("Slice", sizes, g.ints(1), g.ints(2), g.ints(0))
        table = g.weight(x.shape[1] + 3, x.shape[2], fan=2, tie=False)
        return g.like("Add", x, g.node("Slice", table, g.ints(0), end, g.ints(0)))
    if way == "half" and x.shape[x.channel] % 2 == 0:
        return _halves(g, x, sizes)
    if way == "data":
        at = g.store(np.array(x.channel, dtype=np.int64))
        size = g.node("Cast", g.node("Gather", sizes, at, axis=0), to=TensorProto.FLOAT)
        return g.like("Div", x, g.node("Sqrt", size))
    if way == "view":
        flat = g.node("Reshape", x, g.ints(-1))
        return replace(x, name=g.node("Reshape", g.node("Tanh", flat), sizes))
    return None


def _halves(g: Graph, x: Value, sizes: str) -> Value:
    """`concat(-b, a)` of the halves, which are cut where the shape says."""
    assert x.channel is not None
    size = g.node("Gather", sizes, g.ints(x.channel), axis=0)
    half = g.node("Div", size, g.ints(2))
    shape = [s // 2 if i == x.channel else s for i, s in enumerate(x.shape)]
    a = g.value("Slice", [x, g.ints(0), half, g.ints(x.channel)], shape, x.channel)
    b = g.value("Slice", [x, half, g.ints(2**63 - 1), g.ints(x.channel)], shape, x.channel)
    turned = replace(x, name=g.node("Concat", g.like("Neg", b), a, axis=x.channel))
    return g.like("Add", x, turned)


def sequence(g: Graph, x: Value) -> Made:
    """Tensors that are elements of a sequence on their way."""
    y = g.take(lambda y: y.shape == x.shape and y.name != x.name) or g.like("Tanh", x)
    g.read(y)
    made = g.node("SequenceConstruct", x, y)
    if g.chance(0.5):
        at = g.store(np.array(g.int(0, 1), dtype=np.int64))
        return replace(x, name=g.node("SequenceAt", made, at))
    axis = g.int(0, x.rank - 1)
    shape = [s * (2 if i == axis else 1) for i, s in enumerate(x.shape)]
    return g.value("ConcatFromSequence", [made], shape, x.channel, axis=axis)
