"""Productions with graphs inside: If, Loop and Scan, whose bodies read values from outside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from .graph import Graph, Value
from .layers import activation, linear

Made = Value | list[Value] | None


def _info(value: Value, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(value.name, kind, value.shape)


def _unshaped(name: str) -> ValueInfoProto:
    """Without a shape: sizes inside are the run's."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def branches(g: Graph, x: Value) -> Made:
    """Two layers of one width, of which the data, or a constant, says which is used."""
    if x.rank < 2:
        return None
    n = g.width()
    if g.chance(0.3):
        condition = g.store(np.array(g.chance(0.5)))
    else:
        one = g.node(
            "Reshape",
            g.node("Slice", x, g.ints(*(0,) * x.rank), g.ints(*(1,) * x.rank)),
            g.store(np.zeros(0, dtype=np.int64)),
        )
        condition = g.node("Greater", one, g.store(np.float32(0)))
    outer = g.weight(x.shape[-1], n, fan=x.shape[-1])  # of either branch
    made = []
    for _ in range(2):
        with g.body() as scope:
            if g.chance(0.5):
                y = g.value("MatMul", [x, outer], (*x.shape[:-1], n), x.rank - 1)
            else:
                y = linear(g, x, n)
            y = activation(g, y)
            inner = branches(g, y) if g.chance(0.1) else None
            if isinstance(inner, Value) and inner.shape == y.shape:
                y = inner
            made.append(g.subgraph(scope, [], [_unshaped(y.name)]))
    return g.value("If", [condition], y.shape, y.channel, then_branch=made[0], else_branch=made[1])


def loop(g: Graph, x: Value) -> Made:
    """A state that is changed two or three times by a layer, which reads a weight from outside."""
    if x.rank < 2 or x.size > 300:
        return None
    c = x.shape[-1]
    inside = g.chance(0.3)
    w = "" if inside else g.weight(c, c, fan=c)
    step, go, state = g.name("step"), g.name("go"), replace(x, name=g.name("state"))
    with g.body() as scope:
        w = w or g.weight(c, c, fan=c)
        y = g.like("Tanh", g.value("MatMul", [state, w], x.shape, x.rank - 1))
        if g.chance(0.5):
            y = g.like("Add", y, x)
        on = g.node("Identity", go)
        outputs = [helper.make_tensor_value_info(on, TensorProto.BOOL, []), _unshaped(y.name)]
        collected = g.chance(0.4)
        if collected:
            each = g.like("Sigmoid", y)
            outputs.append(_unshaped(each.name))
        inputs = [
            helper.make_tensor_value_info(step, TensorProto.INT64, []),
            helper.make_tensor_value_info(go, TensorProto.BOOL, []),
            _info(state) if g.chance(0.7) else _unshaped(state.name),
        ]
        body = g.subgraph(scope, inputs, outputs)
    times = g.int(2, 3)
    trips = g.store(np.array(times, dtype=np.int64))
    names = g.nodes("Loop", [trips, g.store(np.array(True)), x], 1 + collected, body=body)
    made = [replace(x, name=names[0])]
    if collected and x.rank < 5:
        channel = None if x.channel is None else x.channel + 1
        made.append(Value(names[1], (times, *x.shape), channel))
    return made


def scan(g: Graph, x: Value) -> Made:
    """Step by step over the first axis of `[t, b, c]`, with a state, as a recurrent layer is."""
    if x.rank != 3 or x.size > 300:
        return None
    t, b, c = x.shape
    h = g.width()
    w, r = g.weight(c, h, fan=c), g.weight(h, h, fan=h)
    start = g.floats((b, h), 0.3)
    state, item = Value(g.name("state"), (b, h), 1), Value(g.name("item"), (b, c), 1)
    with g.body() as scope:
        y = g.value("MatMul", [item, w], (b, h), 1)
        y = g.like("Tanh", g.like("Add", y, g.value("MatMul", [state, r], (b, h), 1)))
        copy = g.like("Identity", y)
        body = g.subgraph(scope, [_info(state), _info(item)], [_info(y), _info(copy)])
    names = g.nodes("Scan", [start, x], 2, body=body, num_scan_inputs=1)
    return Value(names[1], (t, b, h), 2)
