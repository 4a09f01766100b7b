"""Matrix products: MatMul, Gemm, Einsum, and what they tell about attention heads."""

from __future__ import annotations

import string

from ..axes import Axis, Dim, product
from ..network import Axes, Unsure
from ..op import Op
from ..tables import function


@function("conv")
def conv(op: Op) -> None:
    """Conv, and FusedConv, which may add a fourth operand of the output's shape.

    Positions matter along a spatial axis, unless the kernel is of size 1 there and takes every
    one of them: a convolution that is a matrix product passes the axis on.
    """
    op.match()
    _activated(op)
    out = list(op.network.axes[op.outputs[0]] or ())
    for i, (s, k, t) in enumerate(zip(op.env["s"], op.env["k"], op.env["t"], strict=True)):
        if k.size == 1 and not op.has(3) and takes_all(op, i):
            out[2 + i] = s
        else:
            op.pin_all((s, t), "spatial")
    op.out(out)


def takes_all(op: Op, i: int) -> bool:
    """Whether a convolution or pool steps over spatial axis `i` one by one and adds nothing."""
    strides, pads = op.attr("strides"), op.attr("pads")
    return not (strides and strides[i] != 1) and not (pads and any(pads[i :: len(pads) // 2]))


#: Activations that may be fused to an operator and make zero of zero.
_KEEP_ZERO = ("", "Relu", "LeakyRelu", "Tanh", "Elu", "Selu", "Softsign", "HardSwish")


def _activated(op: Op) -> None:
    """FusedConv and FusedGemm apply a function to their result: a Sigmoid of zero is not zero."""
    if op.attr("activation", "") not in _KEEP_ZERO:
        op.loses_zero()


@function("matmul")
def matmul(op: Op) -> None:
    """`*b m k, *b k n -> *b m n`, with numpy's rules for vectors."""
    product_of(op, op.axes(0), op.axes(1))


@function("fused_matmul")
def fused_matmul(op: Op) -> None:
    """FusedMatMul: operands whose last two axes are swapped, or whose first axis comes after
    those of the batch; FusedMatMulActivation also applies a function to the result.
    """
    operands = []
    for i, letter in enumerate("AB"):
        axes = list(op.axes(i))
        if op.attr(f"transBatch{letter}", 0) and len(axes) > 2:
            axes.insert(len(axes) - 2, axes.pop(0))
        if op.attr(f"trans{letter}", 0) and len(axes) > 1:
            axes[-2:] = axes[-1], axes[-2]
        operands.append(axes)
    product_of(op, *operands)
    out = op.network.axes[op.outputs[0]] or []
    if op.node.op_type == "FusedMatMulActivation":
        if op.attr("activation", "") in ("Softmax", "LogSoftmax", "Hardmax"):
            op.pin(out[op.attr("activation_axis", -1)], f"{op.attr('activation')} over it")
        op.loses_zero()


@function("gemm_fast_gelu")
def gemm_fast_gelu(op: Op) -> None:
    """GemmFastGelu: a matrix product, a bias, and a function of zero that is zero."""
    b = op.axes(1)
    product_of(op, op.axes(0), b)
    if op.has(2):
        op.unify(op.axes(2)[-1], b[-1])


@function("deform_conv")
def deform_conv(op: Op) -> None:
    """DeformConv: offsets shift the kernel's positions, each for a group of input channels."""
    op.match()
    groups = int(op.attr("offset_group", 1))
    channels = op.axes(0)[1]
    if channels.size is None or channels.size % groups:
        raise Unsure(f"{channels.size} channels are not made of {groups} groups of offsets")
    if groups > 1:
        shared = op.fixed(groups, "a group of channels with offsets of its own")
        op.unify(product((shared, Dim(channels.size // groups))), channels)


@function("causal_conv")
def causal_conv(op: Op) -> None:
    """CausalConvWithState: each channel on its own; input, weight, (bias), (past state)."""
    slots = "w " if op.attr("state_window", 0) else ""
    if op.attr("channels_last", 0):
        if len(op.axes(0)) != 3:
            raise Unsure("its channels are more than one axis")
        op.match(f"n s c, c 1 *k, c?, {slots}n p c? -> n s c, {slots}n p c")
        op.pin_all((op.env["s"],), "sequence")
    else:
        op.match(f"n c *s, c 1 *k, c?, {slots}n c *p? -> n c *s, {slots}n c *p")
        op.pin_all(op.env["s"], "spatial")
    past = op.env.get("p", [])
    op.pin_all(past if isinstance(past, list) else (past,), "sequence")
    op.pin_all(op.env["k"], "kernel")
    op.pin_all((op.env["w"],) if "w" in op.env else (), "steps of the state")
    op.role(op.env["c"], "channels")
    if op.has(3) or any(op.outputs[1:]):
        op.loses_zero()  # a state holds what comes in, whatever the weights


@function("matmul_integer")
def matmul_integer(op: Op) -> None:
    """MatMulInteger: zero points are scalars, or one for each row of A or column of B."""
    a, b = op.axes(0), op.axes(1)
    product_of(op, a, b)
    if op.has(2) and op.axes(2) and op.axes(2)[-1].size != 1:
        op.pin_all((*op.axes(2), *a), "zero points for each row")
    if op.has(3) and op.axes(3) and op.axes(3)[-1].size != 1:
        op.unify(op.axes(3)[-1], b[-1])


@function("qlinear_matmul")
def qlinear_matmul(op: Op) -> None:
    """QLinearMatMul: a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point."""
    a, b = op.axes(0), op.axes(3)
    product_of(op, a, b)
    for i in (4, 5):
        if op.axes(i) and op.axes(i)[-1].size != 1:
            op.unify(op.axes(i)[-1], b[-1])
    for i in (1, 2):
        if op.axes(i) and op.axes(i)[-1].size != 1:
            op.pin_all((*op.axes(i), *a), "scales for each row")
    for i in (6, 7):
        if op.axes(i) and op.axes(i)[-1].size != 1:
            op.pin_all((*op.axes(i), *a, *b), "scales for each row")


def product_of(op: Op, a: Axes, b: Axes) -> None:
    """The axes of the matrix product of `a` and `b`."""
    if not a or not b:
        raise Unsure("a scalar operand")
    op.unify(a[-1], b[-2] if len(b) > 1 else b[-1])
    op.contract(a[-1])
    batch = op.broadcast([a[:-2], b[:-2]]) if len(a) > 2 or len(b) > 2 else []
    out = [*batch]
    if len(a) > 1:
        out.append(a[-2])
    if len(b) > 1:
        out.append(b[-1])
    op.out(out)
    constants = op.network.model.constants
    weights = [i for i in (0, 1) if _is_weight(op, i)]
    if not weights and not any(op.inputs[i] in constants for i in (0, 1)):
        # Two activations: attention, in the way that every exporter writes it.
        for axis in batch:
            op.role(axis, "heads")
        op.role(a[-1], "head-dim")
        if out:
            op.role(out[-1], "head-dim")
    elif weights == [1] and len(b) > 1:
        op.role(b[-1], "projection")
    elif weights == [0] and len(a) > 1:
        op.role(a[-2], "projection")


def _is_weight(op: Op, i: int) -> bool:
    """A constant, or made from one by operators that only rearrange or dequantise it."""
    network = op.network
    name = op.inputs[i]
    for _ in range(8):
        if name in network.model.constants:
            return True
        node = network.model.producers.get(name)
        rule = network.rules.get(node.op_type) if node is not None else None
        if node is None or rule is None or not rule.passes or not node.input:
            return False
        name = node.input[0]
    return False


@function("gemm")
def gemm(op: Op) -> None:
    """`alpha * A' B' + beta * C`; C is broadcast to the result."""
    _activated(op)
    a, b = op.axes(0), op.axes(1)
    if len(a) != 2 or len(b) != 2:
        raise Unsure("Gemm's operands are matrices")
    m, k = a[::-1] if op.attr("transA", 0) else a
    k2, n = b[::-1] if op.attr("transB", 0) else b
    op.unify(k, k2)
    op.contract(k)
    if op.has(2):
        for axis, whole in zip(reversed(op.axes(2)), (n, m), strict=False):
            if axis.size != 1:
                op.unify(axis, whole)
    op.out([m, n])
    if _is_weight(op, 1):
        op.role(n, "projection")


@function("einsum")
def einsum(op: Op) -> None:
    """Letters are axes; an ellipsis is broadcast."""
    equation = op.attr("equation", "").replace(" ", "")
    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    env: dict[str, Axis] = {}
    dots: list[Axes] = []
    for i, term in enumerate(terms):
        axes = op.axes(i)
        before, dotted, after = term.partition("...")
        if dotted:
            width = len(axes) - len(before) - len(after)
            dots.append(axes[len(before) : len(before) + width])
            axes = [*axes[: len(before)], *axes[len(before) + width :]]
        if len(axes) != len(before + after):
            raise Unsure(f"the equation {equation!r} does not fit the ranks")
        for letter, axis in zip(before + after, axes, strict=True):
            if letter not in string.ascii_letters:
                raise Unsure(f"the equation {equation!r} is not understood")
            if letter not in env or env[letter].size == 1:
                env[letter] = axis
            elif axis.size != 1:
                op.unify(env[letter], axis)
    if "->" not in equation:
        letters = inputs.replace(",", "").replace(".", "")
        output = ("..." if dots else "") + "".join(
            sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        )
    spread = op.broadcast(dots) if dots else []
    out: Axes = []
    before, dotted, after = output.partition("...")
    out += [env[letter] for letter in before]
    if dotted:
        out += spread
    out += [env[letter] for letter in after]
    op.out(out)
    summed = [env[letter] for letter in sorted(set(env) - set(output))]
    if dots and not dotted:
        summed += spread
    op.contract(*summed)
    weights = [i for i in range(len(terms)) if _is_weight(op, i)]
    if len(terms) == 2 and not weights:
        shared = set(terms[0]) & set(terms[1])
        for letter in sorted(shared & set(output)):
            if letter in env:
                op.role(env[letter], "heads")
        for letter in sorted(shared - set(output)):
            if letter in env:
                op.role(env[letter], "head-dim")
    elif weights == [1]:
        for letter in sorted((set(terms[1]) & set(output)) - {"."}):
            op.role(env[letter], "projection")
