"""Productions of attention, written out node by node, and of normalisation."""

from __future__ import annotations

from math import prod

import numpy as np
from onnx import TensorProto

from .graph import Graph, Value
from .layers import Made, linear
from .layouts import merged, reduced, reshaped, transposed, unsqueezed

# -- attention -------------------------------------------------------------------------------------


def attention(g: Graph, x: Value) -> Made:
    """Written out: heads split off by Reshape and Transpose, grouped queries among them."""
    if x.rank != 3 or x.size > 500:
        return None
    b, s, c = x.shape
    kv, r, d = g.pick((1, 2, 2)), g.pick((1, 1, 2)), g.pick((2, 4))
    h = kv * r
    if r == 1 and g.chance(0.4):
        q, k, v = _fused_projection(g, x, h, d)
    else:
        q = _heads(g, linear(g, x, h * d), h, d)
        k = _heads(g, linear(g, x, kv * d), kv, d)
        v = _heads(g, linear(g, x, kv * d), kv, d)
    if g.chance(0.2):
        q, k = (_rms(g, each, d) for each in (q, k))
    if g.chance(0.3):
        q, k = (_rotated(g, each) for each in (q, k))
    if r > 1:
        k, v = (_repeated(g, each, r) for each in (k, v))
    kt = transposed(g, k, (0, 1, 3, 2))
    scores = g.value("MatMul", [q, kt], (b, h, s, s), None)
    scores = g.like(*_scaling(g, x, q, scores))
    if g.chance(0.4):
        mask = np.triu(np.full((s, s), -1e4, dtype=np.float32), 1)
        scores = g.like("Add", scores, g.store(mask[(None,) * g.int(0, 2)]))
    weights = g.like("Softmax", scores, axis=3 if g.opset < 13 else -1)
    y = g.value("MatMul", [weights, v], (b, h, s, d), 3)
    y = merged(g, transposed(g, y, (0, 2, 1, 3)), 2)
    y = linear(g, y, c if g.chance(0.7) else None)
    return g.like("Add", x, y) if y.shape == x.shape and g.chance(0.7) else y


def _heads(g: Graph, x: Value, h: int, d: int) -> Value:
    b, s, _ = x.shape
    return transposed(g, reshaped(g, x, (b, s, h, d), 3), (0, 2, 1, 3))


def _fused_projection(g: Graph, x: Value, h: int, d: int) -> list[Value]:
    """One matrix for queries, keys and values, cut before or after heads are split off."""
    b, s, _ = x.shape
    whole = linear(g, x, 3 * h * d)
    if g.chance(0.5):
        sizes, attrs = g.listed([h * d] * 3, "split", 13)
        names = g.nodes("Split", [whole, *sizes], 3, axis=-1, **attrs)
        return [_heads(g, Value(name, (b, s, h * d), 2), h, d) for name in names]
    whole = reshaped(g, whole, (b, s, 3, h, d), 4)
    whole = transposed(g, whole, (2, 0, 3, 1, 4))
    parts = [
        g.value("Gather", [whole, g.store(np.array(i, dtype=np.int64))], (b, h, s, d), 3, axis=0)
        for i in range(3)
    ]
    return parts


def _repeated(g: Graph, x: Value, r: int) -> Value:
    """Each head of keys or values stands for r heads of queries."""
    b, kv, s, d = x.shape
    y = unsqueezed(g, x, 2)
    shape = (b, kv, r, s, d)
    if g.chance(0.5):
        y = g.value("Expand", [y, g.ints(*shape)], shape, 4)
    else:
        y = g.value("Tile", [y, g.ints(1, 1, r, 1, 1)], shape, 4)
    return reshaped(g, y, (b, kv * r, s, d), 3)


def _rotated(g: Graph, x: Value) -> Value:
    """Rotary position embedding, of halves."""
    *_, s, d = x.shape
    cut = [
        g.value(
            "Slice",
            [x, g.ints(start), g.ints(end), g.ints(-1)],
            (*x.shape[:-1], d // 2),
            x.rank - 1,
        )
        for start, end in ((0, d // 2), (d // 2, 2**63 - 1))
    ]
    turned = g.value("Concat", [g.like("Neg", cut[1]), cut[0]], x.shape, x.channel, axis=-1)
    angles = np.outer(np.arange(s), np.tile(np.arange(1, d // 2 + 1), 2)).astype(np.float32) / d
    cos = g.like("Mul", x, g.store(np.cos(angles)))
    return g.like("Add", cos, g.like("Mul", turned, g.store(np.sin(angles))))


def _rms(g: Graph, x: Value, width: int) -> Value:
    square = g.like("Mul", x, x) if g.chance(0.5) else g.like("Pow", x, g.store(np.float32(2)))
    mean = reduced(g, "ReduceMean", square, (x.rank - 1,), keep=True)
    root = g.like("Sqrt", g.like("Add", mean, g.store(np.float32(1e-3))))
    return g.like("Mul", g.like("Div", x, root), g.weight(width, fan=2))


def _scaling(g: Graph, x: Value, q: Value, scores: Value) -> tuple[str, Value, str]:
    """By a constant, or by a size that is read off the queries."""
    d = q.shape[-1]
    if g.chance(0.6):
        return "Mul", scores, g.store(np.float32(d**-0.5))
    size = g.node("Gather", g.node("Shape", q), g.store(np.array(-1, dtype=np.int64)), axis=0)
    root = g.node("Sqrt", g.node("Cast", size, to=TensorProto.FLOAT))
    return "Div", scores, root


# -- normalisation -------------------------------------------------------------------------------


def normalised(g: Graph, x: Value) -> Made:
    """One of the normalisations that the rank allows."""
    ways = [_batch_norm, _layer_norm, _layer_norm, _root_mean_square, _written_layer_norm]
    if x.rank >= 3:
        ways += [_instance_norm, _group_norm]
    return g.pick(ways)(g, x) if x.rank >= 2 else None


def _batch_norm(g: Graph, x: Value) -> Made:
    c = x.shape[1]
    variance = g.store((np.abs(g.rng.standard_normal(c)) + 0.5).astype(np.float32))
    gamma = g.weight(c, fan=1)
    beta, mean = g.weight(c, fan=4), g.floats((c,), 0.2)
    return g.like("BatchNormalization", x, gamma, beta, mean, variance)


def _layer_norm(g: Graph, x: Value) -> Made:
    if g.opset < 17 or x.shape[-1] < 2:
        return None
    at = x.rank - 1 if g.chance(0.8) else x.rank - 2
    shape = x.shape[at:] if g.chance(0.8) else x.shape[-1:]
    if g.opset >= 23 and g.chance(0.4):
        return g.like("RMSNormalization", x, g.weight(*shape, fan=1), axis=at, epsilon=1e-3)
    more = [g.weight(*shape, fan=4)] if g.chance(0.6) else []
    axis = at if g.chance(0.5) else at - x.rank
    return g.like("LayerNormalization", x, g.weight(*shape, fan=1), *more, axis=axis, epsilon=1e-3)


def _root_mean_square(g: Graph, x: Value) -> Made:
    return _rms(g, x, x.shape[-1]) if x.shape[-1] > 1 else None


def _written_layer_norm(g: Graph, x: Value) -> Made:
    if x.shape[-1] < 2:
        return None
    mean = reduced(g, "ReduceMean", x, (x.rank - 1,), keep=True)
    y = g.like("Sub", x, mean)
    y = _rms(g, y, x.shape[-1])
    return g.like("Add", y, g.weight(x.shape[-1], fan=4))


def _instance_norm(g: Graph, x: Value) -> Made:
    if prod(x.shape[2:]) < 3:
        return None
    c = x.shape[1]
    return g.like("InstanceNormalization", x, g.weight(c, fan=1), g.weight(c, fan=4), epsilon=1e-2)


def _group_norm(g: Graph, x: Value) -> Made:
    """The operator, or a Reshape around InstanceNormalization as exporters write it."""
    n, c, *rest = x.shape
    groups = g.divisor(c)
    if prod(rest) * (c // groups) < 3:
        return None
    if g.opset >= 21 and g.chance(0.5):
        scale, bias = g.weight(c, fan=1), g.weight(c, fan=4)
        return g.like("GroupNormalization", x, scale, bias, num_groups=groups, epsilon=1e-2)
    flat = g.value("Reshape", [x, g.ints(0, groups, -1)], (n, groups, c // groups * prod(rest)), 1)
    ones, zeros = np.ones(groups, dtype=np.float32), np.zeros(groups, dtype=np.float32)
    flat = g.like("InstanceNormalization", flat, g.store(ones), g.store(zeros), epsilon=1e-2)
    y = g.value("Reshape", [flat, g.node("Shape", x)], x.shape, 1)
    wide = (c, *(1 for _ in rest))
    return g.like("Add", g.like("Mul", y, g.weight(*wide, fan=1)), g.weight(*wide, fan=4))
