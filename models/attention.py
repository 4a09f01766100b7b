"""Multi-head self-attention as the vision transformers write it: one fused projection to q, k, v.

Heads and head_dim are the two factors of one axis of the weights; q and k share a head_dim through
their product, v has its own through the output projection, and all three share the heads.
"""

from __future__ import annotations

from collections.abc import Callable

from models.graph import Graph, Size


def self_attention(
    g: Graph,
    name: str,
    x: str,
    *,
    batch: Size,
    tokens: int,
    width: int,
    heads: int,
    head_dim: int,
    adjust: Callable[[str], str] = lambda scores: scores,
) -> str:
    """[batch, tokens, width] -> the same shape; `adjust` edits scores before the softmax.

    `batch` is what Reshape gets for the first axis: -1, or the name of a size known at run time.
    """
    with g.scope(name):
        qkv = g.matmul("qkv", x, width, 3 * heads * head_dim)
        qkv = g.reshape(qkv, batch, tokens, 3, heads, head_dim)
        qkv = g.transpose(qkv, 2, 0, 3, 1, 4)
        q, k, v = (g.node("Gather", qkv, g.scalar(i), axis=0) for i in range(3))
        q = g.node("Mul", q, g.scalar(head_dim**-0.5))
        scores = adjust(g.node("MatMul", q, g.transpose(k, 0, 1, 3, 2)))
        mixed = g.node("MatMul", g.node("Softmax", scores, axis=-1), v)
        mixed = g.reshape(g.transpose(mixed, 0, 2, 1, 3), batch, tokens, heads * head_dim)
        return g.matmul("proj", mixed, heads * head_dim, width)
