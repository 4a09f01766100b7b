"""ViT: a transformer over image patches (Dosovitskiy et al. 2021, arXiv:2010.11929).

Pre-LayerNorm, class token, learned positions, GELU by Erf, one fused q, k, v projection. Free: the
residual stream (statistical: LayerNormalization; one dim from the patch convolution, class token
and positions through every block), heads and head_dim, the feed-forward width. Pinned: image
channels, tokens, the factor 3 of q, k, v, classes.
"""

from __future__ import annotations

import onnx

from models.attention import self_attention
from models.graph import Graph


def build(
    seed: int = 0,
    *,
    width: int = 64,
    heads: int = 4,
    head_dim: int = 16,
    inner: int = 160,
    depth: int = 3,
    image: int = 24,
    patch: int = 4,
    classes: int = 10,
) -> onnx.ModelProto:
    """[N, 3, image, image] -> [N, classes]."""
    g = Graph("vit", seed)
    images = g.input("images", "N", 3, image, image)
    patches = (image // patch) ** 2
    batch = g.size(images, 0)  # a traced x.shape[0]: reaches Reshape and Expand through Concat
    with g.scope("patch_embed"):
        x = g.conv("proj", images, 3, width, patch, stride=patch, pad=0, bias=True, gain=1.0)
        x = g.transpose(g.reshape(x, batch, width, patches), 0, 2, 1)
    token = g.node("Expand", g.random("cls_token", 1, 1, width), g.shape(batch, 1, width))
    x = g.node("Concat", token, x, axis=1)
    x = g.node("Add", x, g.random("pos_embed", 1, patches + 1, width, scale=0.3))
    for i in range(depth):
        with g.scope(f"blocks.{i}"):
            y = g.layer_norm("norm1", x, width)
            y = self_attention(
                g,
                "attn",
                y,
                batch=batch,
                tokens=patches + 1,
                width=width,
                heads=heads,
                head_dim=head_dim,
            )
            x = g.node("Add", x, y)
            x = g.node("Add", x, g.mlp("mlp", g.layer_norm("norm2", x, width), width, inner))
    x = g.node("Gather", g.layer_norm("norm", x, width), g.scalar(0), axis=1)
    g.output(g.linear("head", x, width, classes), "logits", "N", classes)
    return g.model()
