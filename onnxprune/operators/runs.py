"""Operators on runs of an axis: Concat, Split, Slice, Pad, Gather and their kin."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from ..axes import (
    Axis,
    Concat,
    Dim,
    Pin,
    cancel,
    concat,
    factor,
    is_pinned,
    leaves,
    pin,
    resolve,
    split,
)
from ..network import Axes, Unsure
from ..op import Op
from ..sizes import UNKNOWN, is_number, same, size_of
from ..strides import counts_through
from ..tables import function
from .reshaping import regroup

#: So many constant indices of a Gather are runs of their own, and so many runs of sizes that only
#: the run time knows are followed; more of them pin.
_FEW = 8


@function("concat")
def concatenate(op: Op) -> None:
    concatenate_of(op, [op.axes(i) for i in range(len(op.inputs)) if op.has(i)], op.attr("axis", 1))


def concatenate_of(op: Op, operands: list[Axes], at: int) -> None:
    """The axes of `operands` laid end to end along axis `at`."""
    rank = len(operands[0])
    if any(len(axes) != rank for axes in operands):
        raise Unsure("operands of different ranks")
    if not -rank <= at < rank:
        raise Unsure(f"axis {at} is outside of rank {rank}")
    at %= rank
    out = list(operands[0])
    for axes in operands[1:]:
        for i, axis in enumerate(axes):
            if i != at:
                op.unify(out[i], axis)
    runs = [axes[at] for axes in operands]
    if all(is_pinned(run) or run.size is None for run in runs):
        # Nothing to follow: positions, sequences, boxes.
        sizes = [run.size for run in runs]
        hint = op.out_shape()
        if None in sizes:
            # A run of `(h w 6)`, h and w being the run time's: only its size can be followed on.
            op.pin_all(runs, _UNKNOWN_RUN)
            whole = concat(runs)
            out[at] = op.network.symbol(hint[at] if hint and len(hint) == rank else None)
            if any(resolve(out[at]) is part for part in leaves(whole)):
                out[at] = Dim(None)  # a file that gives it the name of a part of it
            op.pin(out[at], _UNKNOWN_RUN)
            if not isinstance(whole, Concat) or len(whole.parts) <= _FEW:
                op.unify(out[at], whole)
        else:
            out[at] = Dim(sum(s for s in sizes if s), _pins(runs))
    else:
        for run in runs:
            if run.size is None:
                op.pin_all(runs, _UNKNOWN_RUN)
        out[at] = concat(runs)
    op.out(out)


_UNKNOWN_RUN = "laid end to end with a run of a size only known at run time"


def _pins(axes: Axes) -> tuple[Pin, ...]:
    """Why `axes` are pinned, the widest of their dims first; for an axis that is made of them."""
    dims = sorted((dim for axis in axes for dim in leaves(axis)), key=lambda dim: -(dim.size or 0))
    found = dict.fromkeys(why for dim in dims for why in dim.pins)
    return tuple(found)[: Dim.MAX_PINS] or (Pin("made of single positions"),)


@function("split")
def split_runs(op: Op) -> None:
    axes = op.axes(0)
    at = op.axis(0, len(axes))
    axis = axes[at]
    outputs = len(op.outputs)
    sizes = op.ints(1, "split")
    given = sizes is not None
    if axis.size is None:
        op.pin(axis, "split, and its size is only known at run time")
        for i in range(outputs):
            out = list(axes)
            shape = op.out_shape(i)
            out[at] = op.network.symbol(shape[at] if shape else None)
            op.pin(out[at], "split, and its size is only known at run time")
            op.out(out, i)
        return
    if sizes is None:
        each = -(-axis.size // outputs)
        sizes = [min(each, axis.size - i * each) for i in range(outputs)]
    if sum(sizes) != axis.size or len(sizes) != outputs or min(sizes) < 0:
        raise Unsure(f"cannot split {axis.size} in {sizes}")
    runs: Axes = []
    rest: Axis = axis
    for each in sizes:
        run, rest = split(rest, each)
        runs.append(run)
    for i, run in enumerate(runs):
        out = list(axes)
        out[at] = run
        op.out(out, i)
    slot: int | str = 1 if op.network.model.opset >= 13 else "split"
    if given or not is_pinned(axis):
        op.patch(slot, dict(enumerate(runs)))


@function("slice")
def slice_runs(op: Op) -> None:
    axes = list(op.axes(0))
    attributes = not op.has(1)
    named = _elements(op, 3, "axes")
    starts = _elements(op, 1, "starts", len(named))
    ends = _elements(op, 2, "ends", len(named))
    where = [int(i) for i in named or range(len(starts))]
    steps = _elements(op, 4, None) or [1] * len(starts)
    hint = op.out_shape()
    first: dict[int | None, Axis] = {}
    last: dict[int | None, Axis] = {}
    from_end: tuple[dict[int | None, Axis], dict[int | None, Axis]] = {}, {}
    for i, (start, end, at, step) in enumerate(zip(starts, ends, where, steps, strict=True)):
        at %= len(axes)
        axis = axes[at]
        size = axis.size
        known = size is not None and all(map(is_number, (start, end, step)))
        if known and size is not None and (start, step) == (0, 1) and end >= size:
            if end == size:
                last[i] = axis
            continue
        whole = is_number(start) and (start, step) == (0, 1) and is_number(end)
        if size is None and whole and end >= 2**31 - 1:
            continue  # all of it, whatever its size is
        if known and size is not None and _one_of_each(start, end, step, size):
            # One index of the inner factor, every one of the outer.
            axes[at], inner = factor(axis, step)
            op.pin(inner, f"cut with step {step}")
            last[i] = axis
            continue
        between = None if known else _between(axis, start, end, step)
        if between is not None:
            axes[at] = between
            continue
        if not known or step != 1 or is_pinned(axis) or size is None:
            if not known:
                op.pin(axis, "cut at positions that only the run time knows")
            elif not is_pinned(axis):
                op.pin(axis, f"cut with step {step}")
            count = None
            if known and size is not None:
                count = len(
                    range(*slice(int(start), _stop(end, step, size), int(step)).indices(size))
                )
            declared = hint[at] if hint and len(hint) == len(axes) else None
            axes[at] = op.network.symbol(count if count is not None else declared)
            for why in _pins([axis]):
                pin(axes[at], why)
            continue
        begin, stop, _ = slice(int(start), int(end), 1).indices(size)
        left, rest = split(axis, begin)
        run, _ = split(rest, max(0, stop - begin))
        axes[at] = run
        first[i] = left
        last[i] = concat((left, run))
        # Bounds that count from the end are written from the front as soon as anything changes.
        if start < 0:
            from_end[0][i] = axis
        if end < 0:
            from_end[1][i] = axis
    op.out(axes)
    op.patch("starts" if attributes else 1, first, from_end[0])
    op.patch("ends" if attributes else 2, last, from_end[1])


def _between(axis: Axis, start: Any, end: Any, step: Any) -> Axis | None:
    """What a Slice leaves of runs that all stay, where it begins and ends at their boundaries."""
    if not is_number(step) or step != 1 or not is_pinned(axis):
        return None
    axis = resolve(axis)
    runs = list(axis.parts) if isinstance(axis, Concat) else [axis]
    if len(runs) > _FEW:
        return None
    boundaries = list(accumulate(map(size_of, runs), initial=0))
    if is_number(end) and end >= 2**31 - 1:
        end = boundaries[-1]
    first = [i for i, boundary in enumerate(boundaries) if same(boundary, start)]
    last = [i for i, boundary in enumerate(boundaries) if same(boundary, end)]
    if not first or not last or first[0] >= last[0]:
        return None
    return concat(runs[first[0] : last[0]])


def _one_of_each(start: Any, end: Any, step: Any, size: int) -> bool:
    """`x[start::step]`, of an axis that is a multiple of `step`."""
    return bool(step > 1 and size % step == 0 and 0 <= start < step and end > size - step + start)


def _stop(end: Any, step: Any, size: int) -> int | None:
    return None if step < 0 and end < -size else int(end)


def _elements(op: Op, i: int, attribute: str | None, count: int = 0) -> list[Any]:
    """The elements of operand `i`, or of an attribute; `count` unknown ones where it is data."""
    if op.has(i):
        value = op.value(i)
        if value is None and not count:
            raise Unsure(f"operand {op.inputs[i]!r} is computed at run time")
        found: list[Any] = [UNKNOWN] * count if value is None else value.ravel().tolist()
        return found
    return list(op.attr(attribute) or ()) if attribute else []


@function("pad")
def pad(op: Op) -> None:
    axes = list(op.axes(0))
    mode = op.attr("mode", "constant")
    value = op.value(1) if op.has(1) else None
    if op.has(1) and value is None:
        op.pin_all(axes, "padded by widths that only the run time knows")
        op.out([op.network.symbol(None) for _ in axes])
        return
    pads = _elements(op, 1, "pads" if op.attr("pads") is not None else "paddings")
    where = [i % len(axes) for i in (op.ints(3) or range(len(axes)))]
    fill = op.value(2) if op.has(2) else None
    if float(op.attr("value", 0.0)) != 0 or (op.has(2) and (fill is None or fill.any())):
        op.loses_zero()
    patch: dict[int | None, Axis] = {}
    for i, at in enumerate(where):
        before, after = pads[i], pads[i + len(where)]
        axis = axes[at]
        if is_number(before) and is_number(after) and before == after == 0:
            continue
        if not (is_number(before) and is_number(after)):
            op.pin(axis, "padded by widths that only the run time knows")
            axes[at] = op.network.symbol(None)
            continue
        if axis.size is None or is_pinned(axis) or mode != "constant" or min(before, after) < 0:
            op.pin(axis, f"padded ({mode})")
            size = None if axis.size is None else axis.size + before + after
            axes[at] = op.network.symbol(size)
            op.pin(axes[at], f"padded ({mode})")
            continue
        runs = Dim(before), axis, Dim(after)
        axes[at] = concat(runs)
        patch[i], patch[i + len(where)] = runs[0], runs[2]
    op.out(axes)
    op.patch(1 if op.has(1) else "pads", patch)


@function("gather")
def gather(op: Op) -> None:
    data, indices = op.axes(0), op.axes(1)
    at = op.axis(0, len(data))
    op.pin_all(indices, "indices are values, not channels")
    if len(data) == 1 < len(indices) and counts_through(
        op.network, op.inputs[1], indices, data[at]
    ):
        # A view with strides, which has the elements in the order that they are in.
        sizes = [size_of(axis) for axis in indices]
        if sum(not is_number(size) for size in sizes) < 2:
            found = regroup(op, [data[at]], sizes)
            op.out([*data[:at], *found, *data[at + 1 :]])
            op.network.reshapes.append((op.node, op.network.axes[op.outputs[0]] or []))
            return
    picked = _picked(op, data[at])
    if picked is None:
        op.pin(data[at], "picked by index")
    elif indices:
        indices = [concat(picked)]
    op.out([*data[:at], *indices, *data[at + 1 :]])


def _picked(op: Op, axis: Axis) -> Axes | None:
    """The runs, of one index each, that a few constant indices pick; None where it is not so."""
    if axis.size is None or is_pinned(axis) or len(op.axes(1)) > 1:
        return None
    value = op.network.value_of(op.inputs[1])
    if (
        value is None
        or not 0 < value.size <= _FEW
        or not all(map(is_number, value.ravel().tolist()))
    ):
        return None
    runs: Axes = []
    before: dict[int | None, Axis] = {}
    from_end: dict[int | None, Axis] = {}
    for i, index in enumerate(int(each) for each in value.ravel().tolist()):
        if not -axis.size <= index < axis.size:
            return None
        place: int | None = i if value.ndim else None
        left, rest = split(axis, index % axis.size)
        run, _ = split(rest, 1)
        op.pin(run, "picked by index")
        runs.append(run)
        before[place] = left
        if index < 0:
            from_end[place] = axis
    op.patch(1, before, from_end)
    return runs


@function("gather_elements")
def gather_elements(op: Op) -> None:
    """Along every axis but one, data and indices run side by side, but may be of unlike lengths."""
    data, indices = op.axes(0), op.axes(1)
    _side_by_side(op, data, [indices], op.axis(0, len(data)), "picked by index")
    op.out(indices)


def _side_by_side(op: Op, data: Axes, others: list[Axes], at: int, why: str) -> None:
    """`others` run beside `data`, but along axis `at`; pinned where they may stop before it."""
    for i, axis in enumerate(data):
        here = [other[i] for other in others]
        if i == at:
            op.pin_all((axis, *here), why)
            continue
        rests = [cancel(axis, each) for each in here]
        if None in rests:
            op.pin_all((axis, *here), "of unlike lengths")
        for rest in rests:
            if rest is not None:
                op.unify(*rest)


@function("gather_nd")
def gather_nd(op: Op) -> None:
    data, indices = op.axes(0), op.axes(1)
    batch = int(op.attr("batch_dims", 0))
    width = indices[-1].size
    op.pin_all(indices, "indices are values, not channels")
    if width is None:
        raise Unsure("the number of indexed axes is only known at run time")
    for i in range(batch):
        op.unify(data[i], indices[i])
    op.pin_all(data[: batch + width], "picked by index")
    op.out([*indices[:-1], *data[batch + width :]])


@function("scatter_nd")
def scatter_nd(op: Op) -> None:
    data, indices, updates = op.axes(0), op.axes(1), op.axes(2)
    width = indices[-1].size
    op.pin_all(indices, "indices are values, not channels")
    if width is None:
        raise Unsure("the number of indexed axes is only known at run time")
    op.pin_all(data[:width], "written by index")
    op.pin_all(updates[: len(indices) - 1], "written by index")
    for a, b in zip(data[width:], updates[len(indices) - 1 :], strict=True):
        op.unify(a, b)
    op.out(data)


@function("scatter_elements")
def scatter_elements(op: Op) -> None:
    data, others = op.axes(0), [op.axes(1), op.axes(2)]
    _side_by_side(op, data, others, op.axis(0, len(data)), "written by index")
    op.out(data)


@function("tensor_scatter")
def tensor_scatter(op: Op) -> None:
    """TensorScatter: an update is written along one axis of a cache."""
    cache, update = op.axes(0), op.axes(1)
    at = op.axis(-2, len(cache))
    for i, (a, b) in enumerate(zip(cache, update, strict=True)):
        if i == at:
            op.pin_all((a, b), "written by index")
        else:
            op.unify(a, b)
    if op.has(2):
        op.pin_all((*op.axes(2), cache[0]), "written by index")
    op.out(cache)


@function("one_hot")
def one_hot(op: Op) -> None:
    axes = list(op.axes(0))
    depth = op.value(1)
    at = int(op.attr("axis", -1))
    at = at + len(axes) + 1 if at < 0 else at
    known = depth is not None and is_number(depth.ravel().tolist()[0])
    size = int(depth.ravel().tolist()[0]) if known and depth is not None else None
    op.pin_all(axes, "indices are values, not channels")
    classes = op.network.symbol(size)
    op.pin(classes, "one for each class")
    op.out([*axes[:at], classes, *axes[at:]])
