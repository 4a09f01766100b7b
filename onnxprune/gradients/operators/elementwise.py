"""Operators that work on each element: arithmetic, activations, comparisons, casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..table import Kernel, Spec, operator, plain
from ..types import torch_type

# -- arithmetic ----------------------------------------------------------------------------------


def _div(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or a.is_complex():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def _pow(a: Tensor, b: Tensor) -> Tensor:
    if b.dim() == 0 and b.device.type == "cpu" and not b.requires_grad:
        exponent = b.item()  # a number has a faster kernel, and no gradient of its own
        return torch.pow(a, exponent if a.is_floating_point() else int(exponent))
    return torch.pow(a, b).to(a.dtype)


plain("Neg", call=torch.neg)
plain("Abs", call=torch.abs)
plain("Reciprocal", call=torch.reciprocal)
plain("Sqrt", call=torch.sqrt)
plain("Exp", call=torch.exp)
plain("Log", call=torch.log)
plain("Erf", call=torch.erf)
for _name in (
    "Sin",
    "Cos",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Sinh",
    "Cosh",
    "Tanh",
    "Asinh",
    "Acosh",
):
    plain(_name, call=getattr(torch, _name.lower()))
plain("Atanh", call=torch.atanh)
plain("Floor", call=torch.floor, differentiable=False)
plain("Ceil", call=torch.ceil, differentiable=False)
plain("Round", call=torch.round, differentiable=False)
plain("Sign", call=torch.sign, differentiable=False)
plain("Identity", call=lambda x: x)
plain("MemcpyFromHost", "MemcpyToHost", call=lambda x: x)


_ARITHMETIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": _div, "Pow": _pow}
}


@operator(*_ARITHMETIC)
def arithmetic(node: Spec) -> Kernel:
    """Before opset 7, `axis` says where the second operand's axes stand."""
    run = _ARITHMETIC[node.node.kind]
    axis = node.attr("axis")
    if axis is None:
        return run

    def aligned(a: Tensor, b: Tensor) -> Tensor:
        return run(a, b.reshape(*b.shape, *[1] * (a.dim() - axis % a.dim() - b.dim())))

    return aligned


def _many(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Spec], Kernel]:
    def run(first: Tensor, *others: Tensor) -> Tensor:
        for each in others:
            first = call(first, each)
        return first

    return lambda node: run


operator("Sum")(_many(torch.add))
operator("Max")(_many(torch.maximum))
operator("Min")(_many(torch.minimum))


@operator("Mean")
def mean(node: Spec) -> Kernel:
    count = len(node.node.inputs)

    def run(first: Tensor, *others: Tensor) -> Tensor:
        for each in others:
            first = first + each
        return first / count

    return run


@operator("Mod")
def mod(node: Spec) -> Kernel:
    return torch.fmod if node.attr("fmod", 0) else torch.remainder


# -- comparisons and logic -----------------------------------------------------------------------

_COMPARISONS: dict[str, Kernel] = {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "BitwiseNot": torch.bitwise_not,
}
for _name, _call in _COMPARISONS.items():
    plain(_name, call=_call, differentiable=False)


@operator("IsInf", differentiable=False)
def is_inf(node: Spec) -> Kernel:
    low, high = node.attr("detect_negative", 1), node.attr("detect_positive", 1)

    def run(x: Tensor) -> Tensor:
        found = torch.isinf(x)
        if not low:
            found = found & (x > 0)
        return found if high else found & (x < 0)

    return run


@operator("BitShift", differentiable=False)
def bit_shift(node: Spec) -> Kernel:
    left = node.attr("direction") == "LEFT"
    return torch.bitwise_left_shift if left else torch.bitwise_right_shift


plain("Where", call=torch.where, fixed=(0,))

# -- activations ---------------------------------------------------------------------------------

plain("Relu", call=torch.relu)
plain("Sigmoid", call=torch.sigmoid)
plain("Softplus", call=lambda x: F.softplus(x, threshold=80.0))
plain("Softsign", call=F.softsign)
plain("HardSwish", call=F.hardswish)
plain("Mish", call=F.mish)
plain("com.microsoft.Gelu", call=F.gelu)


@operator("com.microsoft.QuickGelu")
def quick_gelu(node: Spec) -> Kernel:
    alpha = node.attr("alpha", 1.702)
    if alpha == 1.0:
        return F.silu
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("Gelu")
def gelu(node: Spec) -> Kernel:
    how = node.attr("approximate", "none")
    return lambda x: F.gelu(x, approximate=how)


@operator("Swish")
def swish(node: Spec) -> Kernel:
    alpha = node.attr("alpha", 1.0)
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("LeakyRelu")
def leaky_relu(node: Spec) -> Kernel:
    slope = node.attr("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope)


plain("PRelu", call=lambda x, slope: torch.where(x < 0, slope * x, x))


@operator("Elu")
def elu(node: Spec) -> Kernel:
    alpha = node.attr("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@operator("Celu")
def celu(node: Spec) -> Kernel:
    alpha = node.attr("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@operator("Selu")
def selu(node: Spec) -> Kernel:
    alpha, gamma = node.attr("alpha", 1.67326319217681884765625), node.attr("gamma", 1.0507009873)
    return lambda x: gamma * F.elu(x, alpha)


@operator("HardSigmoid")
def hard_sigmoid(node: Spec) -> Kernel:
    alpha, beta = node.attr("alpha", 0.2), node.attr("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("ThresholdedRelu")
def thresholded_relu(node: Spec) -> Kernel:
    alpha = node.attr("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Shrink")
def shrink(node: Spec) -> Kernel:
    bias, lambd = node.attr("bias", 0.0), node.attr("lambd", 0.5)

    def run(x: Tensor) -> Tensor:
        small = torch.zeros_like(x)
        return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, small))

    return run


#: Activations that other operators name in an attribute: `alpha`, `beta` -> function.
ACTIVATIONS: dict[str, Callable[[float | None, float | None], Callable[[Tensor], Tensor]]] = {
    "relu": lambda a, b: torch.relu,
    "tanh": lambda a, b: torch.tanh,
    "sigmoid": lambda a, b: torch.sigmoid,
    "silu": lambda a, b: F.silu,
    "swish": lambda a, b: F.silu,
    "gelu": lambda a, b: F.gelu,
    "softsign": lambda a, b: F.softsign,
    "softplus": lambda a, b: F.softplus,
    "hardswish": lambda a, b: F.hardswish,
    "affine": lambda a, b: lambda x: (1.0 if a is None else a) * x + (b or 0.0),
    "leakyrelu": lambda a, b: lambda x: F.leaky_relu(x, 0.01 if a is None else a),
    "thresholdedrelu": lambda a, b: (
        lambda x: torch.where(x >= (1.0 if a is None else a), x, torch.zeros_like(x))
    ),
    "scaledtanh": lambda a, b: lambda x: (1.0 if a is None else a) * torch.tanh((b or 1.0) * x),
    "hardsigmoid": lambda a, b: (
        lambda x: torch.clamp((0.2 if a is None else a) * x + (0.5 if b is None else b), 0.0, 1.0)
    ),
    "elu": lambda a, b: lambda x: F.elu(x, 1.0 if a is None else a),
    "clip": lambda a, b: lambda x: torch.clamp(x, a, b),
    "": lambda a, b: lambda x: x,
}


def activation(
    node: Spec, name: str, alpha: float | None = None, beta: float | None = None
) -> Callable[[Tensor], Tensor]:
    """The activation that another operator names. Raises UnsupportedModel where it is unknown."""
    made = ACTIVATIONS.get(name.lower())
    if made is None:
        raise node.refuse(f"its activation {name!r} is unknown")
    return made(alpha, beta)


# -- bounds --------------------------------------------------------------------------------------


@operator("Clip", since=1)
def clip_between(node: Spec) -> Kernel:
    low, high = node.attr("min", -3.4e38), node.attr("max", 3.4e38)
    return lambda x: torch.clamp(x, low, high)


@operator("Clip", since=11, fixed=(1, 2))
def clip(node: Spec) -> Kernel:
    def run(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        if low is None and high is None:
            return x
        return torch.clamp(
            x,
            None if low is None else low.reshape(()),
            None if high is None else high.reshape(()),
        )

    return run


# -- types ---------------------------------------------------------------------------------------


@operator("Cast")
def cast(node: Spec) -> Kernel:
    to = node.attr("to")
    try:
        dtype = torch_type(to, node.dtype)
    except KeyError:
        raise node.refuse("it makes strings") from None
    return _cast_to(dtype)


def _cast_to(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    unsigned = dtype == torch.uint8

    def run(x: Any) -> Tensor:
        if not isinstance(x, Tensor):
            return torch.from_numpy(x.astype("f8")).to(dtype)
        if unsigned and x.is_floating_point():
            return x.to(torch.int64).to(dtype)  # wraps around, where torch leaves it open
        return x.to(dtype)

    return run


@operator("CastLike")
def cast_like(node: Spec) -> Kernel:
    return lambda x, like: x.to(like.dtype)


@operator("BitCast", differentiable=False)
def bit_cast(node: Spec) -> Kernel:
    dtype = torch_type(node.attr("to"), node.dtype)
    return lambda x: x.view(dtype)


@operator("Dropout", fixed=(1, 2))
def dropout(node: Spec) -> Kernel:
    """As at inference, whatever `training_mode` says: what is trained is the file's function."""
    return lambda x, *_: (x, torch.ones_like(x, dtype=torch.bool))


# -- onnxruntime's fusions -----------------------------------------------------------------------


@operator("com.microsoft.BiasGelu")
def bias_gelu(node: Spec) -> Kernel:
    return lambda x, bias: F.gelu(x + bias)


@operator("com.microsoft.FastGelu")
def fast_gelu(node: Spec) -> Kernel:
    def run(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.gelu(x if bias is None else x + bias, approximate="tanh")

    return run


@operator("com.microsoft.BiasSplitGelu")
def bias_split_gelu(node: Spec) -> Kernel:
    def run(x: Tensor, bias: Tensor) -> Tensor:
        a, b = (x + bias).chunk(2, -1)
        return a * F.gelu(b)

    return run


plain("com.microsoft.BiasAdd", call=lambda x, bias, skip: x + bias + skip)
plain("com.microsoft.GatedAdd", call=lambda x, y, gate: x + y * gate)


@operator("com.microsoft.BiasSoftmax")
def bias_softmax(node: Spec) -> Kernel:
    axis, inner = node.attr("axis", 1), node.attr("is_inner_broadcast", 1)

    def run(x: Tensor, bias: Tensor) -> Tensor:
        if not inner and bias.dim() < x.dim():
            bias = bias.reshape(*bias.shape, *[1] * (x.dim() - bias.dim()))
        found = x + bias
        start = axis % x.dim()
        return torch.softmax(found.flatten(start), start).reshape(found.shape)

    return run


# -- of early opsets, and of other domains -------------------------------------------------------


@operator("Affine")
def affine(node: Spec) -> Kernel:
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 0.0)
    return lambda x: alpha * x + beta


@operator("ScaledTanh")
def scaled_tanh(node: Spec) -> Kernel:
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    return lambda x: alpha * torch.tanh(beta * x)


@operator("ParametricSoftplus")
def parametric_softplus(node: Spec) -> Kernel:
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    return lambda x: alpha * F.softplus(beta * x)


@operator("Scale")
def scale(node: Spec) -> Kernel:
    by = node.attr("scale", 1.0)
    return lambda x: x * by


@operator("ai.onnx.ml.Scaler")
def scaler(node: Spec) -> Kernel:
    scale, offset = (
        torch.tensor(node.attr("scale", [1.0])),
        torch.tensor(node.attr("offset", [0.0])),
    )
    return lambda x: (x.to(node.dtype) - offset.to(x.device)) * scale.to(x.device)


@operator("ai.onnx.ml.Normalizer")
def normalizer(node: Spec) -> Kernel:
    how = node.attr("norm", "MAX")
    if how == "MAX":
        return lambda x: x / x.abs().amax(-1, keepdim=True)
    power = 1.0 if how == "L1" else 2.0
    return lambda x: x / torch.linalg.vector_norm(x, power, -1, keepdim=True)
