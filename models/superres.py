"""ESPCN: sub-pixel convolution for super-resolution (Shi et al. 2016, arXiv:1609.05158).

Enlarges four times in two steps of two, as SRResNet does, so that one DepthToSpace stands inside
the network. Free: the feature convolutions, and the channels after the first DepthToSpace, whose
input axis is channels x 4 sub-pixels. Pinned: the image channels, the four sub-pixels, and the
last convolution, whose channels become the image. The image size is dynamic.
"""

from __future__ import annotations

import onnx

from models.graph import Graph


def build(
    seed: int = 0, *, width: int = 64, narrow: int = 32, upsampled: int = 16, channels: int = 3
) -> onnx.ModelProto:
    """[N, channels, height, width] -> [N, channels, 4 * height, 4 * width]."""
    g = Graph("superres", seed)
    x = g.input("images", "N", channels, "height", "width")
    x = g.node("Tanh", g.conv("conv1", x, channels, width, 5, bias=True, gain=1.0))
    x = g.node("Relu", g.conv("conv2", x, width, width, 3, bias=True))
    x = g.node("Relu", g.conv("conv3", x, width, narrow, 3, bias=True))
    x = _upsample(g, "upsample1", x, narrow, upsampled)
    x = g.node("Relu", x)
    x = _upsample(g, "upsample2", x, upsampled, channels)
    g.output(x, "enlarged", "N", channels, "height4", "width4")
    return g.model()


def _upsample(g: Graph, name: str, x: str, inputs: int, outputs: int) -> str:
    with g.scope(name):
        x = g.conv("conv", x, inputs, 4 * outputs, 3, bias=True)
        # CRD is the order of torch.nn.PixelShuffle: channels outside, sub-pixels inside.
        return g.node("DepthToSpace", x, blocksize=2, mode="CRD")
