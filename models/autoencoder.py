"""A convolutional autoencoder with a dense bottleneck (Masci et al. 2011, ICANN).

Flatten merges channels x height x width into one axis, so that a channel owns a block of columns
of the first Gemm; the second Gemm's rows return to [n, c, h, w] through a Reshape that names the
channel count. Free: the channels on both sides, the latent code. Pinned: image channels, space.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from models.graph import RELU_GAIN, Graph


def build(
    seed: int = 0,
    *,
    widths: Sequence[int] = (16, 32, 64),
    latent: int = 48,
    image: int = 32,
    channels: int = 1,
) -> onnx.ModelProto:
    """[N, channels, image, image] -> the same shape; every width halves the image."""
    g = Graph("autoencoder", seed)
    x = g.input("images", "N", channels, image, image)
    inputs, size = channels, image
    with g.scope("encoder"):
        for i, width in enumerate(widths):
            x = g.node("Relu", g.conv(f"{2 * i}", x, inputs, width, 3, stride=2, bias=True))
            inputs, size = width, size // 2
        x = g.node("Flatten", x, axis=1)
        x = g.linear("fc", x, inputs * size * size, latent)
    with g.scope("decoder"):
        x = g.node("Relu", g.linear("fc", x, latent, inputs * size * size, gain=RELU_GAIN))
        x = g.reshape(x, -1, inputs, size, size)
        for i, width in enumerate([*reversed(widths[:-1]), channels]):
            x = g.conv_transpose(f"{2 * i}", x, inputs, width)
            inputs = width
            if i + 1 < len(widths):
                x = g.node("Relu", x)
        x = g.node("Sigmoid", x)
    g.output(x, "reconstruction", "N", channels, image, image)
    return g.model()
