"""Operators that make tensors from shapes: ConstantOfShape, Range, and random numbers."""

from __future__ import annotations

import math

from ..axes import Axis, Dim
from ..network import Axes
from ..op import Op
from ..sizes import axis_of, is_number
from ..tables import function


@function("constant_of_shape")
def constant_of_shape(op: Op) -> None:
    """A tensor of one value: any axis of it may be cut, if its shape operand is."""
    value = op.value(0)
    if value is None:
        op.out(op.out_fresh())
        op.pin_all(op.network.axes[op.outputs[0]] or (), "its shape is computed at run time")
        return
    axes: Axes = []
    patch: dict[int | None, Axis] = {}
    for i, element in enumerate(value.ravel().tolist()):
        axis = axis_of(element)
        if axis is None:
            axis = op.network.symbol(None)
        else:
            patch[i] = axis
        axes.append(axis)
    op.out(axes)
    op.patch(0, patch)


@function("counted")
def counted(op: Op) -> None:
    """Range: positions themselves are the values."""
    shape = op.network.shapes.get(op.outputs[0])
    axis: Axis = op.network.symbol(shape[0] if shape else None)
    values = [op.network.value_of(name) for name in op.inputs]
    known = [value.item() for value in values if value is not None and value.size == 1]
    if axis.size is None and len(known) == 3:
        start, limit, step = known
        if (start, step) == (0, 1):
            axis = axis_of(limit) or axis
        elif all(map(is_number, known)):
            axis = Dim(max(0, math.ceil((limit - start) / step)))
    op.pin(axis, "holds positions")
    op.out([axis])


@function("eye_like")
def eye_like(op: Op) -> None:
    op.pin_all(op.axes(0), "a diagonal of it is filled")
    op.out(op.axes(0))
