"""Operators that onnxruntime has no kernel for on the CPU, in numpy: what their schemas say.

Rules are proved on them like on any other operator. Where another operator computes the same of
operands in another order, onnxruntime computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from onnxprune.runtime import run, session
from onnxprune.tables import operator_name

Array = NDArray[Any]
Reference = Callable[..., Array | tuple[Array | None, ...]]

REFERENCES: dict[str, Reference] = {}
_MS = "com.microsoft."


def computed(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array] | None:
    """The outputs of a model of one node; None where there is no reference for it."""
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    if len(nodes) != 1:
        return None
    (node,) = nodes
    reference = REFERENCES.get(operator_name(node.domain, node.op_type))
    if reference is None:
        return None
    values = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    values.update(feeds)
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    given = {key: x.decode() if isinstance(x, bytes) else x for key, x in given.items()}
    made = reference(*[values.get(name) for name in node.input], **given)
    outputs = made if isinstance(made, tuple) else (made,)
    return {
        name: np.asarray(x)
        for name, x in zip(node.output, outputs, strict=False)
        if name and x is not None
    }


def reference(*names: str) -> Callable[[Reference], Reference]:
    """A function is what these operators compute, of their operands and attributes."""

    def register(function: Reference) -> Reference:
        REFERENCES.update(dict.fromkeys(names, function))
        return function

    return register


def runtime(name: str, *operands: Array | None, outputs: int = 1, **given: Any) -> list[Array]:
    """What onnxruntime gives for one node."""
    from tests.equivariance import one

    domain, _, op_type = name.rpartition(".")
    case = one(op_type, *operands, outputs=outputs, domain=domain, **given)
    return list(run(session(case.model, optimize=False), case.feeds).values())


def softmax(x: Array, axis: int = -1) -> Array:
    y = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(y / y.sum(axis, keepdims=True))


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def normalised(x: Array, axes: tuple[int, ...], epsilon: float = 1e-5) -> Array:
    x = x - x.mean(axes, keepdims=True)
    return np.asarray(x / np.sqrt((x**2).mean(axes, keepdims=True) + epsilon))


# -- pointwise -----------------------------------------------------------------------------------


@reference("MemcpyFromHost", "MemcpyToHost")
def _copy(x: Array) -> Array:
    return x


@reference("SwiGLU")
def _swiglu(a: Array, b: Array, alpha: float = 1.0) -> Array:
    return np.asarray(a * sigmoid(alpha * a) * b)


@reference(_MS + "BiasAdd")
def _bias_add(x: Array, bias: Array, skip: Array) -> Array:
    return np.asarray(x + bias + skip)


@reference(_MS + "BiasSoftmax")
def _bias_softmax(x: Array, bias: Array, axis: int = 1, is_inner_broadcast: int = 1) -> Array:
    return softmax(x + bias, axis)


@reference(_MS + "MulInteger")
def _mul_integer(a: Array, ap: Array | None, b: Array, bp: Array | None = None) -> Array:
    x, y = (
        codes.astype(np.int32) - (0 if point is None else point.astype(np.int32))
        for codes, point in ((a, ap), (b, bp))
    )
    return np.asarray(x * y)


@reference(_MS + "ReduceSumInteger")
def _sum_integer(x: Array, axes: list[int], keepdims: int = 1) -> Array:
    return np.asarray(x.astype(np.int32).sum(tuple(axes), keepdims=bool(keepdims), dtype=np.int32))


@reference(_MS + "QLinearReduceMean")
def _mean(
    x: Array, s: Array, p: Array, t: Array, q: Array, axes: list[int], keepdims: int = 1
) -> Array:
    real = (x.astype(np.float64) - p).mean(tuple(axes), keepdims=bool(keepdims)) * float(s)
    # A sum in another order is another number: a little less than half is rounded down.
    return np.clip(np.round(real / t - 1e-6) + q, 0, 255).astype(np.uint8)


# -- products and convolutions -------------------------------------------------------------------


@reference(_MS + "GemmFastGelu")
def _gemm_fast_gelu(x: Array, w: Array, bias: Array | None = None) -> Array:
    y = x @ w + (0 if bias is None else bias)
    return np.asarray(0.5 * y * (1 + np.tanh(0.7978845608 * (y + 0.044715 * y**3))))


@reference(_MS + "FusedMatMulActivation")
def _matmul_activation(
    a: Array, b: Array, activation: str, activation_axis: int = -1, **given: Any
) -> Array:
    y = runtime(_MS + "FusedMatMul", a, b, **given)[0]
    return softmax(y, activation_axis) if activation == "Softmax" else runtime(activation, y)[0]


@reference(_MS + "NhwcConv", _MS + "NhwcFusedConv")
def _channels_last(
    x: Array, w: Array, bias: Array | None = None, z: Array | None = None, **given: Any
) -> Array:
    # Kernels are [out, in / group, ...], as those of Conv.
    y = np.moveaxis(runtime("Conv", np.moveaxis(x, -1, 1), w, bias, **given)[0], 1, -1)
    return y if z is None else np.asarray(y + z)


@reference("CausalConvWithState", _MS + "CausalConvWithState")
def _causal_conv(
    x: Array,
    w: Array,
    bias: Array | None = None,
    past: Array | None = None,
    state_window: int = 0,
    **given: Any,
) -> tuple[Array | None, ...]:
    """`state_window`: states after each of the last steps, `[window, n, c, k - 1]`."""
    size = w.shape[-1] - 1
    begin = past[-1] if past is not None and state_window else past
    before = np.zeros((*x.shape[:-1], size), x.dtype) if begin is None else begin
    whole = np.concatenate([before, x], -1)
    y = runtime("Conv", whole, w, bias, group=x.shape[1])[0]
    ends = [whole.shape[-1] - i for i in reversed(range(state_window or 1))]
    states = np.stack([whole[..., end - size : end] for end in ends])
    return y, states if state_window else states[0]


@reference(_MS + "MatMulNBitsMlp")
def _mlp(
    a: Array,
    skip: Array | None,
    norm: Array | None,
    *layers: Array | None,
    N: int,
    activation: str,
    **given: Any,
) -> tuple[Array | None, ...]:
    gate, up, together = _projected(a, skip, norm, layers, (N, N), given)
    assert activation == "silu"
    return gate * sigmoid(gate) * up, together


@reference(_MS + "MatMulNBitsQkv")
def _qkv(
    a: Array,
    skip: Array | None,
    norm: Array | None,
    *layers: Array | None,
    Nq: int,
    Nkv: int,
    **given: Any,
) -> tuple[Array | None, ...]:
    return _projected(a, skip, norm, layers, (Nq, Nkv, Nkv), given)


def _projected(
    a: Array,
    skip: Array | None,
    norm: Array | None,
    layers: tuple[Array | None, ...],
    sizes: tuple[int, ...],
    given: dict[str, Any],
) -> tuple[Array, ...]:
    """Each layer's product of codes, and what they all read before it was normalised."""
    x = together = a if skip is None else a + skip
    if norm is not None:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + given.pop("epsilon", 1e-5)) * norm
    found = []
    for i, size in enumerate(sizes):
        weight, scales, bias = (*layers, None, None, None)[3 * i : 3 * i + 3]
        y = runtime(_MS + "MatMulNBits", x, weight, scales, N=size, **given)[0]
        found.append(y if bias is None else y + bias)
    return *found, together


# -- attention -----------------------------------------------------------------------------------


def _attended(q: Array, k: Array, v: Array, scale: float = 0.0) -> Array:
    """`[t, h, d]`, `[u, h, d]`, `[u, h, e]` -> `[t, h e]`."""
    scores = np.einsum("thd,uhd->htu", q, k) * (scale or q.shape[-1] ** -0.5)
    found = np.einsum("htu,uhe->the", softmax(scores), v)
    return found.reshape(len(q), -1)


def _packed(q: Array, k: Array, v: Array, ends: Array, heads: int, scale: float = 0.0) -> Array:
    """Sequences one after the other, each of which looks at itself alone."""
    found = []
    for start, end in pairwise(ends):
        found.append(
            _attended(*(x[start:end].reshape(end - start, heads, -1) for x in (q, k, v)), scale)
        )
    return np.concatenate(found)


@reference(_MS + "PackedAttention")
def _packed_attention(
    x: Array,
    w: Array,
    bias: Array | None,
    _: Array,
    ends: Array,
    num_heads: int,
    qkv_hidden_sizes: list[int] | None = None,
    scale: float = 0.0,
) -> Array:
    y = x @ w + (0 if bias is None else bias)
    sizes = qkv_hidden_sizes or [y.shape[-1] // 3] * 3
    q, k, v = np.split(y, np.cumsum(sizes)[:-1], -1)
    return _packed(q, k, v, ends, num_heads, scale)


@reference(_MS + "PackedMultiHeadAttention")
def _packed_multi_head(
    q: Array,
    k: Array | None,
    v: Array | None,
    bias: Array | None,
    _: Array,
    ends: Array,
    num_heads: int,
    scale: float = 0.0,
) -> Array:
    if k is None or v is None:  # [t, h, 3, d]
        q, k, v = (q[:, :, i].reshape(len(q), -1) for i in range(3))
    if bias is not None:
        parts = np.split(bias, np.cumsum([q.shape[-1], k.shape[-1]]))
        q, k, v = (x + part for x, part in zip((q, k, v), parts, strict=True))
    return _packed(q, k, v, ends, num_heads, scale)


@reference(_MS + "MultiHeadAttention")
def _packed_keys(
    q: Array,
    k: Array | None = None,
    v: Array | None = None,
    *more: Array | None,
    num_heads: int,
    scale: float = 0.0,
) -> Array:
    assert not any(each is not None for each in more)
    if k is None:  # [n, t, h, 3, d]
        q, k, v = (q[..., i, :].reshape(*q.shape[:2], -1) for i in range(3))
    elif v is None:  # [n, u, h, 2, d]
        k, v = (k[..., i, :].reshape(*k.shape[:2], -1) for i in range(2))
    given = {"scale": scale} if scale else {}
    return runtime(_MS + "MultiHeadAttention", q, k, v, num_heads=num_heads, **given)[0]


@reference("LinearAttention")
def _linear_attention(*operands: Array | None, **given: Any) -> tuple[Array | None, ...]:
    return tuple(runtime(_MS + "LinearAttention", *operands, outputs=2, **given))


@reference(_MS + "GemmaRotaryEmbedding")
def _gemma_rotary(angles: Array, *heads: Array) -> tuple[Array | None, ...]:
    sin, cos = np.sin(angles)[:, None], np.cos(angles)[:, None]
    q, q_turned, k, k_turned = heads
    return q * cos + q_turned * sin, k * cos + k_turned * sin


@reference(_MS + "RelativePositionBias")
def _relative_position(
    table: Array, queries: Array, keys: Array, max_distance: int, is_bidirectional: int = 0
) -> Array:
    """The bucket of a distance: each its own, where T5 has wider ones for those far away."""
    far = np.arange(int(keys[0])) - np.arange(int(queries[0]))[:, None]
    return table[np.clip(far, -5, 5) + 5].transpose(2, 0, 1)[None]


@reference(_MS + "GatedRelativePositionBias")
def _gated_position(
    query: Array,
    query_bias: Array,
    position: Array,
    weight: Array,
    bias: Array,
    eco: Array,
    _: Array | None = None,
    *,
    num_heads: int,
) -> Array:
    n, t, _size = query.shape
    q = (query + query_bias).reshape(n, t, num_heads, -1).transpose(0, 2, 1, 3)
    gates = sigmoid((q @ weight + bias).reshape(n, num_heads, t, 2, -1).sum(-1))
    u, r = gates[..., :1], gates[..., 1:]
    return np.asarray((u * (r * eco - 1) + 2) * position)


# -- normalisation and experts -------------------------------------------------------------------


@reference(_MS + "GroupNorm")
def _group_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    groups: int,
    activation: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
) -> Array:
    first = np.moveaxis(x, -1, 1) if channels_last else x
    n, c, *spatial = first.shape
    y = normalised(first.reshape(n, groups, -1), (2,), epsilon).reshape(n, c, *spatial)
    y = y * gamma.reshape(-1, *[1] * len(spatial)) + beta.reshape(-1, *[1] * len(spatial))
    y = y * sigmoid(y) if activation else y
    return np.moveaxis(y, 1, -1) if channels_last else y


@reference(_MS + "SkipGroupNorm")
def _skip_group_norm(
    x: Array, gamma: Array, beta: Array, skip: Array, bias: Array | None = None, **given: Any
) -> tuple[Array | None, ...]:
    if skip.ndim == 2:
        skip = skip[:, None, None]
    together = x + skip + (0 if bias is None else bias)
    return np.asarray(_group_norm(together, gamma, beta, **given)), together


@reference(_MS + "MoE")
def _experts(
    x: Array,
    router: Array,
    w1: Array,
    b1: Array | None,
    w2: Array,
    b2: Array | None,
    w3: Array | None = None,
    b3: Array | None = None,
    k: int = 1,
    activation_type: str = "silu",
    swiglu_fusion: int = 0,
) -> Array:
    found = np.zeros_like(x)
    for i, row in enumerate(x):
        best = np.argsort(-router[i])[:k]
        shares = softmax(router[i])[best]
        for share, e in zip(shares, best, strict=True):
            y = w1[e] @ row + (0 if b1 is None else b1[e])
            if swiglu_fusion:
                gate, value = np.split(y, 2)
                y = gate * sigmoid(gate) * (value + 1)
            else:
                y = y * sigmoid(y)
            if w3 is not None:
                y = y * (w3[e] @ row + (0 if b3 is None else b3[e]))
            found[i] += share * (w2[e] @ y + (0 if b2 is None else b2[e]))
    return found


# -- rows ----------------------------------------------------------------------------------------


@reference(_MS + "TorchEmbedding")
def _embedding(weight: Array, indices: Array, *_: Array) -> Array:
    return weight[indices]


@reference(_MS + "RemovePadding")
def _remove_padding(x: Array, counts: Array) -> tuple[Array | None, ...]:
    n, t, c = x.shape
    real = (np.arange(t) < counts[:, None]).reshape(-1)
    offsets = np.concatenate([np.flatnonzero(real), np.flatnonzero(~real)]).astype(np.int32)
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    longest = np.array([counts.max()], np.int32)
    return x.reshape(n * t, c)[real], offsets.reshape(n, t), ends, longest


@reference(_MS + "RestorePadding")
def _restore_padding(x: Array, offsets: Array) -> Array:
    found = np.zeros((offsets.size, x.shape[-1]), x.dtype)
    found[offsets.reshape(-1)[: len(x)]] = x
    return found.reshape(*offsets.shape, -1)
