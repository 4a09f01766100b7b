"""MobileNetV2: inverted residuals, depthwise convolution (Sandler et al. 2018, arXiv:1801.04381).

Relu6 is a Clip with its bounds as inputs. Free: each expansion (one dim through the depthwise
convolution, whose `group` follows it), each stage's linear residual stream, the stem and the last
1x1 convolution. Pinned: the image channels and the classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from models.graph import Graph


def build(
    seed: int = 0,
    *,
    stem: int = 16,
    widths: Sequence[int] = (32, 48, 64),
    expansion: int = 4,
    blocks: int = 2,
    last: int = 160,
    image: int = 32,
    classes: int = 10,
) -> onnx.ModelProto:
    """[N, 3, image, image] -> [N, classes]; one stage per width, each after the first halving."""
    g = Graph("mobilenet", seed)
    x = g.input("images", "N", 3, image, image)
    with g.scope("features"):
        x = _relu6(g, g.conv_bn("0", x, 3, stem, 3, stride=2))
        inputs, index = stem, 1
        for stage, width in enumerate(widths):
            for i in range(blocks):
                with g.scope(f"{index}.conv"):
                    stride = 2 if stage and i == 0 else 1
                    x = _inverted_residual(g, x, inputs, width, expansion, stride)
                inputs, index = width, index + 1
        x = _relu6(g, g.conv_bn(str(index), x, inputs, last))
    g.output(g.pool_head("classifier.1", x, last, classes), "logits", "N", classes)
    return g.model()


def _relu6(g: Graph, x: str) -> str:
    return g.node("Clip", x, g.scalar(0.0), g.scalar(6.0))


def _inverted_residual(
    g: Graph, x: str, inputs: int, outputs: int, expansion: int, stride: int
) -> str:
    inner = expansion * inputs
    y = _relu6(g, g.conv_bn("0", x, inputs, inner))
    y = _relu6(g, g.conv_bn("1", y, inner, inner, 3, stride=stride, groups=inner))
    y = g.batch_norm("3", g.conv("2", y, inner, outputs, gain=1.0), outputs)
    return g.node("Add", x, y) if stride == 1 and inputs == outputs else y
