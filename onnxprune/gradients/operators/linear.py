"""Convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..table import Kernel, Spec, operator, plain
from .elementwise import activation

_CONV: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED: tuple[Callable[..., Tensor], ...] = (
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
)

# -- padding -------------------------------------------------------------------------------------


def same_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    upper: bool,
) -> list[int]:
    """What `auto_pad` adds, `[begin..., end...]`, so that each output is ceil(size / stride)."""
    begins, ends = [], []
    for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if upper else large)
        ends.append(large if upper else small)
    return begins + ends


def pad(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` with its last axes padded by `[begin..., end...]`; negative numbers cut."""
    half = len(pads) // 2
    flat = [p for i in reversed(range(half)) for p in (pads[i], pads[half + i])]
    return F.pad(x, flat, value=value) if any(flat) else x


def _symmetric(pads: Sequence[int]) -> list[int] | None:
    half = len(pads) // 2
    even = list(pads[:half]) == list(pads[half:]) and min(pads, default=0) >= 0
    return list(pads[:half]) if even else None


# -- convolutions --------------------------------------------------------------------------------


def convolution(node: Spec) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The convolution that a node's attributes describe: `x, weight, bias -> y`."""
    groups, auto = node.attr("group", 1), node.attr("auto_pad", "NOTSET")
    strides, dilations, pads = node.attr("strides"), node.attr("dilations"), node.attr("pads")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = x.dim() - 2
        if not 1 <= rank <= 3:
            raise ValueError(f"a convolution over {rank} spatial axes")
        step, spread = strides or [1] * rank, dilations or [1] * rank
        given = pads or [0] * 2 * rank
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            given = same_pads(x.shape[2:], weight.shape[2:], step, spread, auto == "SAME_UPPER")
        elif auto == "VALID":
            given = [0] * 2 * rank
        even = _symmetric(given)
        if even is None:
            x, even = pad(x, given), [0] * rank
        return _CONV[rank - 1](_laid_out(x), weight, bias, step, even, spread, groups)

    if (
        auto == "NOTSET"
        and strides
        and len(strides) <= 3
        and (even := _symmetric(pads or [0] * 2 * len(strides)))
    ):
        # Nearly all of them: everything is known now.
        call, spread = _CONV[len(strides) - 1], dilations or [1] * len(strides)

        def known(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return call(_laid_out(x), weight, bias, strides, even, spread, groups)

        return known
    return run


def _laid_out(x: Tensor) -> Tensor:
    """Images with channels last in memory, as kernels on CPUs want them: up to half again as fast.

    What comes out is laid out alike, and what follows keeps it: only the first one moves anything.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


operator("Conv")(convolution)


@operator("com.microsoft.FusedConv")
def fused_conv(node: Spec) -> Kernel:
    """A convolution, a tensor added to it (`Z`), and an activation."""
    conv = convolution(node)
    more = node.attr("activation_params") or []
    call = activation(node, node.attr("activation", ""), *more[:2])

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None, z: Tensor | None = None) -> Any:
        y = conv(x, weight, bias)
        return call(y if z is None else y + z)

    return run


@operator("ConvTranspose")
def conv_transpose(node: Spec) -> Kernel:
    groups, auto = node.attr("group", 1), node.attr("auto_pad", "NOTSET")
    strides, dilations, pads = node.attr("strides"), node.attr("dilations"), node.attr("pads")
    extra, shape = node.attr("output_padding"), node.attr("output_shape")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = x.dim() - 2
        step, spread = strides or [1] * rank, dilations or [1] * rank
        beyond, given = extra or [0] * rank, pads or [0] * 2 * rank
        sizes = zip(x.shape[2:], step, weight.shape[2:], spread, beyond, strict=True)
        full = [(n - 1) * s + (k - 1) * d + 1 + o for n, s, k, d, o in sizes]
        if shape or auto.startswith("SAME"):
            wanted = shape[-rank:] if shape else [n * s for n, s in zip(x.shape[2:], step)]  # noqa: B905
            totals = [f - w for f, w in zip(full, wanted, strict=True)]
            # More is cut off at the end with SAME_UPPER, at the beginning otherwise.
            halves = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals]
            given = halves + [t - h for t, h in zip(totals, halves, strict=True)]
        even = _symmetric(given)
        call = _TRANSPOSED[rank - 1]
        if even is not None and all(o < max(s, d) for o, s, d in zip(beyond, step, spread)):  # noqa: B905
            return call(x, weight, bias, step, even, beyond, groups, spread)
        y = call(x, weight, None, step, 0, 0, groups, spread)
        y = pad(y, [-p for p in given[:rank]] + [o - p for o, p in zip(beyond, given[rank:])])  # noqa: B905
        return y if bias is None else y + bias.reshape(-1, *[1] * rank)

    return run


@operator("DeformConv")
def deform_conv(node: Spec) -> Kernel:
    """Bilinear samples at moved positions, `[n, c, kernel, positions]`, then a matrix product."""
    groups, parts = node.attr("group", 1), node.attr("offset_group", 1)
    strides, dilations = node.attr("strides", [1, 1]), node.attr("dilations", [1, 1])
    pads = node.attr("pads", [0, 0, 0, 0])

    def run(
        x: Tensor,
        weight: Tensor,
        offset: Tensor,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        n, c, height, width = x.shape
        o, _, kh, kw = weight.shape
        oh, ow = offset.shape[-2:]
        offset = offset.reshape(n, parts, kh * kw, 2, oh, ow)

        def base(count: int, size: int, axis: int) -> Tensor:
            return (
                torch.arange(size, device=x.device).mul(strides[axis]).sub(pads[axis])
                + torch.arange(count, device=x.device).mul(dilations[axis])[:, None]
            ).to(x.dtype)

        rows = base(kh, oh, 0)[:, None, :, None].expand(kh, kw, oh, ow).reshape(kh * kw, oh, ow)
        columns = base(kw, ow, 1)[None, :, None, :].expand(kh, kw, oh, ow).reshape(kh * kw, oh, ow)
        at = torch.stack(
            [
                (columns + offset[:, :, :, 1]) * 2 / max(width - 1, 1) - 1,
                (rows + offset[:, :, :, 0]) * 2 / max(height - 1, 1) - 1,
            ],
            -1,
        ).reshape(n * parts, kh * kw, oh * ow, 2)
        pieces = x.reshape(n * parts, c // parts, height, width)
        found = F.grid_sample(pieces, at, align_corners=True, padding_mode="zeros")
        found = found.reshape(n, parts, c // parts, kh * kw, oh * ow)
        if mask is not None:
            found = found * mask.reshape(n, parts, 1, kh * kw, oh * ow)
        columns_of = found.reshape(n, groups, (c // groups) * kh * kw, oh * ow)
        y = (weight.reshape(groups, o // groups, -1) @ columns_of).reshape(n, o, oh, ow)
        return y if bias is None else y + bias.reshape(-1, 1, 1)

    return run


# -- products ------------------------------------------------------------------------------------


plain("MatMul", call=torch.matmul)


@operator("Gemm", "com.microsoft.FusedGemm")
def gemm(node: Spec) -> Kernel:
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    left, right = node.attr("transA", 0), node.attr("transB", 0)
    then = activation(
        node,
        node.attr("activation", ""),
        node.attr("activation_alpha"),
        node.attr("activation_beta"),
    )
    fused = bool(node.attr("activation", ""))

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.T if left else a, b.T if right else b
        if c is None:
            y = a @ b
            y = y if alpha == 1.0 else y * alpha
        else:
            y = torch.addmm(c, a, b, beta=beta, alpha=alpha)
        return then(y) if fused else y

    return run


@operator("com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul")
def fused_matmul(node: Spec) -> Kernel:
    alpha = node.attr("alpha", 1.0)
    left, right = node.attr("transA", 0), node.attr("transB", 0)
    batch_left, batch_right = node.attr("transBatchA", 0), node.attr("transBatchB", 0)

    def turned(x: Tensor, batch: int, swap: int) -> Tensor:
        if batch:  # [m, b..., k] is [b..., m, k]
            x = x.movedim(0, -2)
        return x.mT if swap and x.dim() > 1 else x

    def run(a: Tensor, b: Tensor) -> Tensor:
        y = torch.matmul(turned(a, batch_left, left), turned(b, batch_right, right))
        return y if alpha == 1.0 else y * alpha

    return run


@operator("com.microsoft.FusedMatMulActivation")
def fused_matmul_activation(node: Spec) -> Kernel:
    product = fused_matmul(node)
    then = activation(
        node,
        node.attr("activation", ""),
        node.attr("activation_alpha"),
        node.attr("activation_beta"),
    )
    return lambda a, b: then(product(a, b))
