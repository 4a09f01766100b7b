"""Sequences of tensors: their axes are those that all of their elements have in common.

Elements are of one rank; where they are of unlike sizes the axis is pinned, and so is what it is
made of. A sequence that a loop fills starts without elements, and so without axes.
"""

from __future__ import annotations

from ..axes import Axis, cancel, leaves
from ..network import Axes, Unsure
from ..op import Op
from ..tables import function

_UNLIKE = "the elements of a sequence are of unlike sizes"


@function("sequence_empty")
def sequence_empty(op: Op) -> None:
    op.network.axes[op.outputs[0]] = None
    op.network.empty.add(op.outputs[0])


@function("sequence_insert")
def sequence_insert(op: Op) -> None:
    if op.inputs[0] in op.network.empty:
        op.out(op.axes(1))
    else:
        op.out(_joined(op, [op.axes(0), op.axes(1)]))


@function("sequence_construct")
def sequence_construct(op: Op) -> None:
    op.out(_joined(op, [op.axes(i) for i in range(len(op.inputs))]))


@function("sequence_erase")
def sequence_erase(op: Op) -> None:
    op.out(op.axes(0))


@function("sequence_at")
def sequence_at(op: Op) -> None:
    """One element. Which one is not followed: where sizes differ, each reading is of its own."""
    axes = [axis if axis.size is not None else _one_of(op, axis) for axis in op.axes(0)]
    op.out(axes)


@function("sequence_length")
def sequence_length(op: Op) -> None:
    op.out([])
    op.axes(0)


@function("split_to_sequence")
def split_to_sequence(op: Op) -> None:
    """Runs of one axis; or, without `keepdims`, its indices, which have this axis no more."""
    if op.has(1) and not op.attr("keepdims", 1):
        raise Unsure("whether its elements keep the axis is not agreed on")
    axes = list(op.axes(0))
    at = op.axis(0, len(axes))
    op.pin(axes[at], "split to a sequence")
    if op.attr("keepdims", 1):
        axes[at] = op.fixed(None, "split to a sequence")
    else:
        del axes[at]
    op.out(axes)


@function("concat_from_sequence")
def concat_from_sequence(op: Op) -> None:
    axes = list(op.axes(0))
    new = int(op.attr("new_axis", 0))
    rank = len(axes) + new
    at = int(op.attr("axis")) % rank
    if not new:
        op.pin(axes.pop(at), "laid end to end with other elements of a sequence")
    shape = op.out_shape()
    size = shape[at] if shape is not None and len(shape) == rank else None
    axes.insert(at, op.network.symbol(size))
    op.pin(axes[at], "as many as a sequence has")
    op.out(axes)


def _joined(op: Op, elements: list[Axes]) -> Axes:
    """The axes of a sequence that has all of these elements."""
    first = elements[0]
    if any(len(axes) != len(first) for axes in elements):
        raise Unsure("the elements of a sequence are of unlike ranks")
    found: Axes = []
    for i, axis in enumerate(first):
        rests = [cancel(axis, axes[i]) for axes in elements[1:]]
        for rest in rests:
            if rest is not None:
                op.unify(*rest)
        if None in rests:
            op.pin_all((axes[i] for axes in elements), _UNLIKE)
            axis = op.fixed(None, _UNLIKE)
        found.append(axis)
    return found


def _one_of(op: Op, axis: Axis) -> Axis:
    """An axis of the elements, as a single one of them has it."""
    unlike = any(
        why.reason in (_UNLIKE, "split to a sequence") for d in leaves(axis) for why in d.pins
    )
    return op.fixed(None, _UNLIKE) if unlike else axis
