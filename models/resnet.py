"""ResNet: residual blocks of two 3x3 convolutions (He et al. 2016, arXiv:1512.03385).

Free: each block's inner channels, and each stage's residual stream: one dim through every Add of
the stage, its projection shortcut, and the first block of the next stage. Pinned: the image
channels and the classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from models.graph import Graph


def build(
    seed: int = 0,
    *,
    widths: Sequence[int] = (16, 32, 64),
    blocks: int = 2,
    image: int = 32,
    classes: int = 10,
) -> onnx.ModelProto:
    """[N, 3, image, image] -> [N, classes]; one stage per width, each after the first halving."""
    g = Graph("resnet", seed)
    x = g.input("images", "N", 3, image, image)
    x = g.node("Relu", g.batch_norm("bn1", g.conv("conv1", x, 3, widths[0], 3), widths[0]))
    inputs = widths[0]
    for stage, width in enumerate(widths, 1):
        for i in range(blocks):
            with g.scope(f"layer{stage}.{i}"):
                x = _block(g, x, inputs, width, stride=2 if stage > 1 and i == 0 else 1)
            inputs = width
    g.output(g.pool_head("fc", x, inputs, classes), "logits", "N", classes)
    return g.model()


def _block(g: Graph, x: str, inputs: int, outputs: int, stride: int) -> str:
    y = g.conv("conv1", x, inputs, outputs, 3, stride=stride)
    y = g.node("Relu", g.batch_norm("bn1", y, outputs))
    y = g.batch_norm("bn2", g.conv("conv2", y, outputs, outputs, 3, gain=1.0), outputs)
    if stride != 1 or inputs != outputs:
        x = g.conv_bn("downsample", x, inputs, outputs, stride=stride, gain=1.0)
    return g.node("Relu", g.node("Add", y, x))
