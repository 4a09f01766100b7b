"""DenseNet: every layer reads the concat of all before it (Huang et al. 2017, arXiv:1608.06993).

The order is BatchNormalization, Relu, convolution, so a normalization spans the runs of many
layers. Free: each layer's bottleneck, each layer's growth (one run in every later concat, cut
from every later normalization), the stem and the transitions. Pinned: image channels and classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from models.graph import Graph


def build(
    seed: int = 0,
    *,
    stem: int = 32,
    growth: int = 16,
    bottleneck: int = 4,
    layers: Sequence[int] = (3, 4),
    image: int = 32,
    classes: int = 10,
) -> onnx.ModelProto:
    """[N, 3, image, image] -> [N, classes]; one dense block per entry of `layers`."""
    g = Graph("densenet", seed)
    x = g.input("images", "N", 3, image, image)
    with g.scope("features"):
        x = g.node("Relu", g.batch_norm("norm0", g.conv("conv0", x, 3, stem, 3), stem))
        x = g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        width = stem
        for block, count in enumerate(layers, 1):
            if block > 1:
                with g.scope(f"transition{block - 1}"):
                    x = _norm_relu_conv(g, "norm", "conv", x, width, width // 2, 1)
                    x = g.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
                width //= 2
            with g.scope(f"denseblock{block}"):
                x = _dense_block(g, x, width, count, growth, bottleneck * growth)
            width += count * growth
        x = g.node("Relu", g.batch_norm("norm5", x, width))
    g.output(g.pool_head("classifier", x, width, classes), "logits", "N", classes)
    return g.model()


def _dense_block(g: Graph, x: str, width: int, layers: int, growth: int, inner: int) -> str:
    features = [x]
    for i in range(layers):
        with g.scope(f"denselayer{i + 1}"):
            # torchvision concatenates anew for each layer rather than extending one tensor.
            y = g.node("Concat", *features, axis=1) if i else x
            y = _norm_relu_conv(g, "norm1", "conv1", y, width + i * growth, inner, 1)
            features.append(_norm_relu_conv(g, "norm2", "conv2", y, inner, growth, 3))
    return g.node("Concat", *features, axis=1)


def _norm_relu_conv(
    g: Graph, norm: str, conv: str, x: str, inputs: int, outputs: int, k: int
) -> str:
    return g.conv(conv, g.node("Relu", g.batch_norm(norm, x, inputs)), inputs, outputs, k)
