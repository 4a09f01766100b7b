"""ShuffleNetV2: split, transform one half, concat, shuffle (Ma et al. 2018, arXiv:1807.11164).

The shuffle is Reshape to [n, 2, c / 2, h, w], Transpose, Reshape: it interleaves two runs, and the
next unit's Split cuts through the interleaving, so the channels of a stage hang together by
parity. Free: each branch's first convolution with its depthwise follower; the stage's channels as
far as the shuffles leave a consistent choice; the last 1x1 convolution. Pinned: the image
channels, the factor 2 of the shuffle, the classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from models.graph import Graph


def build(
    seed: int = 0,
    *,
    stem: int = 32,
    widths: Sequence[int] = (64, 128),
    units: int = 3,
    last: int = 192,
    image: int = 32,
    classes: int = 10,
) -> onnx.ModelProto:
    """[N, 3, image, image] -> [N, classes]; one stage per width, each halving the image."""
    g = Graph("shufflenet", seed)
    x = g.input("images", "N", 3, image, image)
    x = g.node("Relu", g.conv_bn("conv1", x, 3, stem, 3))
    inputs, size = stem, image
    for stage, width in enumerate(widths, 2):
        size //= 2
        for i in range(units):
            with g.scope(f"stage{stage}.{i}"):
                if i == 0:
                    halves = _downsampling_halves(g, x, inputs, width // 2)
                else:
                    left, right = g.split(x, [width // 2] * 2, axis=1)
                    halves = left, _branch(g, "branch2", right, width // 2, width // 2, 1)
                x = _shuffle(g, g.node("Concat", *halves, axis=1), width, size)
        inputs = width
    x = g.node("Relu", g.conv_bn("conv5", x, inputs, last))
    g.output(g.pool_head("fc", x, last, classes), "logits", "N", classes)
    return g.model()


def _downsampling_halves(g: Graph, x: str, inputs: int, half: int) -> tuple[str, str]:
    with g.scope("branch1"):
        left = g.conv("0", x, inputs, inputs, 3, stride=2, groups=inputs, gain=1.0)
        left = g.batch_norm("1", left, inputs)
        left = g.node("Relu", g.batch_norm("3", g.conv("2", left, inputs, half), half))
    return left, _branch(g, "branch2", x, inputs, half, 2)


def _branch(g: Graph, name: str, x: str, inputs: int, half: int, stride: int) -> str:
    with g.scope(name):
        x = g.node("Relu", g.batch_norm("1", g.conv("0", x, inputs, half), half))
        x = g.conv("3", x, half, half, 3, stride=stride, groups=half, gain=1.0)
        x = g.batch_norm("4", x, half)
        return g.node("Relu", g.batch_norm("6", g.conv("5", x, half, half), half))


def _shuffle(g: Graph, x: str, channels: int, size: int) -> str:
    x = g.reshape(x, -1, 2, channels // 2, size, size)
    return g.reshape(g.transpose(x, 0, 2, 1, 3, 4), -1, channels, size, size)
