"""Quantised operators, with the straight-through estimator (see `quantising`)."""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from ..quantising import RANGES, Codes, spread, straight_round
from ..table import Kernel, Spec, operator
from .elementwise import activation
from .linear import convolution

_CODES = {
    torch.uint8: TensorProto.UINT8,
    torch.int8: TensorProto.INT8,
    torch.int16: TensorProto.INT16,
}
#: What integers are summed in: it holds all sums of int32 as they are.
_SUMS = torch.float64


def _ends(point: Tensor | None, declared: int) -> tuple[float, float]:
    """The range of the type that a zero point has, or else of the type that is declared."""
    code = declared or (TensorProto.UINT8 if point is None else _CODES.get(point.dtype))
    if code is None:
        raise TypeError(f"codes of type {point.dtype if point is not None else None}")
    low, high = RANGES[code]
    return float(low), float(high)


def quantise(x: Tensor, scale: Tensor, point: Tensor | None, low: float, high: float) -> Tensor:
    """The codes of `x`, as floats that gradients come through."""
    codes = straight_round(x / scale)
    return torch.clamp(codes if point is None else codes + point, low, high)


@operator("QuantizeLinear", "com.microsoft.QuantizeLinear", fixed=(1, 2))
def quantize_linear(node: Spec) -> Kernel:
    """Its codes stay floats, so that gradients come through."""
    axis, block = node.attr("axis", 1), node.attr("block_size", 0)
    declared = node.type_of(2) or node.attr("output_dtype", 0)
    if declared and declared not in RANGES:
        raise node.refuse(f"its codes are of type {TensorProto.DataType.Name(declared)}")

    def run(x: Tensor, scale: Tensor, point: Tensor | None = None) -> Tensor:
        by = spread(scale, x.shape, axis, block)
        zero = None if point is None else spread(point, x.shape, axis, block)
        return quantise(x, by, zero, *_ends(point, declared))

    return run


@operator("DequantizeLinear", "com.microsoft.DequantizeLinear", fixed=(1, 2))
def dequantize_linear(node: Spec) -> Kernel:
    axis, block = node.attr("axis", 1), node.attr("block_size", 0)

    def run(x: Tensor, scale: Tensor, point: Tensor | None = None) -> Tensor:
        by = spread(scale, x.shape, axis, block)
        codes = x.to(by.dtype)
        if point is not None:
            codes = codes - spread(point, x.shape, axis, block)
        return codes * by

    return run


def latent(codes: Codes) -> Kernel:
    """A DequantizeLinear of a weight that is held as numbers: they are rounded as its codes are."""

    def run(weight: Tensor, scale: Tensor, point: Tensor | None = None) -> Tensor:
        by = spread(scale.to(weight), weight.shape, codes.axis, codes.block)
        zero = (
            None
            if point is None
            else spread(point.to(weight), weight.shape, codes.axis, codes.block)
        )
        found = quantise(weight, by, zero, codes.low, codes.high)
        return (found if zero is None else found - zero) * by

    return run


@operator("DynamicQuantizeLinear")
def dynamic_quantize(node: Spec) -> Kernel:
    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low = torch.clamp(x.detach().amin(), max=0.0)
        high = torch.clamp(x.detach().amax(), min=0.0)
        scale = (high - low) / 255
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        point = torch.clamp(torch.round(-low / scale), 0, 255)
        return quantise(x, scale, point, 0.0, 255.0), scale, point.to(torch.uint8)

    return run


# -- products of codes ---------------------------------------------------------------------------


def _less(x: Tensor, point: Tensor | None, dtype: torch.dtype, rows: bool = False) -> Tensor:
    """Codes less their zero point, as floats; a vector of points is one for each row or column."""
    x = x.to(dtype)
    if point is None:
        return x
    point = point.to(dtype)
    if point.dim() == 1 and point.numel() > 1 and rows:
        point = point[:, None]
    return x - (point if point.dim() else point.reshape(()))


@operator("MatMulInteger", fixed=(2, 3))
def matmul_integer(node: Spec) -> Kernel:
    def run(a: Tensor, b: Tensor, ap: Tensor | None = None, bp: Tensor | None = None) -> Tensor:
        return torch.matmul(_less(a, ap, _SUMS, rows=True), _less(b, bp, _SUMS)).to(node.dtype)

    return run


@operator("ConvInteger", fixed=(2, 3))
def conv_integer(node: Spec) -> Kernel:
    conv = convolution(node)

    def run(x: Tensor, w: Tensor, xp: Tensor | None = None, wp: Tensor | None = None) -> Tensor:
        shape = [-1] + [1] * (w.dim() - 1)
        by = None if wp is None else (wp.reshape(shape) if wp.numel() > 1 else wp.reshape(()))
        return conv(_less(x, xp, _SUMS), _less(w, by, _SUMS), None).to(node.dtype)

    return run


def _requantise(y: Tensor, by: Tensor, point: Tensor | None, ends: tuple[float, float]) -> Tensor:
    codes = straight_round(y * by)
    return torch.clamp(codes if point is None else codes + point, *ends)


@operator("QLinearMatMul", fixed=(1, 2, 4, 5, 6, 7))
def qlinear_matmul(node: Spec) -> Kernel:
    def run(
        a: Tensor, sa: Tensor, pa: Tensor, b: Tensor, sb: Tensor, pb: Tensor, sy: Tensor, py: Tensor
    ) -> Tensor:
        rows = sa[:, None] if sa.dim() == 1 and sa.numel() > 1 else sa
        product = torch.matmul(_less(a, pa, _SUMS, rows=True), _less(b, pb, _SUMS))
        return _requantise(product, rows * sb / sy, py, _ends(py, 0)).to(node.dtype)

    return run


@operator("QLinearConv", fixed=(1, 2, 4, 5, 6, 7))
def qlinear_conv(node: Spec) -> Kernel:
    conv = convolution(node)

    def run(
        x: Tensor,
        sx: Tensor,
        px: Tensor,
        w: Tensor,
        sw: Tensor,
        pw: Tensor,
        sy: Tensor,
        py: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        shape = [-1] + [1] * (w.dim() - 1)
        by = pw.reshape(shape) if pw.numel() > 1 else pw.reshape(())
        y = conv(_less(x, px, _SUMS), _less(w, by, _SUMS), None if bias is None else bias.to(_SUMS))
        scale = (sx * sw / sy).reshape(shape[:-1] if sw.numel() > 1 else ())
        return _requantise(y, scale, py, _ends(py, 0)).to(node.dtype)

    return run


@operator("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul", fixed=(1, 2, 4, 5, 6, 7))
def qlinear_arithmetic(node: Spec) -> Kernel:
    call = torch.add if node.node.kind.endswith("Add") else torch.mul

    def run(
        a: Tensor,
        sa: Tensor,
        pa: Tensor | None,
        b: Tensor,
        sb: Tensor,
        pb: Tensor | None,
        sy: Tensor,
        py: Tensor | None = None,
    ) -> Tensor:
        y = call(_less(a, pa, sa.dtype) * sa, _less(b, pb, sb.dtype) * sb)
        return quantise(y, sy, py, *_ends(py, 0))

    return run


@operator("com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu", fixed=(1, 2, 3, 4))
def qlinear_unary(node: Spec) -> Kernel:
    leaky = node.node.kind.endswith("LeakyRelu")
    call = activation(node, "leakyrelu" if leaky else "sigmoid", node.attr("alpha"))

    def run(
        x: Tensor, sx: Tensor, px: Tensor | None, sy: Tensor, py: Tensor | None = None
    ) -> Tensor:
        return quantise(call(_less(x, px, sx.dtype) * sx), sy, py, *_ends(py, 0))

    return run


@operator("com.microsoft.MatMulIntegerToFloat", fixed=(4, 5))
def matmul_integer_to_float(node: Spec) -> Kernel:
    def run(
        a: Tensor,
        b: Tensor,
        sa: Tensor,
        sb: Tensor,
        pa: Tensor | None = None,
        pb: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        y = torch.matmul(_less(a, pa, sa.dtype) * sa, _less(b, pb, sb.dtype) * sb)
        return y if bias is None else y + bias

    return run


@operator("com.microsoft.DynamicQuantizeMatMul", fixed=(3,))
def dynamic_quantize_matmul(node: Spec) -> Kernel:
    quantiser = dynamic_quantize(node)

    def run(
        a: Tensor, b: Tensor, sb: Tensor, pb: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        codes, scale, point = quantiser(a)
        y = torch.matmul((codes - point) * scale, _less(b, pb, sb.dtype) * sb)
        return y if bias is None else y + bias

    return run


# -- packed weights ------------------------------------------------------------------------------


def unpacked(packed: Tensor, bits: int) -> Tensor:
    """Codes of `bits` bits each from bytes, lowest first: `[..., bytes]` -> `[..., codes]`."""
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
    parts = (packed[..., None] >> shifts) & (2**bits - 1)
    return parts.flatten(-2)


@operator("com.microsoft.MatMulNBits", fixed=(1, 3, 4))
def matmul_nbits(node: Spec) -> Kernel:
    """Weights `[n, blocks, bytes]` of 2, 4 or 8 bits; scales and zero points for each block."""
    k, n, bits = node.attr("K"), node.attr("N"), node.attr("bits", 4)
    size = node.attr("block_size")
    blocks = -(-k // size)
    if bits not in (2, 4, 8):
        raise node.refuse(f"its weights have {bits} bits")

    def run(
        a: Tensor,
        packed: Tensor,
        scales: Tensor,
        points: Tensor | None = None,
        groups: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        codes = unpacked(packed.reshape(n, blocks, -1), bits)[..., :size].to(scales.dtype)
        if points is None:
            zero: Any = float(2 ** (bits - 1))
        elif points.is_floating_point():
            zero = points.reshape(n, blocks, 1)
        else:
            zero = unpacked(points.reshape(n, -1), bits)[:, :blocks].to(scales.dtype)[..., None]
        by = scales.reshape(n, blocks)
        if groups is not None:
            flat = codes.reshape(n, -1)[:, :k]
            at = groups.long()[:k]
            less = zero.reshape(n, blocks)[:, at] if isinstance(zero, Tensor) else zero
            weight = (flat - less) * by[:, at]
        else:
            weight = ((codes - zero) * by[..., None]).reshape(n, -1)[:, :k]
        return torch.nn.functional.linear(a, weight, bias)

    return run


@operator("com.microsoft.GatherBlockQuantized", fixed=(0, 1, 3))
def gather_block_quantized(node: Spec) -> Kernel:
    axis, along = node.attr("gather_axis", 0), node.attr("quantize_axis", 1)
    bits, size = node.attr("bits", 4), node.attr("block_size", 128)

    def run(data: Tensor, index: Tensor, scales: Tensor, points: Tensor | None = None) -> Tensor:
        codes = unpacked(data, bits) if data.dtype == torch.uint8 and bits < 8 else data
        codes = codes.to(scales.dtype)
        by = scales.repeat_interleave(size, along).narrow(along, 0, codes.shape[along])
        if points is not None:
            p = unpacked(points, bits) if points.dtype == torch.uint8 and bits < 8 else points
            p = p.narrow(along, 0, scales.shape[along]).to(scales.dtype)
            codes = codes - p.repeat_interleave(size, along).narrow(along, 0, codes.shape[along])
        elif data.dtype == torch.uint8:
            codes = codes - float(2 ** (bits - 1))
        at = torch.where(index < 0, index + codes.shape[axis], index).long()
        found = (codes * by).index_select(axis, at.flatten())
        where = axis % codes.dim()
        return found.reshape(*codes.shape[:where], *index.shape, *codes.shape[where + 1 :])

    return run


# -- fake quantisation of other tools ------------------------------------------------------------


@operator("onnx.brevitas.Quant", "qonnx.custom_op.general.Quant", fixed=(1, 2, 3))
def brevitas_quant(node: Spec) -> Kernel:
    """Rounds to codes and back (QONNX): operands are `x`, scale, zero point and bits."""
    signed, narrow = node.attr("signed", 1), node.attr("narrow", 0)
    how = node.attr("rounding_mode", "ROUND").upper()
    if how != "ROUND":
        raise node.refuse(f"it rounds by {how}")

    def run(x: Tensor, scale: Tensor, point: Tensor, bits: Tensor) -> Tensor:
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
        low = -(2 ** (bits - 1)) + narrow if signed else bits * 0
        codes = torch.minimum(torch.maximum(straight_round(x / scale + point), low), high)
        return (codes - point) * scale

    return run
