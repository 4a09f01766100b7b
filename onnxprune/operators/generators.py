"""Operators that make tensors from shapes: ConstantOfShape, Range, and random numbers."""

from __future__ import annotations

from ..axes import Axis, Dim
from ..network import Axes
from ..op import Op
from ..tables import function
from ..values import Size, is_number


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
        if is_number(element):
            axes.append(Dim(int(element)))
            patch[i] = axes[-1]
        elif isinstance(element, Size) and element.factor == 1 and len(element.dims) == 1:
            axes.append(element.dims[0])
        else:
            axes.append(op.network.symbol(None))
    op.out(axes)
    op.patch(0, patch)


@function("counted")
def counted(op: Op) -> None:
    """Range: positions themselves are the values."""
    value = op.network.shapes.get(op.outputs[0])
    axes = [op.network.symbol(size) for size in value] if value else [op.network.symbol(None)]
    op.pin_all(axes, "holds positions")
    op.out(axes)


@function("eye_like")
def eye_like(op: Op) -> None:
    op.pin_all(op.axes(0), "a diagonal of it is filled")
    op.out(op.axes(0))
