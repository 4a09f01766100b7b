"""Productions that make channels, and what stands between them: activations, sums.

Each takes a graph and a value and gives the values it made, or None where it does not apply.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
from onnx import TensorProto

from .graph import Graph, Value
from .layouts import merged, reduced, reshaped, squeezed, transposed

Made = Value | list[Value] | None

# -- matrix products -----------------------------------------------------------------------------


def linear(g: Graph, x: Value, out: int | None = None) -> Value:
    """A matrix product over the last axis, written in one of its ways."""
    k, n = x.shape[-1], out or g.width()
    shape = (*x.shape[:-1], n)
    if x.rank == 2 and g.chance(0.5):
        return _gemm(g, x, n)
    if g.chance(0.15) and x.rank > 1:
        letters = "abcdefgh"[: x.rank]
        turned = g.chance(0.5)
        w = g.weight(*((n, k) if turned else (k, n)), fan=k)
        equation = f"{letters},{'z' + letters[-1] if turned else letters[-1] + 'z'}"
        made = g.value("Einsum", [x, w], shape, x.rank - 1, equation=f"{equation}->{letters[:-1]}z")
    elif g.chance(0.3):
        w = g.node("Transpose", g.weight(n, k, fan=k), perm=[1, 0])
        made = g.value("MatMul", [x, w], shape, x.rank - 1)
    elif x.rank > 2 and not g.dynamic and g.chance(0.1):
        w = g.weight(*x.shape[:-2], k, n, fan=k, tie=False)
        made = g.value("MatMul", [x, w], shape, x.rank - 1)
    else:
        made = g.value("MatMul", [x, g.weight(k, n, fan=k)], shape, x.rank - 1)
    return _biased(g, made, (n,))


def _biased(g: Graph, x: Value, shape: tuple[int, ...]) -> Value:
    if not g.chance(0.6):
        return x
    bias = g.weight(*shape, fan=4)
    return replace(x, name=g.node("Add", *((x, bias) if g.chance(0.7) else (bias, x))))


def _gemm(g: Graph, x: Value, n: int) -> Value:
    m, k = x.shape
    trans_a, trans_b = g.chance(0.2), g.chance(0.5)
    a = transposed(g, x, (1, 0)) if trans_a else x
    operands: list[str | Value] = [a, g.weight(*((n, k) if trans_b else (k, n)), fan=k)]
    if g.chance(0.7):
        shapes: list[tuple[int, ...]] = [(n,), (n,), (1, n), (1,)]
        if not g.dynamic:
            shapes += [(m, 1), (m, n)]
        operands.append(g.weight(*g.pick(shapes), fan=4))
    attrs = {"alpha": 0.5 if g.chance(0.2) else None, "beta": 2.0 if g.chance(0.2) else None}
    attrs |= {"transA": 1 if trans_a else None, "transB": 1 if trans_b else None}
    return g.value("Gemm", operands, (m, n), 1, **attrs)


def from_left(g: Graph, x: Value) -> Made:
    """`W x`: over the axis before the last."""
    if x.rank < 2:
        return None
    k, m = x.shape[-2], g.width()
    shape = (*x.shape[:-2], m, x.shape[-1])
    return _biased(g, g.value("MatMul", [g.weight(m, k), x], shape, x.rank - 2), (m, 1))


def einsum(g: Graph, x: Value) -> Made:
    """A weight with two new axes, or over any axis of the input."""
    if not 2 <= x.rank <= 4:
        return None
    letters = "abcd"[: x.rank]
    at = x.channel if x.channel is not None else g.int(0, x.rank - 1)
    k, n = x.shape[at], g.width()
    if x.rank < 4 and g.chance(0.5):
        h = g.pick((2, 3))
        w = g.weight(k, h, n, fan=k)
        rest = letters.replace(letters[at], "")
        return g.value(
            "Einsum",
            [x, w],
            (*(s for i, s in enumerate(x.shape) if i != at), h, n),
            x.rank,
            equation=f"{letters},{letters[at]}yz->{rest}yz",
        )
    shape = (*x.shape[:at], n, *x.shape[at + 1 :])
    result = letters.replace(letters[at], "z")
    w = g.weight(n, k)
    return g.value("Einsum", [w, x], shape, at, equation=f"z{letters[at]},{letters}->{result}")


def gram(g: Graph, x: Value) -> Made:
    """x xᵀ, or the product of two values that fit."""
    if not 2 <= x.rank <= 4:
        return None
    y = g.take(
        lambda y: (
            y.rank == x.rank
            and y.shape[:-2] == x.shape[:-2]
            and x.shape[-1] in (y.shape[-1], y.shape[-2])
        )
    )
    y = y if y is not None and g.chance(0.7) else x
    if y.shape[-1] == x.shape[-1]:
        perm = [*range(y.rank - 2), y.rank - 1, y.rank - 2]
        y = transposed(g, y, perm)
    made = g.value(
        "MatMul",
        [x, y],
        (*x.shape[:-1], y.shape[-1]),
        y.channel if y.channel != x.rank - 2 else None,
    )
    return g.like("Mul", made, g.store(np.float32(1 / x.shape[-1])))


def embedding(g: Graph, x: Value) -> Made:
    """A table read by positions that are constant, added along the axis before the last."""
    if x.rank != 3 or x.channel != 2:
        return None
    rows = x.shape[1] + g.int(0, 2)
    table = g.weight(rows, x.shape[2], fan=4)
    at = g.ints(*(int(i) for i in g.rng.integers(0, rows, x.shape[1])))
    return g.like("Add", x, g.node("Gather", table, at, axis=0))


# -- convolutions --------------------------------------------------------------------------------


def conv(g: Graph, x: Value) -> Made:
    if x.rank not in (3, 4, 5) or x.size > 2000:
        return None
    spatial = x.shape[2:]
    c = x.shape[1]
    groups = g.divisor(c) if g.chance(0.5) else 1
    out = groups * g.pick((1, 1, 2, 3)) if groups > 1 else g.width()
    kernel = [g.int(1, min(3, s)) for s in spatial]
    strides = [g.pick((1, 1, 2)) for _ in spatial]
    pads = [g.int(0, 1) for _ in (*spatial, *spatial)]
    dilations = [
        2 if s > 4 and k == 2 and g.chance(0.3) else 1 for s, k in zip(spatial, kernel, strict=True)
    ]
    if g.chance(0.3):
        kernel, strides, pads = [1] * len(spatial), [1] * len(spatial), [0] * (2 * len(spatial))
    n = len(spatial)
    shape = [
        (s + pads[i] + pads[n + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i, s in enumerate(spatial)
    ]
    if min(shape) < 1:
        return None
    operands: list[str | Value] = [x, g.weight(out, c // groups, *kernel)]
    if g.chance(0.6):
        operands.append(g.weight(out, fan=4))
    return g.value(
        "Conv",
        operands,
        (x.shape[0], out, *shape),
        1,
        group=groups if groups > 1 or g.chance(0.2) else None,
        kernel_shape=kernel if g.chance(0.8) else None,
        strides=strides if max(strides) > 1 or g.chance(0.5) else None,
        pads=pads if any(pads) or g.chance(0.3) else None,
        dilations=dilations if max(dilations) > 1 else None,
    )


def conv_transpose(g: Graph, x: Value) -> Made:
    if x.rank not in (3, 4) or x.size > 600:
        return None
    spatial = x.shape[2:]
    c = x.shape[1]
    groups = g.divisor(c) if g.chance(0.6) else 1
    each = g.pick((1, 2, 3)) if groups > 1 else g.width()
    kernel = [g.int(1, 2) for _ in spatial]
    strides = [g.pick((1, 2)) if s < 5 else 1 for s in spatial]
    operands: list[str | Value] = [x, g.weight(c, each, *kernel, fan=c)]
    if g.chance(0.6):
        operands.append(g.weight(groups * each, fan=4))
    shape = [(s - 1) * t + k for s, t, k in zip(spatial, strides, kernel, strict=True)]
    return g.value(
        "ConvTranspose",
        operands,
        (x.shape[0], groups * each, *shape),
        1,
        group=groups if groups > 1 else None,
        strides=strides,
    )


def squeeze_excite(g: Graph, x: Value) -> Made:
    if x.rank != 4:
        return None
    n, c = x.shape[:2]
    if g.chance(0.5):
        pooled = g.value("GlobalAveragePool", [x], (n, c, 1, 1), 1)
    else:
        pooled = reduced(g, "ReduceMean", x, (2, 3), keep=True)
    m = g.pick((2, 4))
    h = g.value("Conv", [pooled, g.weight(m, c, 1, 1), g.weight(m, fan=4)], (n, m, 1, 1), 1)
    h = g.like("Relu", h)
    h = g.value("Conv", [h, g.weight(c, m, 1, 1)], (n, c, 1, 1), 1)
    return g.like("Mul", x, g.like(g.pick(("Sigmoid", "HardSigmoid")), h))


def channel_shuffle(g: Graph, x: Value) -> Made:
    if x.rank != 4 or x.shape[1] < 4:
        return None
    n, c, *rest = x.shape
    groups = g.divisor(c)
    y = reshaped(g, x, (n, groups, c // groups, *rest), 2)
    y = transposed(g, y, (0, 2, 1, 3, 4))
    return reshaped(g, y, x.shape, 1)


# -- feed-forward ----------------------------------------------------------------------------------


def feed_forward(g: Graph, x: Value) -> Made:
    """Two layers, plain or gated."""
    if x.rank not in (2, 3):
        return None
    m = g.width()
    last = x.rank - 1
    if g.chance(0.5):
        y = activation(g, linear(g, x, m))
    else:
        whole = linear(g, x, 2 * m)
        sizes, attrs = g.listed([m, m], "split", 13)
        names = g.nodes("Split", [whole, *sizes], 2, axis=-1, **attrs)
        gate, up = (Value(name, (*x.shape[:-1], m), last) for name in names)
        y = g.like("Mul", activation(g, gate), up)
    y = linear(g, y, x.shape[-1])
    return g.like("Add", x, y) if g.chance(0.7) else y


# -- recurrence ----------------------------------------------------------------------------------


def recurrent(g: Graph, x: Value) -> Made:
    """LSTM, GRU or RNN over the first axis of `[t, b, i]`."""
    if x.rank != 3 or x.size > 300:
        return None
    t, b, i = x.shape
    op, gates = g.pick((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    h, d = g.pick((2, 3, 4)), g.pick((1, 1, 2))
    w = g.weight(d, gates * h, i, fan=i, tie=False)
    r = g.weight(d, gates * h, h, fan=h, tie=False)
    operands: list[str | Value] = [x, w, r]
    operands.append(g.floats((d, 2 * gates * h), 0.3) if g.chance(0.7) else "")
    operands.append("")
    if g.chance(0.4):
        operands.append(g.floats((d, b, h), 0.3))
        if op == "LSTM":
            operands.append(g.floats((d, b, h), 0.3))
            if g.chance(0.4):
                operands.append(g.floats((d, 3 * h), 0.3))
    count = 3 if op == "LSTM" else 2
    attrs = {"hidden_size": h, "direction": "bidirectional" if d == 2 else None}
    if op == "GRU" and g.chance(0.5):
        attrs["linear_before_reset"] = 1
    names = g.nodes(op, operands, count, **attrs)
    if g.chance(0.3):
        last = Value(names[1], (d, b, h), 2)
        return merged(g, transposed(g, last, (1, 0, 2)), 1)
    every = Value(names[0], (t, d, b, h), 3)
    if d == 1:
        return squeezed(g, every, 1)
    return merged(g, transposed(g, every, (0, 2, 1, 3)), 2)


# -- elementwise ---------------------------------------------------------------------------------

_PLAIN = (
    *("Relu", "LeakyRelu", "Elu", "Selu", "Softsign", "Tanh", "Sin", "Erf", "Abs", "Neg", "Celu"),
    *("Sigmoid", "Softplus", "Cos", "HardSigmoid", "Identity", "ThresholdedRelu", "Dropout"),
)


def activation(g: Graph, x: Value) -> Value:
    """An elementwise function of one value."""
    ways = [*_PLAIN, "silu", "gelu", "clip", "exp", "log", "root", "shrink", "cast"]
    if g.opset >= 14:
        ways.append("HardSwish")
    if g.opset >= 20:
        ways.append("Gelu")
    way = g.pick(ways)
    if way == "silu":
        return g.like("Mul", x, g.like("Sigmoid", x))
    if way == "gelu":
        half = g.like("Mul", x, g.store(np.float32(0.5)))
        error = g.like("Erf", g.like("Div", x, g.store(np.float32(2**0.5))))
        return g.like("Mul", half, g.like("Add", error, g.store(np.float32(1))))
    if way == "clip":
        low, high = g.pick(((0.0, 6.0), (-1.0, 1.0), (0.1, 2.0), (-3.0, -0.2)))
        return g.like("Clip", x, g.store(np.float32(low)), g.store(np.float32(high)))
    if way == "exp":
        return g.like("Exp", g.like("Tanh", x))
    if way == "log":
        return g.like("Log", g.like("Softplus", x))
    if way == "root":
        return g.like("Sqrt", g.like("Abs", x))
    if way == "shrink":
        return g.like("Shrink", x, lambd=0.1, bias=g.pick((0.0, 0.05)))
    if way == "cast":
        double = g.node("Cast", x, to=TensorProto.DOUBLE)
        return replace(x, name=g.node("Cast", double, to=TensorProto.FLOAT))
    return g.like(way, x)


def with_constant(g: Graph, x: Value) -> Made:
    """A constant broadcast to the value: a scalar, along some axes, or all of it."""
    rank = g.int(0, x.rank)
    shape = tuple(s if g.chance(0.6) else 1 for s in x.shape[x.rank - rank :])
    if x.channel is not None and g.chance(0.6):
        shape = tuple(s if i == x.channel else 1 for i, s in enumerate(x.shape))[
            min(x.channel, x.rank - 1) :
        ]
    op = g.pick(("Add", "Mul", "Mul", "Sub", "Div", "Max", "Min", "PRelu", "Where", "Pow"))
    if op == "Div":
        return g.like("Div", x, g.store((np.abs(g.rng.standard_normal(shape)) + 0.5).astype("f4")))
    if op == "PRelu":
        return g.like("PRelu", x, g.floats(shape, 0.3))
    if op == "Pow":
        return g.like("Pow", x, g.store(np.float32(2)))
    if op == "Where":
        kept = g.store(g.rng.random(shape) < 0.7)
        other = g.store(np.float32(g.pick((0.0, 0.0, 0.5))))
        return replace(x, name=g.node("Where", kept, x, other))
    operands = [x, g.weight(*shape, fan=2) if shape else g.floats((), 1.0)]
    if g.chance(0.3):
        operands.reverse()
    return replace(x, name=g.node(op, *operands))


def with_another(g: Graph, x: Value) -> Made:
    """Two values of shapes that are broadcast; a product is squashed."""
    y = g.take(lambda y: y.name != x.name and _broadcast(x.shape, y.shape) is not None)
    if y is None:
        return None
    g.read(y)
    op = g.pick(("Add", "Add", "Add", "Sub", "Mul", "Max", "Where", "Mean"))
    shape = _broadcast(x.shape, y.shape)
    assert shape is not None
    channel = x.channel
    if channel is not None:
        channel += len(shape) - x.rank
    if op == "Where":
        sign = g.node("Greater", x, g.store(np.float32(0)))
        return g.value("Where", [sign, x, y], shape, channel)
    made = g.value(op, [x, y], shape, channel)
    return g.like("Tanh", made) if op == "Mul" else made


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(a, b) if prod(np.broadcast_shapes(a, b)) < 3000 else None
    except ValueError:
        return None


def residual(g: Graph, x: Value) -> Made:
    """x + f(x), where f ends with a layer that has the width of x."""
    if x.rank == 4:
        n, c, *rest = x.shape
        m = g.width()
        y = g.value("Conv", [x, g.weight(m, c, 3, 3)], (n, m, *rest), 1, pads=[1] * 4)
        y = activation(g, y)
        y = g.value("Conv", [y, g.weight(c, m, 1, 1), g.weight(c, fan=4)], x.shape, 1)
    elif x.rank in (2, 3):
        y = linear(g, activation(g, linear(g, x)), x.shape[-1])
    else:
        return None
    return g.like(g.pick(("Add", "Add", "Sub", "Sum")), x, y)
