"""GAT: attention over a graph's edges (Velickovic et al. 2018, arXiv:1710.10903).

Dense, in the style of pyGAT: every head is a module of its own, and a layer concatenates its
heads. Scores are LeakyRelu(a1.h_i + a2.h_j), where a1 and a2 are the halves, cut by Slice, of one
parameter. A linear skip, as the paper has for PPI, keeps nodes apart that share neighbours. Free:
the channels of each head, in its weight, both halves of its `a`, its run of the skip's columns and
of the next layer's rows. Pinned: node features, nodes, classes.
"""

from __future__ import annotations

import onnx

from models.graph import Graph

NOT_AN_EDGE = -9e15


def build(
    seed: int = 0,
    *,
    features: int = 48,
    channels: int = 32,
    heads: int = 4,
    layers: int = 2,
    classes: int = 7,
) -> onnx.ModelProto:
    """[N, features], [N, N] -> [N, classes]: N nodes, an edge where the adjacency is above 0."""
    g = Graph("gat", seed)
    x = g.input("features", "N", features)
    adjacency = g.input("adjacency", "N", "N")
    edges = g.node("Greater", adjacency, g.scalar(0.0))
    inputs = features
    for layer in range(layers):
        with g.scope(f"layers.{layer}"):
            x = g.node("Elu", _layer(g, x, edges, inputs, channels, heads), alpha=1.0)
        inputs = heads * channels
    with g.scope("out"):
        x = _layer(g, x, edges, inputs, classes, 1)
    g.output(x, "logits", "N", classes)
    return g.model()


def _layer(g: Graph, x: str, edges: str, inputs: int, channels: int, heads: int) -> str:
    """[n, inputs] -> [n, heads * channels]."""
    outputs = []
    for head in range(heads):
        with g.scope(f"heads.{head}"):
            outputs.append(_head(g, x, edges, inputs, channels))
    mixed = g.node("Concat", *outputs, axis=1) if heads > 1 else outputs[0]
    return g.node("Add", mixed, g.matmul("skip", x, inputs, heads * channels))


def _head(g: Graph, x: str, edges: str, inputs: int, outputs: int) -> str:
    """[n, inputs] -> [n, outputs]: each node the mean of its neighbours, by attention."""
    h = g.node("MatMul", x, g.random("W", inputs, outputs, scale=(2 / inputs) ** 0.5))
    a = g.random("a", 2 * outputs, 1, scale=2 * outputs**-0.5)
    own = g.node("MatMul", h, g.slice(a, 0, 0, outputs))
    other = g.node("MatMul", h, g.slice(a, 0, outputs, 2 * outputs))
    scores = g.node("Add", own, g.transpose(other, 1, 0))
    scores = g.node("LeakyRelu", scores, alpha=0.2)
    scores = g.node("Where", edges, scores, g.scalar(NOT_AN_EDGE))
    return g.node("MatMul", g.node("Softmax", scores, axis=1), h)
