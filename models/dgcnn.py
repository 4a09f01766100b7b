"""DGCNN: edge convolution on point clouds (Wang et al. 2019, arXiv:1801.07829).

Each stage finds every point's nearest neighbours in its own features (TopK), gathers them, and
convolves concat(x_j - x_i, x_i). Free: every stage's channels (both runs of the next stage's
concat, its distances, and one run of the last concat), the embedding. A channel also moves the
distances, so removing one can change the neighbours: outputs are comparable only ahead of TopK.
Pinned: coordinates, points, neighbours, classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from models.graph import Graph


def build(
    seed: int = 0,
    *,
    widths: Sequence[int] = (32, 48, 64),
    embedding: int = 128,
    points: int = 40,
    neighbours: int = 6,
    classes: int = 10,
) -> onnx.ModelProto:
    """[N, 3, points] -> [N, classes]; one edge convolution per width."""
    g = Graph("dgcnn", seed)
    x = g.input("points", "N", 3, points)
    batch = g.size(x, 0)
    stages: list[str] = []
    inputs = 3
    for i, width in enumerate(widths, 1):
        with g.scope(f"conv{i}"):
            x = _edge_features(g, x, batch, inputs, points, neighbours)
            x = g.batch_norm("1", g.conv("0", x, 2 * inputs, width), width)
            x = g.node("LeakyRelu", x, alpha=0.2)
            x = g.node("ReduceMax", x, axes=[-1], keepdims=0)
        stages.append(x)
        inputs = width
    x = g.node("Concat", *stages, axis=1)
    with g.scope("embedding"):
        weight = g.random("0.weight", embedding, sum(widths), 1, scale=sum(widths) ** -0.5)
        x = g.batch_norm("1", g.node("Conv", x, weight, kernel_shape=[1]), embedding)
        x = g.node("LeakyRelu", x, alpha=0.2)
    x = g.node("ReduceMax", x, axes=[-1], keepdims=0)
    g.output(g.linear("linear", x, embedding, classes), "logits", "N", classes)
    return g.model()


def _edge_features(g: Graph, x: str, batch: str, channels: int, points: int, k: int) -> str:
    """[n, c, p] -> [n, 2 * c, p, k]: differences to the k neighbours, and the point itself."""
    by_point = g.transpose(x, 0, 2, 1)
    index = g.reshape(_neighbours(g, x, by_point, batch, points, k), -1)
    flat = g.reshape(by_point, -1, channels)
    near = g.reshape(g.node("Gather", flat, index, axis=0), -1, points, k, channels)
    here = g.node("Tile", g.reshape(by_point, -1, points, 1, channels), g.ints(1, 1, k, 1))
    edges = g.node("Concat", g.node("Sub", near, here), here, axis=3)
    return g.transpose(edges, 0, 3, 1, 2)


def _neighbours(g: Graph, x: str, by_point: str, batch: str, points: int, k: int) -> str:
    """[n, c, p] and its transpose -> [n, p, k], row numbers in the batch's points laid end to end.

    Nearest by -|a - b|^2 = 2 a.b - |a|^2 - |b|^2.
    """
    products = g.node("Mul", g.node("MatMul", by_point, x), g.scalar(2.0))
    square = g.node("Mul", x, x)
    norms = g.node("ReduceSum", square, g.ints(1), keepdims=1)
    closeness = g.node("Sub", g.node("Sub", products, norms), g.transpose(norms, 0, 2, 1))
    index = g.nodes("TopK", closeness, g.ints(k), outputs=2, axis=-1, largest=1, sorted=1)[1]
    count = g.node("Squeeze", batch, g.ints(0))
    first = g.node("Mul", g.node("Range", g.scalar(0), count, g.scalar(1)), g.scalar(points))
    return g.node("Add", index, g.reshape(first, -1, 1, 1))
