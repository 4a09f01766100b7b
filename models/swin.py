"""Swin: attention within shifted windows (Liu et al. 2021, arXiv:2103.14030).

Windows are cut and put back by Reshape and Transpose, the shift is a roll (Slice and Concat), each
head adds a bias from a relative position table, and patch merging concatenates four strided
slices. Free: each stage's residual stream (statistical; four equal runs in the merging), heads
(with their column of the table) and head_dim, the feed-forward widths. Pinned: image channels,
space and windows, classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from models.attention import self_attention
from models.graph import Graph

END = np.iinfo(np.int64).max  # "to the end", as the exporter writes x[start:]


def build(
    seed: int = 0,
    *,
    widths: Sequence[int] = (32, 64),
    head_dim: int = 16,
    inner: Sequence[int] = (112, 208),
    image: int = 32,
    patch: int = 2,
    window: int = 4,
    classes: int = 10,
) -> onnx.ModelProto:
    """[N, 3, image, image] -> [N, classes]; each stage one plain and one shifted block."""
    g = Graph("swin", seed)
    x = g.input("images", "N", 3, image, image)
    with g.scope("features.0"):
        x = g.conv("0", x, 3, widths[0], patch, stride=patch, pad=0, bias=True, gain=1.0)
        x = g.layer_norm("2", g.transpose(x, 0, 2, 3, 1), widths[0])
    size = image // patch
    for stage, width in enumerate(widths):
        if stage:
            with g.scope(f"features.{2 * stage}"):
                x = _merge_patches(g, x, widths[stage - 1], width)
            size //= 2
        for i, shift in enumerate((0, window // 2)):
            with g.scope(f"features.{2 * stage + 1}.{i}"):
                y = g.layer_norm("norm1", x, width)
                x = g.node("Add", x, _window_attention(g, y, size, width, head_dim, window, shift))
                y = g.mlp("mlp", g.layer_norm("norm2", x, width), width, inner[stage])
                x = g.node("Add", x, y)
    x = g.transpose(g.layer_norm("norm", x, widths[-1]), 0, 3, 1, 2)
    g.output(g.pool_head("head", x, widths[-1], classes), "logits", "N", classes)
    return g.model()


def _window_attention(
    g: Graph, x: str, size: int, width: int, head_dim: int, window: int, shift: int
) -> str:
    """[n, size, size, width] -> the same shape."""
    heads, tokens, side = width // head_dim, window * window, size // window
    with g.scope("attn"):
        bias = _position_bias(g, window, heads)
    mask = g.constant(_shift_mask(size, window, shift)) if shift else ""

    def adjust(scores: str) -> str:
        scores = g.node("Add", scores, bias)
        if shift:
            scores = g.reshape(scores, -1, side * side, heads, tokens, tokens)
            scores = g.reshape(g.node("Add", scores, mask), -1, heads, tokens, tokens)
        return scores

    x = _roll(g, x, shift)
    x = g.reshape(x, -1, side, window, side, window, width)
    x = g.reshape(g.transpose(x, 0, 1, 3, 2, 4, 5), -1, tokens, width)
    x = self_attention(
        g,
        "attn",
        x,
        batch=-1,
        tokens=tokens,
        width=width,
        heads=heads,
        head_dim=head_dim,
        adjust=adjust,
    )
    x = g.reshape(x, -1, side, side, window, window, width)
    x = g.reshape(g.transpose(x, 0, 1, 3, 2, 4, 5), -1, size, size, width)
    return _roll(g, x, -shift)


def _roll(g: Graph, x: str, shift: int) -> str:
    """torch.roll by -shift along both spatial axes of [n, h, w, c]."""
    for axis in (1, 2) if shift else ():
        parts = g.slice(x, axis, shift, END), g.slice(x, axis, 0, shift)
        x = g.node("Concat", *parts, axis=axis)
    return x


def _position_bias(g: Graph, window: int, heads: int) -> str:
    """A learned row of [heads] for every offset in a window -> [1, heads, tokens, tokens]."""
    tokens = window * window
    table = g.random("relative_position_bias_table", (2 * window - 1) ** 2, heads, scale=0.5)
    cells = np.stack(np.meshgrid(*[np.arange(window)] * 2, indexing="ij")).reshape(2, -1)
    rows, columns = cells[:, :, None] - cells[:, None, :] + window - 1
    index = g.parameter("relative_position_index", (rows * (2 * window - 1) + columns).reshape(-1))
    bias = g.reshape(g.node("Gather", table, index, axis=0), tokens, tokens, heads)
    return g.node("Unsqueeze", g.transpose(bias, 2, 0, 1), g.ints(0))


def _shift_mask(size: int, window: int, shift: int) -> np.ndarray:
    """[1, windows, 1, tokens, tokens]: -100 between cells that only the roll made neighbours."""
    # Along one axis a rolled image has three regions: whole windows, and two parts of the last.
    position = np.arange(size)
    region = (position >= size - window).astype(int) + (position >= size - shift)
    cells = (3 * region[:, None] + region).reshape(size // window, window, size // window, window)
    cells = cells.transpose(0, 2, 1, 3).reshape(-1, window * window)
    foreign = cells[:, :, None] != cells[:, None, :]
    return np.where(foreign, -100, 0).astype(np.float32)[None, :, None]


def _merge_patches(g: Graph, x: str, inputs: int, outputs: int) -> str:
    """[n, h, w, inputs] -> [n, h / 2, w / 2, outputs]: each 2 x 2 cells become one."""
    corners = []
    for column in (0, 1):
        for row in (0, 1):
            rows = g.slice(x, 1, row, END, 2)
            corners.append(g.slice(rows, 2, column, END, 2))
    x = g.layer_norm("norm", g.node("Concat", *corners, axis=-1), 4 * inputs)
    return g.matmul("reduction", x, 4 * inputs, outputs, bias=False)
