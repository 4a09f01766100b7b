"""The grammar: random graphs over all rule families, with random wiring, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from . import blocks, bodies, layers, layouts, rare
from .graph import Graph, Value
from .layers import Made

#: Productions by how often they are drawn.
PRODUCTIONS: dict[Callable[[Graph, Value], Made], float] = {
    layers.linear: 6,
    layers.from_left: 1,
    layers.einsum: 2,
    layers.gram: 1,
    layers.embedding: 1,
    layers.conv: 8,
    layers.conv_transpose: 2,
    layers.squeeze_excite: 1,
    layers.channel_shuffle: 1,
    blocks.attention: 5,
    layers.feed_forward: 3,
    layers.recurrent: 3,
    blocks.normalised: 5,
    layers.activation: 5,
    layers.with_constant: 4,
    layers.with_another: 4,
    layers.residual: 4,
    layouts.transpose: 2,
    layouts.reshape: 3,
    layouts.ones: 1,
    layouts.with_view: 1,
    layouts.split: 2,
    layouts.concat: 4,
    layouts.streams: 1,
    layouts.cut: 2,
    layouts.gather: 1,
    layouts.pad: 1.5,
    layouts.repeat: 1.5,
    layouts.reduce: 1.5,
    layouts.softmax: 0.7,
    layouts.other_norm: 0.7,
    layouts.pool: 1.5,
    layouts.resize: 1,
    layouts.blocks: 1,
    layouts.quantised: 0.7,
    bodies.branches: 1,
    bodies.loop: 0.7,
    bodies.scan: 0.5,
    rare.fused: 2,
    rare.integer: 0.5,
    rare.computed_weight: 2,
    rare.picked: 1,
    rare.outer_sum: 0.7,
    rare.crossed: 1,
    rare.two_sizes: 1,
    rare.shaped: 2,
    rare.sequence: 0.3,
}
#: No graph has a larger tensor made on purpose.
_LARGEST = 4000


@dataclass(frozen=True)
class Case:
    """A model, and inputs for it: twice of one size, and of another where it has dynamic sizes."""

    model: ModelProto
    feeds: list[dict[str, NDArray[Any]]]


def generate(seed: int) -> Case:
    """The graph of a seed."""
    g = Graph(np.random.default_rng(seed))
    for _ in range(g.pick((1, 1, 1, 2))):
        g.add(_start(g))
    for _ in range(g.pick((2, 4, 6, 8, 12))):
        _grow(g)
    outputs = [_head(g, value) for value in list(g.open)]
    model = g.model(outputs)
    other = {
        name: g.rng.permutation(value.ravel()).reshape(value.shape)
        for name, value in g.feeds.items()
    }
    feeds = [g.feeds, other]
    # onnxruntime's own operators divide by sizes unchecked: one that does not fit ends the process.
    if g.dynamic and not g.domains:
        feeds.append(g.resized)
    return Case(model, feeds)


def _start(g: Graph) -> Value:
    """An input: an image, a sequence, tokens or features; and a first layer, most often."""
    kind = g.pick(("image", "image", "sequence", "sequence", "tokens", "features"))
    n = g.pick((1, 2, 2))
    name = g.name("input")
    if kind == "image":
        shape: tuple[int, ...] = (n, g.pick((1, 3, 4)), g.pick((4, 5, 6)), g.pick((4, 6)))
        symbols = ("N", "C", "H", "W")
    elif kind == "sequence":
        shape, symbols = (n, g.int(3, 5), g.pick((3, 4, 6))), ("N", "S", "C")
    elif kind == "tokens":
        shape, symbols = (n, g.int(3, 5)), ("N", "S")
    else:
        shape, symbols = (g.int(2, 4), g.pick((4, 6))), ("N", "C")
    dynamic = g.pick((0, 0, 1, 1, 2, 3))
    declared: list[int | str] = [*shape]
    for i in range(min(dynamic, len(shape))):
        if symbols[i] != "C":
            declared[i] = f"{name}_{symbols[i]}"
    other = tuple(s + (isinstance(d, str)) for s, d in zip(shape, declared, strict=True))
    g.dynamic |= other != shape
    if kind == "tokens":
        g.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, declared))
        rows, c = g.int(5, 9), g.width()
        g.feeds[name] = g.rng.integers(0, rows, shape)
        g.resized[name] = g.rng.integers(0, rows, other)
        return g.value("Gather", [g.weight(rows, c, fan=1), name], (*shape, c), 2, axis=0)
    g.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, declared))
    g.feeds[name] = g.rng.standard_normal(shape).astype(np.float32)
    g.resized[name] = g.rng.standard_normal(other).astype(np.float32)
    x = Value(name, shape)
    first = layers.conv if kind == "image" else layers.linear
    made = first(g, x) if g.chance(0.9) else x
    return made if isinstance(made, Value) else x


def _grow(g: Graph) -> None:
    """Apply one production to one value."""
    ways = list(PRODUCTIONS)
    weights = np.array(list(PRODUCTIONS.values()))
    for _ in range(20):
        way = ways[int(g.rng.choice(len(ways), p=weights / weights.sum()))]
        x = g.take(lambda x: x.rank > 0 and x.size <= _LARGEST)
        if x is None:
            return
        nodes, weights_before = len(g.scopes[0].nodes), len(g.weights)
        made = way(g, x)
        if made is None:
            del g.scopes[0].nodes[nodes:], g.weights[weights_before:]
            continue
        if made == x:
            continue
        g.read(x)
        g.add(*(made if isinstance(made, list) else [made]))
        return


def _head(g: Graph, x: Value) -> Value:
    """Something that is read off: a last layer over the channels, most often."""
    if x.rank >= 2 and x.channel is not None and g.chance(0.2):
        way = g.pick(("ReduceSum", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2"))
        return layouts.reduced(g, way, x, (x.channel,), g.chance(0.5))
    if x.rank >= 2 and x.channel is not None and g.chance(0.85):
        if x.channel == 1 and x.rank == 4 and g.chance(0.7):
            w = g.weight(3, x.shape[1], 1, 1, tie=False)
            return g.value("Conv", [x, w], (x.shape[0], 3, *x.shape[2:]), 1)
        if x.channel != x.rank - 1:
            perm = [i for i in range(x.rank) if i != x.channel] + [x.channel]
            x = layouts.transposed(g, x, perm)
        w = g.weight(x.shape[-1], 3, fan=x.shape[-1], tie=False)
        return g.value("MatMul", [x, w], (*x.shape[:-1], 3), x.rank - 1)
    return g.like("Identity", x)
