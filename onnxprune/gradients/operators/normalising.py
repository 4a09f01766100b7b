"""Normalisations. BatchNormalization always takes its running statistics: see `Differentiable`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..table import Kernel, Spec, operator


@operator("BatchNormalization")
def batch_norm(node: Spec) -> Kernel:
    eps, listed = node.attr("epsilon", 1e-5), node.outputs

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Any:
        if mean.requires_grad or var.requires_grad:  # computed in the graph, not gathered
            shape = [1, -1] + [1] * (x.dim() - 2)
            by = scale * torch.rsqrt(var + eps)
            y = (x - mean.reshape(shape)) * by.reshape(shape) + bias.reshape(shape)
        else:
            y = F.batch_norm(x, mean, var, scale, bias, False, 0.0, eps)
        # Opsets before 14 list the statistics as outputs, which training would have changed.
        return y if listed == 1 else (y, mean, var, mean, var)[:listed]

    return run


@operator("InstanceNormalization")
def instance_norm(node: Spec) -> Kernel:
    eps = node.attr("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        # As a group norm: torch's instance norm refuses a single position.
        return F.group_norm(x, x.shape[1], scale, bias, eps)

    return run


@operator("GroupNormalization", since=18)
def group_norm_by_group(node: Spec) -> Kernel:
    """Version 18: one scale and bias for each group."""
    eps, groups = node.attr("epsilon", 1e-5), node.attr("num_groups")

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        each = x.shape[1] // groups
        return F.group_norm(
            x, groups, scale.repeat_interleave(each), bias.repeat_interleave(each), eps
        )

    return run


@operator("GroupNormalization", since=21)
def group_norm(node: Spec) -> Kernel:
    eps, groups = node.attr("epsilon", 1e-5), node.attr("num_groups")
    return lambda x, scale, bias: F.group_norm(x, groups, scale, bias, eps)


@operator("LayerNormalization")
def layer_norm(node: Spec) -> Kernel:
    axis, eps = node.attr("axis", -1), node.attr("epsilon", 1e-5)
    statistics = node.wants(1) or node.wants(2)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
        shape = x.shape[axis % x.dim() :]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            y = F.layer_norm(x, shape, scale, bias, eps)
        else:
            y = F.layer_norm(x, shape, None, None, eps) * scale
            y = y if bias is None else y + bias
        if not statistics:
            return y
        axes = list(range(axis % x.dim(), x.dim()))
        mean = x.mean(axes, True)
        variance = (x - mean).square().mean(axes, True)
        return y, mean, torch.rsqrt(variance + eps)

    return run


@operator("SimplifiedLayerNormalization", "RMSNormalization")
def rms_norm(node: Spec) -> Kernel:
    axis, eps = node.attr("axis", -1), node.attr("epsilon", 1e-5)
    statistics = node.wants(1)

    def run(x: Tensor, scale: Tensor) -> Any:
        axes = list(range(axis % x.dim(), x.dim()))
        inverse = torch.rsqrt(x.square().mean(axes, True) + eps)
        y = x * inverse * scale
        return (y, inverse) if statistics else y

    return run


def _normalised(x: Tensor, scale: Tensor, bias: Tensor | None, eps: float, simple: bool) -> Tensor:
    if simple:
        return x * torch.rsqrt(x.square().mean(-1, True) + eps) * scale
    return F.layer_norm(x, x.shape[-1:], scale, bias, eps)


@operator("com.microsoft.SkipLayerNormalization")
def skip_layer_norm(node: Spec) -> Kernel:
    """Outputs: the result, its mean and inverse deviation, and the sum that was normalised."""
    eps = node.attr("epsilon", 1e-12)

    def run(
        x: Tensor,
        skip: Tensor,
        gamma: Tensor,
        beta: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        total = x + skip if bias is None else x + skip + bias
        return _normalised(total, gamma, beta, eps, False), None, None, total

    return run


@operator("com.microsoft.SkipSimplifiedLayerNormalization")
def skip_rms_norm(node: Spec) -> Kernel:
    eps = node.attr("epsilon", 1e-12)

    def run(
        x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        total = x + skip if bias is None else x + skip + bias
        return _normalised(total, gamma, None, eps, True), None, None, total

    return run


@operator("com.microsoft.EmbedLayerNormalization", fixed=(0, 1, 7, 8))
def embed_layer_norm(node: Spec) -> Kernel:
    """Outputs: the result, how many tokens each mask leaves, and the sum of the embeddings."""
    eps = node.attr("epsilon", 1e-12)

    def run(
        tokens: Tensor,
        segments: Tensor | None,
        words: Tensor,
        positions: Tensor,
        kinds: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        mask: Tensor | None = None,
        places: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        at = (
            torch.arange(tokens.shape[1], device=tokens.device)[None]
            if places is None
            else places.long()
        )
        total = F.embedding(tokens.long(), words) + F.embedding(at, positions)
        if kinds is not None and segments is not None:
            total = total + F.embedding(segments.long(), kinds)
        left = (
            tokens.new_zeros(tokens.shape[0], dtype=torch.int32)
            if mask is None
            else (mask == 1).sum(1).to(torch.int32)
        )
        return F.layer_norm(total, total.shape[-1:], gamma, beta, eps), left, total

    return run


@operator("com.microsoft.GroupNorm", "com.microsoft.SkipGroupNorm")
def contrib_group_norm(node: Spec) -> Kernel:
    eps, groups = node.attr("epsilon", 1e-5), node.attr("groups")
    last, swish = node.attr("channels_last", 1), node.attr("activation", 0)

    def run(
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        skip: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        if skip is not None:
            x = x + (skip[:, None, None] if skip.dim() == 2 else skip)
        if bias is not None:
            x = x + bias
        y = F.group_norm(x.movedim(-1, 1) if last else x, groups, gamma, beta, eps)
        y = F.silu(y) if swish else y
        return y.movedim(1, -1) if last else y, x

    return run


@operator("LRN")
def local_response_norm(node: Spec) -> Kernel:
    size, bias = node.attr("size"), node.attr("bias", 1.0)
    alpha, beta = node.attr("alpha", 1e-4), node.attr("beta", 0.75)
    before = (size - 1) // 2

    def run(x: Tensor) -> Tensor:
        squares = F.pad(x.square().flatten(2), (0, 0, before, size - 1 - before))
        around = squares.unfold(1, size, 1).sum(-1).reshape(x.shape)
        return x / (bias + alpha / size * around) ** beta

    return run


@operator("LpNormalization")
def lp_norm(node: Spec) -> Kernel:
    axis, p = node.attr("axis", -1), float(node.attr("p", 2))

    def run(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, 1, norm))

    return run


@operator("MeanVarianceNormalization")
def mean_variance_norm(node: Spec) -> Kernel:
    axes = node.attr("axes") or [0, 2, 3]

    def run(x: Tensor) -> Tensor:
        moved = x - x.mean(axes, True)
        return moved / (moved.square().mean(axes, True).sqrt() + 1e-9)

    return run


@operator("com.microsoft.GatedRMSNorm")
def gated_rms_norm(node: Spec) -> Kernel:
    eps, silu = node.attr("epsilon", 1e-5), node.attr("activation", "silu") == "silu"

    def run(x: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        pieces = x.reshape(*x.shape[:-1], -1, scale.shape[-1])
        y = _normalised(pieces, scale, None, eps, True).reshape(x.shape)
        return y * (F.silu(gate) if silu else torch.sigmoid(gate))

    return run
