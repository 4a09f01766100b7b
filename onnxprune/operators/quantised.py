"""QuantizeLinear, DequantizeLinear, and the operators of quantised convolution."""

from __future__ import annotations

from onnx import TensorProto

from ..axes import Axis, Dim, product
from ..network import Axes, Unsure
from ..op import Op
from ..tables import function
from .linear import product_of
from .runs import concatenate_of


@function("quantise")
def quantise(op: Op) -> None:
    """One scale and zero point for all, or one for each index of `axis`, or one for each block."""
    axes = op.axes(0)
    block = int(op.attr("block_size", 0))
    blocks: Axis | None = None
    for i in (1, 2):
        if not op.has(i):
            continue
        vector = op.axes(i)
        if not block and len(vector) < 2:
            if vector and (vector[0].size != 1 or len(axes) == 1):
                op.unify(vector[0], axes[op.axis(1, len(axes))])
            continue
        at = op.axis(1, len(axes))
        size = axes[at].size
        for k, (a, b) in enumerate(zip(axes, vector, strict=True)):
            if k != at:
                op.unify(a, b)
        if blocks is None and block and size is not None and size % block == 0:
            blocks = Dim(size // block)
            op.unify(axes[at], product((blocks, op.fixed(block, "quantised in one block"))))
        if blocks is None:
            op.pin_all((axes[at], vector[at]), "quantised in blocks")
        else:
            op.unify(vector[at], blocks)
    op.out(axes)


@function("qlinear_conv")
def qlinear_conv(op: Op) -> None:
    """QLinearConv: x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, (bias)."""
    last = bool(op.attr("channels_last", 0))
    x, y = ("n *s (g i)", "n *t (g o)") if last else ("n (g i) *s", "n (g o) *t")
    op.match(f"{x}, *q0, *q1, (g o) i *k, *q2, *q3, *q4, *q5, (g o)? -> {y}")
    channels = op.axes(3)[0]
    _by_column(op, (4, 5), channels)
    for name in ("s", "t", "k"):
        op.pin_all(op.env[name], "spatial")
    op.role(channels, "channels")


@function("conv_integer")
def conv_integer(op: Op) -> None:
    """ConvInteger: x, w, (x_zp), (w_zp)."""
    op.match("n (g i) *s, (g o) i *k, *q0?, *q1? -> n (g o) *t")
    channels = op.axes(1)[0]
    _by_column(op, (3,), channels)
    for name in ("s", "t", "k"):
        op.pin_all(op.env[name], "spatial")
    op.role(channels, "channels")


def _by_column(op: Op, vectors: tuple[int, ...], columns: Axis) -> None:
    """Scales and zero points: one for all, or one for each column."""
    for i in vectors:
        if op.has(i) and op.axes(i) and op.axes(i)[-1].size != 1:
            op.unify(op.axes(i)[-1], columns)


def _by_row(op: Op, vectors: tuple[int, ...], axes: Axes) -> None:
    """Scales and zero points of the other operand: one for all, or nothing can be cut."""
    for i in vectors:
        if op.has(i) and op.axes(i) and op.axes(i)[-1].size != 1:
            op.pin_all((*op.axes(i), *axes), "scales for each row")


@function("matmul_to_float")
def matmul_to_float(op: Op) -> None:
    """MatMulIntegerToFloat: A, B, scale of A, scale of B, (zero points of both), (bias)."""
    a, b = op.axes(0), op.axes(1)
    product_of(op, a, b)
    _by_column(op, (3, 5, 6), b[-1])
    _by_row(op, (2, 4), a)


@function("dynamic_matmul")
def dynamic_matmul(op: Op) -> None:
    """DynamicQuantizeMatMul: A, B, scale of B, (zero point of B), (bias). A is quantised by the
    range of all that it holds.
    """
    a, b = op.axes(0), op.axes(1)
    product_of(op, a, b)
    for axis in a:
        op.statistical(axis)
    _by_column(op, (2, 3, 4), b[-1])


@function("qgemm")
def qgemm(op: Op) -> None:
    """QGemm: A, B and C (operands 0, 3, 6), each but C with a scale and a zero point."""
    a, b = op.axes(0), op.axes(3)
    m, k = a[::-1] if op.attr("transA", 0) else a
    k2, n = b[::-1] if op.attr("transB", 0) else b
    op.unify(k, k2)
    op.contract(k)
    if op.has(6):
        for axis, whole in zip(reversed(op.axes(6)), (n, m), strict=False):
            if axis.size != 1:
                op.unify(axis, whole)
    _by_column(op, (4, 5), n)
    _by_row(op, (1, 2), a)
    op.out([m, n])


@function("qlinear_concat")
def qlinear_concat(op: Op) -> None:
    """QLinearConcat: scale and zero point of the result, then of each input with the input."""
    concatenate_of(op, [op.axes(i) for i in range(2, len(op.inputs), 3)], op.attr("axis"))
    for i in range(len(op.inputs)):
        if i % 3 != 2:
            op.pin_all(op.axes(i), "one for all of a tensor")


@function("qlinear_pool")
def qlinear_pool(op: Op) -> None:
    """QLinearAveragePool and QLinearGlobalAveragePool, channels first or last."""
    last = bool(op.attr("channels_last", 0))
    x, y = ("n *s c", "n *t c") if last else ("n c *s", "n c *t")
    if op.node.op_type == "QLinearGlobalAveragePool":
        op.env["t"] = [Dim(1) for _ in op.axes(0)[2:]]
    op.match(f"{x}, *q0, *q1?, *q2, *q3? -> {y}")
    op.pin_all((*op.env["s"], *op.env["t"]), "spatial")


@function("qlinear_softmax")
def qlinear_softmax(op: Op) -> None:
    """QLinearSoftmax: before opset 13, which is an attribute, all axes from `axis` on are one."""
    axes = op.axes(0)
    old = int(op.attr("opset", 13)) < 13
    at = op.axis(1 if old else -1, len(axes))
    op.pin_all(axes[at:] if old else axes[at : at + 1], "Softmax over it")
    op.out(axes)


@function("qlinear_mean")
def qlinear_mean(op: Op) -> None:
    """QLinearReduceMean: axes are an attribute; operand 1 is a scale."""
    axes = op.axes(0)
    where = {i % len(axes) for i in op.attr("axes") or range(len(axes))}
    for i in where:
        op.statistical(axes[i])
    kept = bool(op.attr("keepdims", 1))
    op.out([Dim(1) if i in where else a for i, a in enumerate(axes) if kept or i not in where])


@function("dynamic_lstm")
def dynamic_lstm(op: Op) -> None:
    """DynamicQuantizeLSTM: as LSTM, with its weights the other way round and quantised.

    Inputs and states are quantised by the range of all that they hold.
    """
    op.match(
        "t b [i], d i (4 h), d [h] (4 h), d (8 h)?, b?, d b h?, d b h?, d (3 h)?,"
        " d *v, d *w, d *x, d *y -> t d b h, d b h, d b h"
    )
    for name in "vwxy":
        for axis in op.env[name]:
            op.unify(axis, op.axes(1)[2])
    for name, reason in (("t", "sequence"), ("d", "directions"), ("b", "quantised together")):
        op.pin(op.env[name], reason)
    op.role(op.env["h"], "hidden")
    op.patch("hidden_size", {None: op.env["h"]} if op.attr("hidden_size") is not None else {})


# -- weights packed in blocks --------------------------------------------------------------------


@function("matmul_nbits")
def matmul_nbits(op: Op) -> None:
    """MatMulNBits: A, B, scales, (zero points), (order of rows), (bias).

    Columns are free; rows are packed in blocks, which are kept or removed whole.
    """
    if op.has(4) or op.attr("weight_prepacked", 0):
        raise Unsure("its weights are in an order of their own")
    a = op.axes(0)
    blocks = _rows(op, a[-1])
    n = _columns(op, "N", blocks, 1, 2, 5)
    if op.has(3):
        _zero_points(op, 3, n, blocks)
    op.contract(a[-1])
    op.role(n, "projection")
    op.out([*a[:-1], n])


@function("matmul_nbits_mlp")
def matmul_nbits_mlp(op: Op) -> None:
    """MatMulNBitsMlp: A, (skip), (norm), gate's B, scales and (bias), and those of up."""
    a = _normed(op)
    blocks = _rows(op, a[-1])
    n = _columns(op, "N", blocks, 3, 4, 5)
    op.unify(_columns(op, "N", blocks, 6, 7, 8), n)
    op.contract(a[-1])
    op.role(n, "projection")
    op.out([*a[:-1], n])
    op.out(a, 1)


@function("matmul_nbits_qkv")
def matmul_nbits_qkv(op: Op) -> None:
    """MatMulNBitsQkv: A, (skip), norm, and three times B, scales and (bias)."""
    a = _normed(op)
    blocks = _rows(op, a[-1])
    q = _columns(op, "Nq", blocks, 3, 4, 5)
    k, v = _columns(op, "Nkv", blocks, 6, 7, 8), _columns(op, "Nkv", blocks, 9, 10, 11)
    if k.size != v.size:
        raise Unsure("keys and values of unlike widths")
    op.unify(k, v)  # one attribute says how wide both are
    op.contract(a[-1])
    for i, axis in enumerate((q, k, v)):
        op.out([*a[:-1], axis], i)
    op.out(a, 3)


def _normed(op: Op) -> Axes:
    a = op.axes(0)
    if op.has(1):
        for x, y in zip(a, op.axes(1), strict=True):
            op.unify(x, y)
    if op.has(2):
        op.unify(op.axes(2)[-1], a[-1])
        op.statistical(a[-1])
        op.role(a[-1], "hidden")
    return a


def _rows(op: Op, rows: Axis) -> Axis:
    """The blocks that the rows of a packed weight, along `rows` of the input, are made of."""
    size, block = int(op.attr("K")), int(op.attr("block_size"))
    whole = op.fixed(block, "packed in one block")
    if size % block:
        op.pin(rows, "its last block is not full")
        return op.fixed(-(-size // block), "its last block is not full")
    blocks = Dim(size // block)
    op.unify(rows, product((blocks, whole)))
    op.patch("K", {None: product((blocks, whole))})
    return blocks


def _columns(op: Op, attribute: str, blocks: Axis, weight: int, scales: int, bias: int) -> Dim:
    """The columns of a packed weight `[n, blocks, bytes]`, of its scales and of its bias."""
    n = Dim(int(op.attr(attribute)))
    op.patch(attribute, {None: n})
    b = op.axes(weight)
    if len(b) != 3:
        raise Unsure("its weights are not packed in rows")
    op.unify(b[0], n)
    op.unify(b[1], blocks)
    op.pin(b[2], "packed in one block")
    _each_block(op, op.axes(scales), n, blocks)
    if op.has(bias):
        op.unify(op.axes(bias)[-1], n)
    return n


def _each_block(op: Op, axes: Axes, n: Axis, blocks: Axis) -> None:
    """`[n, blocks]`, or both in one axis."""
    if len(axes) == 1:
        op.unify(axes[0], product((n, blocks)))
    else:
        for a, b in zip(axes, (n, blocks), strict=True):
            op.unify(a, b)


def _zero_points(op: Op, i: int, n: Axis, blocks: Axis) -> None:
    """One for each block: one number each, or packed as the weights are."""
    axes, bits = op.axes(i), int(op.attr("bits", 4))
    tensor = op.network.model.constants.get(op.inputs[i])
    packed = tensor is None or tensor.data_type == TensorProto.UINT8
    if tensor is None and bits < 8:
        raise Unsure("its zero points are computed at run time")
    if packed and bits < 8:
        each = 8 // bits
        count = blocks.size or 0
        if count % each:
            op.pin(blocks, "zero points of several blocks share a byte")
            blocks = op.fixed(-(-count // each), "zero points of several blocks share a byte")
        else:
            shared = op.fixed(each, "zero points of several blocks share a byte")
            bytes_ = Dim(count // each)
            op.unify(blocks, product((bytes_, shared)))
            blocks = bytes_
    _each_block(op, axes, n, blocks)


@function("gather_block_quantized")
def gather_block_quantized(op: Op) -> None:
    """GatherBlockQuantized: data, indices, scales, (zero points); quantised in blocks along one
    axis. Bytes may hold several numbers of the last axis.
    """
    data, indices, scales = op.axes(0), op.axes(1), op.axes(2)
    rank = len(data)
    at, along = op.attr("gather_axis", 0) % rank, op.attr("quantize_axis", 1) % rank
    block, bits = int(op.attr("block_size", 128)), int(op.attr("bits", 4))
    tensor = op.network.model.constants.get(op.inputs[0])
    if tensor is None or at == along:
        raise Unsure("its data is not a constant, or is quantised along the axis that is picked")
    packed = tensor.data_type == TensorProto.UINT8 and bits < 8
    each = 8 // bits if packed else 1
    size = data[along].size or 0
    if packed and along != rank - 1:
        raise Unsure("bytes hold numbers of another axis than the blocks'")
    op.pin(data[at], "picked by index")
    op.pin_all(indices, "indices are values, not channels")
    out = list(data)
    if block < 1 or size * each % block:
        op.pin_all((data[along], scales[along]), "its last block is not full")
        out[along] = op.fixed(size * each, "its last block is not full")
        count: Axis = scales[along]
    else:
        count = Dim(size * each // block)
        held = op.fixed(block // each, "packed in one block")
        op.unify(data[along], product((count, held)))
        op.unify(scales[along], count)
        out[along] = product((count, op.fixed(block, "packed in one block")))
    for i in range(rank):
        if i != along and scales[i].size != 1:
            op.unify(scales[i], data[i])
    if op.has(3):
        if rank != 2 or along != 1:
            op.pin_all((count, *op.axes(3)), "zero points of several blocks share a byte")
        elif packed:
            _zero_points(op, 3, data[0], count)
        else:
            _each_block(op, op.axes(3), data[0], count)
    out[at : at + 1] = indices
    op.out(out)
