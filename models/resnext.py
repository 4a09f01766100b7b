"""ResNeXt: bottleneck blocks around a grouped convolution (Xie et al. 2017, arXiv:1611.05431).

Free: the bottleneck on both sides of the grouped convolution, where every group keeps the same
number of channels (its axis is groups x channels per group), or whole groups go; and each
stage's residual stream. Pinned: the image channels and the classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from models.graph import Graph


def build(
    seed: int = 0,
    *,
    widths: Sequence[int] = (64, 128),
    cardinality: int = 8,
    blocks: int = 2,
    image: int = 32,
    classes: int = 10,
) -> onnx.ModelProto:
    """[N, 3, image, image] -> [N, classes]; bottlenecks of half the stage's width."""
    g = Graph("resnext", seed)
    x = g.input("images", "N", 3, image, image)
    stem = widths[0] // 2
    x = g.node("Relu", g.batch_norm("bn1", g.conv("conv1", x, 3, stem, 3), stem))
    x = g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = stem
    for stage, width in enumerate(widths, 1):
        for i in range(blocks):
            with g.scope(f"layer{stage}.{i}"):
                stride = 2 if stage > 1 and i == 0 else 1
                x = _bottleneck(g, x, inputs, width, cardinality, stride)
            inputs = width
    g.output(g.pool_head("fc", x, inputs, classes), "logits", "N", classes)
    return g.model()


def _bottleneck(g: Graph, x: str, inputs: int, outputs: int, cardinality: int, stride: int) -> str:
    inner = outputs // 2
    y = g.node("Relu", g.batch_norm("bn1", g.conv("conv1", x, inputs, inner), inner))
    y = g.conv("conv2", y, inner, inner, 3, stride=stride, groups=cardinality)
    y = g.node("Relu", g.batch_norm("bn2", y, inner))
    y = g.batch_norm("bn3", g.conv("conv3", y, inner, outputs, gain=1.0), outputs)
    if stride != 1 or inputs != outputs:
        x = g.conv_bn("downsample", x, inputs, outputs, stride=stride, gain=1.0)
    return g.node("Relu", g.node("Add", y, x))
