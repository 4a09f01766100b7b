"""A decoder-only language model, as Llama (Touvron et al. 2023, arXiv:2302.13971).

RMSNorm written out (Pow, ReduceMean, Sqrt, Div, Mul), rotary positions (Su et al. 2021,
arXiv:2104.09864), grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) whose key and
value heads are repeated by Unsqueeze, Expand, Reshape, and a SiLU-gated feed-forward part. Free:
the residual stream (statistical; embedding to head), key and value heads with the query heads
that read them, head_dim (in q and k by rotary pairs, with the columns of the cos and sin tables),
the feed-forward width. Pinned: the vocabulary, the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from models.graph import Graph, Size


@dataclass(frozen=True)
class _Config:
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    sequence: int
    dynamic: bool


@dataclass(frozen=True)
class _Tables:
    """Tensors shared by all layers: rotary cos and sin [s, head_dim], causal mask [s, s]."""

    cos: str
    sin: str
    mask: str


def build(
    seed: int = 0,
    *,
    width: int = 96,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    inner: int = 176,
    depth: int = 2,
    vocabulary: int = 128,
    sequence: int = 24,
    dynamic_sequence: bool = False,
    graph: Graph | None = None,
) -> onnx.ModelProto:
    """int64 [N, sequence] -> [N, sequence, vocabulary].

    With `dynamic_sequence` the sequence axis is "S", at most `sequence` long: the tables are sliced
    and every Reshape and Expand gets a target computed by Shape, Gather and Concat. A `graph` that
    is given is built on: one that keeps its parameters elsewhere, say.
    """
    c = _Config(width, heads, kv_heads, head_dim, inner, sequence, dynamic_sequence)
    g = graph or Graph("decoder", seed)
    s: Size = "S" if dynamic_sequence else sequence
    tokens = g.input("tokens", "N", s, dtype=TensorProto.INT64)
    with g.scope("model"):
        x = g.node("Gather", g.random("embed_tokens.weight", vocabulary, width), tokens, axis=0)
        tables = _tables(g, tokens, c)
        for i in range(depth):
            with g.scope(f"layers.{i}"):
                y = _rms_norm(g, "input_layernorm", x, width)
                x = g.node("Add", x, _attention(g, y, c, tables))
                y = _rms_norm(g, "post_attention_layernorm", x, width)
                x = g.node("Add", x, _gated_mlp(g, y, width, inner))
        x = _rms_norm(g, "norm", x, width)
    x = g.matmul("lm_head", x, width, vocabulary, bias=False)
    g.output(x, "logits", "N", s, vocabulary)
    return g.model()


def _tables(g: Graph, tokens: str, c: _Config) -> _Tables:
    frequency = 10000.0 ** (-np.arange(0, c.head_dim, 2) / c.head_dim)
    angle = np.tile(np.outer(np.arange(c.sequence), frequency), 2)  # both halves: one angle a pair
    cos = g.parameter("rotary_emb.cos", np.cos(angle))
    sin = g.parameter("rotary_emb.sin", np.sin(angle))
    future = np.triu(np.full((c.sequence, c.sequence), np.finfo(np.float32).min, np.float32), 1)
    mask = g.constant(future)
    if c.dynamic:
        length = g.size(tokens, 1)
        cos, sin = (g.slice(table, 0, 0, length) for table in (cos, sin))
        mask = g.slice(g.slice(mask, 0, 0, length), 1, 0, length)
    return _Tables(cos, sin, mask)


def _rms_norm(g: Graph, name: str, x: str, width: int) -> str:
    with g.scope(name):
        square = g.node("Pow", x, g.scalar(2.0))
        mean = g.node("ReduceMean", square, axes=[-1], keepdims=1)
        root = g.node("Sqrt", g.node("Add", mean, g.scalar(1e-6)))
        weight = g.parameter("weight", g.rng.uniform(0.5, 1.5, width))
        return g.node("Mul", weight, g.node("Div", x, root))


def _attention(g: Graph, x: str, c: _Config, tables: _Tables) -> str:
    with g.scope("self_attn"):
        # Each layer reads the sizes from its own input, as a traced q_len = x.shape[1] does.
        batch: Size = g.size(x, 0) if c.dynamic else -1
        length: Size = g.size(x, 1) if c.dynamic else c.sequence

        def project(name: str, heads: int) -> str:
            y = g.matmul(name, x, c.width, heads * c.head_dim, bias=False)
            return g.transpose(g.reshape(y, batch, length, heads, c.head_dim), 0, 2, 1, 3)

        def repeat(y: str) -> str:
            """[n, kv_heads, s, d] -> [n, heads, s, d], each head beside its copies."""
            copies = c.heads // c.kv_heads
            y = g.node("Unsqueeze", y, g.ints(2))
            first = batch if c.dynamic else 1  # Expand has no -1; a 1 leaves the axis as it is
            y = g.node("Expand", y, g.shape(first, c.kv_heads, copies, length, c.head_dim))
            return g.reshape(y, batch, c.heads, length, c.head_dim)

        q = _rotate(g, project("q_proj", c.heads), c.head_dim, tables)
        k = repeat(_rotate(g, project("k_proj", c.kv_heads), c.head_dim, tables))
        v = repeat(project("v_proj", c.kv_heads))
        scores = g.node("MatMul", q, g.transpose(k, 0, 1, 3, 2))
        scores = g.node("Mul", scores, g.scalar(c.head_dim**-0.5))
        scores = g.node("Softmax", g.node("Add", scores, tables.mask), axis=-1)
        y = g.transpose(g.node("MatMul", scores, v), 0, 2, 1, 3)
        y = g.reshape(y, batch, length, c.heads * c.head_dim)
        return g.matmul("o_proj", y, c.heads * c.head_dim, c.width, bias=False)


def _rotate(g: Graph, x: str, head_dim: int, tables: _Tables) -> str:
    """x * cos + (-b, a) * sin, where (a, b) are the halves of x's last axis."""
    half = head_dim // 2
    a, b = g.slice(x, 3, 0, half), g.slice(x, 3, half, head_dim)
    turned = g.node("Concat", g.node("Neg", b), a, axis=-1)
    return g.node("Add", g.node("Mul", x, tables.cos), g.node("Mul", turned, tables.sin))


def _gated_mlp(g: Graph, x: str, width: int, inner: int) -> str:
    with g.scope("mlp"):
        gate = g.matmul("gate_proj", x, width, inner, bias=False)
        gate = g.node("Mul", gate, g.node("Sigmoid", gate))
        up = g.matmul("up_proj", x, width, inner, bias=False)
        return g.matmul("down_proj", g.node("Mul", gate, up), inner, width, bias=False)
