"""Attention: onnxruntime's fusions and ONNX's own, all by one function over heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..table import Kernel, Spec, ints, operator

# -- parts ---------------------------------------------------------------------------------------


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    allowed: Tensor | None,
    scale: float,
    softcap: float = 0.0,
    sink: Tensor | None = None,
) -> Tensor:
    """Attention over `[b, heads, s, h]`; keys may have fewer heads, each for a run of queries'.

    Args:
        bias: added to the scores, broadcast to `[b, heads, s, t]`.
        allowed: False where a query may not look, broadcast to the same.
        sink: a score for each head that takes its share of the softmax, and has no value.
    """
    if k.shape[1] != q.shape[1]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        v = v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    if not softcap and sink is None and bias is None:
        # A query that may look nowhere gets zeros from torch, where infinities would make NaN.
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)
    if allowed is not None:
        barred = torch.zeros((), dtype=q.dtype, device=q.device).masked_fill(~allowed, -torch.inf)
        bias = barred if bias is None else bias + barred
    if not softcap and sink is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    scores = q @ k.mT * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if sink is None:
        return torch.softmax(scores, -1) @ v
    column = sink.reshape(1, -1, 1, 1).to(scores).expand(*scores.shape[:3], 1)
    return torch.softmax(torch.cat([scores, column], -1), -1)[..., :-1] @ v


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[b, s, heads * h]` -> `[b, heads, s, h]`."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """`[b, heads, s, h]` -> `[b, s, heads * h]`."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def causal(queries: int, keys: int, before: Any, device: torch.device) -> Tensor:
    """Which keys come no later: query i stands at `before + i`; `[queries, keys]` or per batch."""
    at = torch.arange(queries, device=device)[:, None] + before
    return torch.arange(keys, device=device) <= at


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """`x` `[b, heads, s, h]` turned by tables `[b or 1, s, r / 2]`; what is after r stays."""
    width = 2 * cos.shape[-1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turned, rest = x[..., :width], x[..., width:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned.chunk(2, -1)
    first, second = a * cos - b * sin, a * sin + b * cos
    if interleaved:
        y = torch.stack([first, second], -1).flatten(-2)
    else:
        y = torch.cat([first, second], -1)
    return torch.cat([y, rest], -1) if rest.shape[-1] else y


def _padding(mask: Tensor, batch: int, queries: int, keys: int) -> Tensor:
    """Which keys count, from any of the shapes that onnxruntime's masks have."""
    if mask.dim() == 1:
        at = torch.arange(keys, device=mask.device)
        if mask.shape[0] == batch:  # the end of each
            return (at < mask[:, None])[:, None, None]
        ends, starts = mask[:batch, None], mask[batch : 2 * batch, None]
        return ((at < ends) & (at >= starts))[:, None, None]
    if mask.dim() == 2:
        return (mask != 0)[:, None, None]
    if mask.dim() == 3:
        return (mask != 0)[:, None]
    return mask[:, :, keys - queries : keys, :keys] != 0


# -- onnxruntime's -------------------------------------------------------------------------------


@operator("com.microsoft.Attention", fixed=(3,))
def attention(node: Spec) -> Kernel:
    heads, one_way = node.attr("num_heads"), node.attr("unidirectional", 0)
    sizes, given = node.attr("qkv_hidden_sizes"), node.attr("scale")
    refused = node.attr("mask_filter_value", -10000.0)
    if node.attr("do_rotary", 0):
        raise node.refuse("it turns its heads (do_rotary)")
    present = node.wants(1)

    def run(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
        past: Tensor | None = None,
        scores: Tensor | None = None,
        *_: Any,
    ) -> Any:
        y = x @ weight
        y = y if bias is None else y + bias
        parts = y.split(sizes or y.shape[-1] // 3, -1)
        q, k, v = (split_heads(each, heads) for each in parts)
        before = 0
        if past is not None:
            before = past.shape[3]
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        s, t = q.shape[2], k.shape[2]
        allowed = None if mask is None else _padding(mask, x.shape[0], s, t)
        total = scores
        if allowed is not None:
            barred = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, refused)
            total = barred if total is None else total + barred
        ahead = causal(s, t, before, x.device) if one_way else None
        scale = given or q.shape[-1] ** -0.5
        found = attend(q, k, v, total, ahead, scale)
        return (join_heads(found), torch.stack([k, v])) if present else join_heads(found)

    return run


@operator("com.microsoft.MultiHeadAttention", fixed=(4,))
def multi_head_attention(node: Spec) -> Kernel:
    heads, given = node.attr("num_heads"), node.attr("scale")
    refused, one_way = node.attr("mask_filter_value", -10000.0), node.attr("unidirectional", 0)

    def run(
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
        scores: Tensor | None = None,
        past_key: Tensor | None = None,
        past_value: Tensor | None = None,
        *_: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if query.dim() == 5:  # [b, s, heads, 3, h]
            q, k, v = (each.transpose(1, 2) for each in query.unbind(3))
        else:
            wide = query.shape[-1]
            q = query if bias is None else query + bias[:wide]
            q = split_heads(q, heads)
            assert key is not None
            if key.dim() == 5:  # [b, t, heads, 2, h]
                k, v = (each.transpose(1, 2) for each in key.unbind(3))
            elif key.dim() == 4:
                assert value is not None
                k, v = key, value
            else:
                assert value is not None
                if bias is not None:
                    key, value = key + bias[wide : 2 * wide], value + bias[2 * wide :]
                k, v = split_heads(key, heads), split_heads(value, heads)
        before = 0
        if past_key is not None and past_value is not None:
            before = past_key.shape[2]
            k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        s, t = q.shape[2], k.shape[2]
        total = scores
        if mask is not None:
            allowed = _padding(mask, q.shape[0], s, t)
            barred = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, refused)
            total = barred if total is None else total + barred
        ahead = causal(s, t, before, q.device) if one_way else None
        scale = given or q.shape[-1] ** -0.5
        found = attend(q, k, v, total, ahead, scale)
        return join_heads(found), k, v

    return run


@operator("com.microsoft.GroupQueryAttention", host=(6,), fixed=(5, 9))
def group_query_attention(node: Spec) -> Kernel:
    """Keys and values are written into the cache after what it holds of each batch's sequence."""
    heads, few = node.attr("num_heads"), node.attr("kv_num_heads")
    given, softcap = node.attr("scale"), node.attr("softcap", 0.0)
    turns, interleaved = node.attr("do_rotary", 0), bool(node.attr("rotary_interleaved", 0))
    window, smooth = node.attr("local_window_size", -1), node.attr("smooth_softmax", 0)

    def run(
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        past_key: Tensor | None,
        past_value: Tensor | None,
        lengths: Tensor,
        total: Tensor,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
        places: Tensor | None = None,
        bias: Tensor | None = None,
        sink: Tensor | None = None,
        *_: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if key is None or value is None:
            each = query.shape[-1] // (heads + 2 * few)
            query, key, value = query.split([heads * each, few * each, few * each], -1)
        q, k, v = split_heads(query, heads), split_heads(key, few), split_heads(value, few)
        batch, s = q.shape[0], q.shape[2]
        whole = ints(total)[0]
        ends = lengths.flatten().long() + 1
        before = torch.zeros_like(ends) if s == whole else ends - s
        at = before[:, None] + torch.arange(s, device=q.device)  # [b, s]
        if turns:
            assert cos is not None and sin is not None
            where = at if places is None else places.long().reshape(batch, s)
            where = where.clamp(0, cos.shape[0] - 1)
            q = rotate(q, cos[where], sin[where], interleaved)
            k = rotate(k, cos[where], sin[where], interleaved)
        held = 0 if past_key is None else past_key.shape[2]
        size = max(held, whole)
        index = at.clamp(0, size - 1)[:, None, :, None]

        def cached(past: Tensor | None, new: Tensor) -> Tensor:
            room = new.new_zeros(batch, few, size, new.shape[-1])
            if past is not None and s < whole:  # a prompt is the first: nothing is held
                room = torch.cat([past, room[:, :, held:]], 2)
            return room.scatter(2, index.expand(new.shape), new)

        keys, values = cached(past_key, k), cached(past_value, v)
        # [b, s, t]: no key later than the query, after the sequence, or before the window.
        place = torch.arange(size, device=q.device)
        allowed = place <= torch.minimum(at, ends[:, None] - 1)[..., None]
        if window > 0:
            allowed = allowed & (place > at[..., None] - window)
        spare = sink if sink is not None else q.new_zeros(heads) if smooth else None
        seen = None if bias is None else F.pad(bias, (0, size - bias.shape[-1]))
        found = attend(
            *(q, keys, values, seen, allowed[:, None], given or q.shape[-1] ** -0.5, softcap),
            sink=spare,
        )
        return join_heads(found), keys, values

    return run


# -- rotary embeddings ---------------------------------------------------------------------------


def _rotated(
    x: Tensor, cos: Tensor, sin: Tensor, places: Tensor | None, heads: int, interleaved: bool
) -> Tensor:
    flat = x.dim() == 3
    if flat:
        heads = heads or x.shape[-1] // (2 * cos.shape[-1])
        x = split_heads(x, heads)
    if places is not None:
        if places.numel() == 1 and x.shape[2] > 1:  # where the sequence begins
            places = places.reshape(1, 1) + torch.arange(x.shape[2], device=x.device)
        at = places.long().reshape(-1, x.shape[2])
        cos, sin = cos[at], sin[at]
    y = rotate(x, cos, sin, interleaved)
    return join_heads(y) if flat else y


@operator("com.microsoft.RotaryEmbedding", fixed=(1,))
def contrib_rotary(node: Spec) -> Kernel:
    heads, interleaved = node.attr("num_heads", 0), bool(node.attr("interleaved", 0))
    by = node.attr("scale", 1.0)

    def run(x: Tensor, places: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = _rotated(x, cos, sin, places, heads, interleaved)
        return y if by == 1.0 else y * by

    return run


@operator("RotaryEmbedding", fixed=(3,))
def rotary(node: Spec) -> Kernel:
    heads, interleaved = node.attr("num_heads", 0), bool(node.attr("interleaved", 0))

    def run(x: Tensor, cos: Tensor, sin: Tensor, places: Tensor | None = None) -> Tensor:
        return _rotated(x, cos, sin, places, heads, interleaved)

    return run


# -- ONNX's own ----------------------------------------------------------------------------------


@operator("Attention", since=23, fixed=(6,))
def standard_attention(node: Spec) -> Kernel:
    """Operands of rank 3 or 4; outputs the result, the cache, and the scores at a chosen stage."""
    heads, few = node.attr("q_num_heads"), node.attr("kv_num_heads")
    one_way, given = node.attr("is_causal", 0), node.attr("scale")
    softcap, mode = node.attr("softcap", 0.0), node.attr("qk_matmul_output_mode", 0)
    shown = node.wants(3)

    def run(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        past_key: Tensor | None = None,
        past_value: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Any, ...]:
        flat = query.dim() == 3
        q = split_heads(query, heads) if flat else query
        k, v = (split_heads(each, few) if each.dim() == 3 else each for each in (key, value))
        before: Any = 0
        if past_key is not None and past_value is not None:
            before = past_key.shape[2]
            k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        s, t = int(q.shape[2]), int(k.shape[2])
        allowed, bias = None, None
        if mask is not None:
            short = t - mask.shape[-1]
            if mask.dtype == torch.bool:
                allowed = F.pad(mask, (0, short)) if short else mask
            else:
                bias = F.pad(mask, (0, short), value=-torch.inf) if short else mask
        if lengths is not None:
            ends = lengths.to(q.device).reshape(-1, 1, 1, 1)
            inside = torch.arange(t, device=q.device) < ends
            allowed = inside if allowed is None else allowed & inside
            before = ends - s  # the queries are the last of each
        if one_way:
            ahead = causal(s, t, before, q.device)
            allowed = ahead if allowed is None else allowed & ahead
        scale = given or q.shape[-1] ** -0.5
        y = attend(q, k, v, bias, allowed, scale, softcap)
        found = join_heads(y) if flat else y
        if not shown:
            return found, k, v
        return found, k, v, _scores(q, k, bias, allowed, scale, softcap, mode)

    return run


def _scores(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    allowed: Tensor | None,
    scale: float,
    softcap: float,
    mode: int,
) -> Tensor:
    """Scores as they are (0), capped (1), with masks added to that (2), after the softmax (3)."""
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT * scale
    if mode == 0:
        return scores
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    if mode == 1:
        return scores
    scores = scores if bias is None else scores + bias
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    if mode == 2:
        return scores
    # Where all keys are masked, nothing is attended to.
    seen = (scores > -torch.inf).any(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(~seen, 0), -1) * seen
