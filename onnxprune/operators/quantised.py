"""QuantizeLinear, DequantizeLinear, and the operators of quantised convolution."""

from __future__ import annotations

from ..infer import Op
from ..tables import function


@function("quantise")
def quantise(op: Op) -> None:
    """One scale and zero point for all, or one for each index of `axis`, or one for each block."""
    axes = op.axes(0)
    scale = op.axes(1)
    for i in (1, 2):
        if not op.has(i):
            continue
        vector = op.axes(i)
        if int(op.attr("block_size", 0)) or len(vector) > 1:
            op.pin_all((*axes, *vector), "quantised in blocks")
        elif vector and (vector[0].size != 1 or len(axes) == 1):
            op.unify(vector[0], axes[op.axis(1, len(axes))])
    del scale
    op.out(axes)


@function("qlinear_conv")
def qlinear_conv(op: Op) -> None:
    """QLinearConv: x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, (bias)."""
    op.match("n (g i) *s, *q0, *q1, (g o) i *k, *q2, *q3, *q4, *q5, (g o)? -> n (g o) *t")
    out = op.network.axes[op.outputs[0]]
    for i in (4, 5):
        if op.axes(i) and op.axes(i)[0].size != 1 and out:
            op.unify(op.axes(i)[0], out[1])
    for name in ("s", "t", "k"):
        op.pin_all(op.env[name], "spatial")
    if out:
        op.role(out[1], "channels")


@function("conv_integer")
def conv_integer(op: Op) -> None:
    """ConvInteger: x, w, (x_zp), (w_zp)."""
    op.match("n (g i) *s, (g o) i *k, *q0?, *q1? -> n (g o) *t")
    out = op.network.axes[op.outputs[0]]
    if op.has(3) and op.axes(3) and op.axes(3)[0].size != 1 and out:
        op.unify(op.axes(3)[0], out[1])
    for name in ("s", "t", "k"):
        op.pin_all(op.env[name], "spatial")
    if out:
        op.role(out[1], "channels")
