"""U-Net: an encoder and a decoder joined by concats (Ronneberger et al. 2015, arXiv:1505.04597).

Free: both convolutions of every level. An encoder level's output runs on downwards through
MaxPool and sideways into the decoder's concat, beside the run of the ConvTranspose that upsamples
the level below. Pinned: the image channels and the classes of the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from models.graph import Graph


def build(
    seed: int = 0,
    *,
    widths: Sequence[int] = (16, 32, 64),
    image: int = 32,
    classes: int = 4,
) -> onnx.ModelProto:
    """[N, 3, image, image] -> [N, classes, image, image]; one level per width."""
    g = Graph("unet", seed)
    x = g.input("images", "N", 3, image, image)
    skips: list[str] = []
    inputs = 3
    for level, width in enumerate(widths):
        if level:
            x = g.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = _double_conv(g, f"down{level}", x, inputs, width)
        skips.append(x)
        inputs = width
    for level in reversed(range(len(widths) - 1)):
        width = widths[level]
        x = g.conv_transpose(f"up{level}.up", x, inputs, width, gain=1.0)
        x = g.node("Concat", skips[level], x, axis=1)
        x = _double_conv(g, f"up{level}.conv", x, 2 * width, width)
        inputs = width
    x = g.conv("outc.conv", x, inputs, classes, bias=True, gain=1.0)
    g.output(x, "masks", "N", classes, image, image)
    return g.model()


def _double_conv(g: Graph, name: str, x: str, inputs: int, outputs: int) -> str:
    with g.scope(f"{name}.double_conv"):
        x = g.node("Relu", g.batch_norm("1", g.conv("0", x, inputs, outputs, 3), outputs))
        return g.node("Relu", g.batch_norm("4", g.conv("3", x, outputs, outputs, 3), outputs))
