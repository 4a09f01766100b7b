"""Operators that reduce axes: sums, means, norms, arg-max, soft-max, cumulative sums."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..table import Kernel, Spec, ints, operator

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _over_one(call: Callable[[Tensor, int, bool], Tensor]) -> Reduce:
    """A reduction that torch has for one axis at a time."""

    def run(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        for axis in sorted((a % max(x.dim(), 1) for a in axes), reverse=True):
            x = call(x, axis, keep)
        return x

    return run


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.log(torch.sum(x, axes, keep))


def _extreme(x: Tensor, axes: list[int], keep: bool, largest: bool) -> Tensor:
    if x.dtype == torch.bool:
        return (torch.any if largest else torch.all)(x, axes, keep)
    if x.numel() == 0:  # of nothing, it is the other end of the type
        if x.is_floating_point():
            start: float = -torch.inf if largest else torch.inf
        else:
            start = torch.iinfo(x.dtype).min if largest else torch.iinfo(x.dtype).max
        return torch.sum(x, axes, keep, dtype=x.dtype) + start
    return (torch.amax if largest else torch.amin)(x, axes, keep)


_REDUCTIONS: dict[str, Reduce] = {
    "ReduceSum": lambda x, axes, keep: torch.sum(x, axes, keep, dtype=x.dtype),
    "ReduceMean": lambda x, axes, keep: (
        torch.mean(x, axes, keep)
        if x.is_floating_point()
        else torch.mean(x.double(), axes, keep).to(x.dtype)
    ),
    "ReduceMax": lambda x, axes, keep: _extreme(x, axes, keep, True),
    "ReduceMin": lambda x, axes, keep: _extreme(x, axes, keep, False),
    "ReduceProd": _over_one(lambda x, axis, keep: torch.prod(x, axis, keep, dtype=x.dtype)),
    "ReduceL1": lambda x, axes, keep: torch.sum(x.abs(), axes, keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: (
        torch.linalg.vector_norm(x, 2, axes, keep)
        if x.is_floating_point()
        else torch.sum(x * x, axes, keep).double().sqrt().to(x.dtype)
    ),
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keep, dtype=x.dtype),
}


@operator(*_REDUCTIONS, host=(1,))
def reduction(node: Spec) -> Kernel:
    """Axes are an attribute, or since opset 13 or 18 an operand."""
    call, keep = _REDUCTIONS[node.node.kind], bool(node.attr("keepdims", 1))
    given, noop = node.attr("axes"), node.attr("noop_with_empty_axes", 0)

    def run(x: Tensor, operand: Tensor | None = None) -> Tensor:
        axes = given if operand is None else ints(operand)
        if not axes:
            if noop:
                # Nothing is reduced; what is done to each element still is.
                return call(x.unsqueeze(0), [0], False)
            axes = list(range(x.dim()))
        if not axes:  # a number
            return call(x.unsqueeze(0), [0], False)
        return call(x, axes, keep)

    return run


@operator("ArgMax", "ArgMin", differentiable=False)
def arg_extreme(node: Spec) -> Kernel:
    axis, keep = node.attr("axis", 0), bool(node.attr("keepdims", 1))
    call = torch.argmax if node.node.kind == "ArgMax" else torch.argmin
    if not node.attr("select_last_index", 0):
        return lambda x: call(x, axis, keep)
    return lambda x: x.shape[axis] - 1 - call(x.flip(axis), axis, keep)


def _flattened(call: Callable[[Tensor, int], Tensor]) -> Callable[[Spec], Kernel]:
    """Before opset 13: over all axes from `axis` on, together."""

    def build(node: Spec) -> Kernel:
        axis = node.attr("axis", 1)

        def run(x: Tensor) -> Tensor:
            start = axis % x.dim() if axis < x.dim() else x.dim()
            if start == x.dim() - 1:
                return call(x, -1)
            rows = x.reshape(*x.shape[:start], -1)
            return call(rows, -1).reshape(x.shape)

        return run

    return build


def _along(call: Callable[[Tensor, int], Tensor]) -> Callable[[Spec], Kernel]:
    def build(node: Spec) -> Kernel:
        axis = node.attr("axis", -1)
        return lambda x: call(x, axis)

    return build


def _hardmax(x: Tensor, axis: int) -> Tensor:
    best = torch.argmax(x, axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1.0)


operator("Softmax", since=1)(_flattened(torch.softmax))
operator("Softmax", since=13)(_along(torch.softmax))
operator("LogSoftmax", since=1)(_flattened(torch.log_softmax))
operator("LogSoftmax", since=13)(_along(torch.log_softmax))
operator("Hardmax", since=1, differentiable=False)(_flattened(_hardmax))
operator("Hardmax", since=13, differentiable=False)(_along(_hardmax))


@operator("CumSum", "CumProd", host=(1,))
def cumulative(node: Spec) -> Kernel:
    exclusive, backward = node.attr("exclusive", 0), node.attr("reverse", 0)
    call, first = (torch.cumsum, 0) if node.node.kind == "CumSum" else (torch.cumprod, 1)

    def run(x: Tensor, operand: Tensor) -> Tensor:
        axis = ints(operand)[0]
        if backward:
            x = x.flip(axis)
        if exclusive:
            before = torch.full_like(x.narrow(axis, 0, min(1, x.shape[axis])), first)
            x = torch.cat([before, x.narrow(axis, 0, max(x.shape[axis] - 1, 0))], axis)
        found = call(x, axis, dtype=x.dtype)
        return found.flip(axis) if backward else found

    return run


@operator("TopK", host=(1,))
def top_k(node: Spec) -> Kernel:
    axis, largest = node.attr("axis", -1), bool(node.attr("largest", 1))
    given = node.attr("k")

    def run(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
        count = given if k is None else ints(k)[0]
        # Of equal ones the first comes first, which torch.topk does not promise.
        order = torch.sort(x.detach(), dim=axis, descending=largest, stable=True).indices
        places = order.narrow(axis, 0, count)
        return torch.gather(x, axis, places), places

    return run


@operator("Det")
def determinant(node: Spec) -> Kernel:
    return torch.linalg.det


@operator("Einsum")
def einsum(node: Spec) -> Kernel:
    equation = node.attr("equation").replace(" ", "")
    return lambda *operands: torch.einsum(equation, *operands)


@operator("Unique", differentiable=False)
def unique(node: Spec) -> Kernel:
    """In numpy, which gives first positions as well."""
    import numpy as np

    axis, in_order = node.attr("axis"), bool(node.attr("sorted", 1))

    def run(x: Tensor) -> tuple[Tensor, ...]:
        values, first, inverse, counts = np.unique(
            x.detach().cpu().numpy(),
            return_index=True,
            return_inverse=True,
            return_counts=True,
            axis=axis,
        )
        inverse = inverse.ravel()
        if not in_order:
            order = np.argsort(first)
            values = np.take(values, order, 0 if axis is None else axis)
            first, counts = first[order], counts[order]
            inverse = np.argsort(order)[inverse]
        made = (values, first, inverse, counts)
        return tuple(torch.from_numpy(np.ascontiguousarray(each)).to(x.device) for each in made)

    return run
