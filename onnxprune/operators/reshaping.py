"""Operators that rearrange axes: Reshape and its kin, Transpose, Expand, Tile, Shape."""

from __future__ import annotations

from typing import Any

from ..axes import Axis, Dim, Product, factor, is_pinned, product, resolve
from ..network import Axes, Unsure
from ..op import Op
from ..sizes import UNKNOWN, Size, axis_of, is_number, ratio, same, size_of
from ..tables import function
from ..values import shape_range


@function("transpose")
def transpose(op: Op) -> None:
    axes = op.axes(0)
    perm = op.attr("perm") or list(reversed(range(len(axes))))
    if sorted(perm) != list(range(len(axes))):
        raise Unsure(f"perm {perm} is not a permutation of {len(axes)} axes")
    op.out([axes[i] for i in perm])


@function("unsqueeze")
def unsqueeze(op: Op) -> None:
    axes = list(op.axes(0))
    where = op.ints(1, "axes") or []
    rank = len(axes) + len(where)
    for at in sorted(i % rank for i in where):
        axes.insert(at, Dim(1))
    op.out(axes)


@function("expand_dims")
def expand_dims(op: Op) -> None:
    """ExpandDims: one new axis, at a place that is an operand."""
    axes = list(op.axes(0))
    (at,) = op.ints(1) or [0]
    axes.insert(at + len(axes) + 1 if at < 0 else at, Dim(1))
    op.out(axes)


@function("squeeze")
def squeeze(op: Op) -> None:
    axes = op.axes(0)
    where = op.ints(1, "axes")
    if where is None:
        # Without axes it removes every axis of size 1, those that pruning makes included: the axes
        # are written where one that stays has changed.
        if any(axis.size is None for axis in axes):
            raise Unsure("Squeeze without axes, on sizes that are only known at run time")
        where = [i for i, axis in enumerate(axes) if axis.size == 1]
        for axis in axes:
            op.freeze("axes", where, axis)
    dropped = {i % len(axes) for i in where}
    op.out([axis for i, axis in enumerate(axes) if i not in dropped])


@function("flatten")
def flatten(op: Op) -> None:
    axes = op.axes(0)
    at = int(op.attr("axis", 1))
    at = at + len(axes) if at < 0 else at
    op.out([product(axes[:at]), product(axes[at:])])


@function("reshape")
def reshape(op: Op) -> None:
    axes = op.axes(0)
    if op.has(1):
        value = op.value(1)
        if value is None:
            target: list[Any] = [UNKNOWN] * len(op.out_fresh())
        else:
            target = value.ravel().tolist()
        slot: int | str = 1
    else:
        target, slot = list(op.attr("shape", [])), "shape"
    sizes: list[Any] = []
    for i, element in enumerate(target):
        if is_number(element) and int(element) == 0 and not op.attr("allowzero", 0):
            if i >= len(axes):
                raise Unsure(f"the target {target} copies an axis that the input does not have")
            element = size_of(axes[i])
        sizes.append(int(element) if is_number(element) else element)
    out = regroup(op, axes, sizes)
    for axis, element in zip(out, target, strict=True):
        if element is UNKNOWN and axis.size is None and not is_pinned(axis):
            op.pin(axis, "its size is computed at run time")
    op.out(out)
    patch: dict[int | None, Axis] = {}
    copied: dict[int | None, Axis] = {}
    for i, (axis, element) in enumerate(zip(out, target, strict=True)):
        if not (is_number(element) and int(element) in (0, -1)):
            patch[i] = axis
        elif int(element) == 0 and i < len(axes) and resolve(axis) is not resolve(axes[i]):
            # 0 copies a size that this axis, made of other channels, only happens to have.
            patch[i], copied[i] = axis, axes[i]
    op.patch(slot, patch, copied)


def regroup(op: Op, axes: Axes, sizes: list[Any]) -> Axes:
    """The axes of a row-major reshape of `axes` to `sizes`, of which one may be -1 or unknown.

    Input and output are read as lists of factors, matched from the left and then from the right;
    what is left between (where a size is known at run time only) is pinned.
    """
    if any(axis.size == 0 for axis in axes):
        raise Unsure("an axis of its input is empty")
    factors = [f for axis in axes for f in _factors(axis) if f.size != 1]
    unknown = [i for i, size in enumerate(sizes) if size is UNKNOWN or size == -1]
    if len(unknown) == 1:
        (at,) = unknown
        rest = ratio([size_of(axis) for axis in axes], [*sizes[:at], *sizes[at + 1 :]])
        sizes = [*sizes[:at], rest, *sizes[at + 1 :]]
    out: list[list[Axis]] = [[] for _ in sizes]
    left = _match(factors, sizes, out, range(len(sizes)), front=True)
    if left == len(sizes) and not factors:
        return [product(each) if each else Dim(1) for each in out]
    # `left` sizes were matched from the front; those from `done` on from the back. Factors that are
    # left over when all were matched are 1 when the model runs.
    done = 1 + _match(factors, sizes, out, range(len(sizes) - 1, left - 1, -1), front=False)
    op.pin_all(factors, "merged or split in a way that is only known at run time")
    result: Axes = []
    declared = op.network.shapes.get(op.outputs[0])
    for i, each in enumerate(out):
        if i < left or i >= done:
            result.append(product(each) if each else Dim(1))
        else:
            size = sizes[i] if isinstance(sizes[i], int) and sizes[i] >= 0 else None
            if size is None and declared is not None and len(declared) == len(sizes):
                fresh: Axis = op.network.symbol(declared[i])
            else:
                fresh = op.network.symbol(size)
            op.pin(fresh, "merged or split in a way that is only known at run time")
            result.append(fresh)
    return result


def _factors(axis: Axis) -> list[Axis]:
    axis = resolve(axis)
    return list(axis.parts) if isinstance(axis, Product) else [axis]


def _match(
    factors: list[Axis], sizes: list[Any], out: list[list[Axis]], order: range, front: bool
) -> int:
    """Give factors to the output axes in `order`, taking them from one end of `factors`.

    Returns the first place where it could not go on (its factors are left in `factors`), or the
    place after the last.
    """
    end = 0 if front else -1
    for i in order:
        wanted = sizes[i]
        taken: list[Axis] = []
        start = list(factors)
        while wanted != 1:
            got = _take(factors, wanted, end)
            if got is None:
                factors[:] = start
                return i
            taken.append(got)
            wanted = ratio([wanted], [size_of(got)])
        out[i] = taken if front else taken[::-1]
    return order.stop


def _take(factors: list[Axis], wanted: Any, end: int) -> Axis | None:
    """Take from one end of `factors` a factor that divides `wanted`; None where there is none."""
    if not factors or wanted is UNKNOWN or wanted == -1 or wanted == 0:
        return None
    first = resolve(factors[end])
    if isinstance(first, Product):
        factors[end : end + 1 or None] = list(first.parts)
        first = resolve(factors[end])
    size = first.size
    if size is None or isinstance(wanted, Size):
        exact = isinstance(wanted, Size) and ratio([wanted], [size_of(first)]) is not UNKNOWN
        return factors.pop(end) if exact else None
    if size and wanted % size == 0:
        return factors.pop(end)
    if size % wanted == 0 and size:
        outer, inner = factor(first, size // wanted) if end == 0 else factor(first, wanted)
        factors[end] = inner if end == 0 else outer
        return outer if end == 0 else inner
    return _take_block(factors, wanted, end)


def _take_block(factors: list[Axis], wanted: Any, end: int) -> Axis | None:
    """`wanted` and the next factor have no common form alone: merge factors until they have.

    `[6, 4]` read as `[8, 3]` merges 6 and 4, and leaves it to the algebra to pin what can't be cut.
    """
    if not isinstance(wanted, int) or len(factors) < 2:
        return None
    merged: list[Axis] = []
    size = 1
    while factors and factors[end].size is not None and size % wanted:
        merged.append(factors.pop(end))
        size *= merged[-1].size or 1
    if size % wanted:
        factors[:] = merged + factors if end == 0 else factors + merged[::-1]
        return None
    block = product(merged if end == 0 else merged[::-1])
    outer, inner = factor(block, size // wanted) if end == 0 else factor(block, wanted)
    factors.insert(0 if end == 0 else len(factors), inner if end == 0 else outer)
    return outer if end == 0 else inner


_EXPANDED = "expanded to a size that is only known at run time"


@function("expand")
def expand(op: Op) -> None:
    axes = op.axes(0)
    value = op.value(1)
    target: list[Any] = (
        value.ravel().tolist() if value is not None else [UNKNOWN] * len(op.out_fresh())
    )
    rank = max(len(axes), len(target))
    hint = op.out_shape()
    out: Axes = []
    patch: dict[int | None, Axis] = {}
    for at in range(rank):
        axis = axes[at - rank + len(axes)] if at >= rank - len(axes) else Dim(1)
        place = at - rank + len(target)
        element = target[place] if place >= 0 else 1
        if is_number(element) and int(element) == 1:
            out.append(axis)
            continue
        if axis.size == 1:
            fresh = axis_of(element)
            if fresh is None:
                fresh = op.network.symbol(hint[at] if hint and len(hint) == rank else None)
                op.pin(fresh, _EXPANDED)
            axis = fresh
        elif is_number(element) and axis.size is None:  # it is 1, or it has that size already
            op.pin(axis, _EXPANDED)
            axis = op.fixed(int(element), _EXPANDED)
        elif not is_number(element) and not _is_size(axis, element):
            op.pin(axis, _EXPANDED)
        out.append(axis)
        if element is not UNKNOWN:
            patch[place] = axis
    op.out(out)
    op.patch(1, patch)


def _is_size(axis: Axis, element: Any) -> bool:
    """Whether `element`, computed at run time, is the size of `axis`: then it changes with it."""
    return isinstance(element, Size) and same(size_of(axis), element)


@function("tile")
def tile(op: Op) -> None:
    axes = op.axes(0)
    value = op.value(1)
    repeats: list[Any] = [UNKNOWN] * len(axes) if value is None else value.ravel().tolist()
    if len(repeats) != len(axes):
        raise Unsure("not one number of repeats for each axis")
    out: Axes = []
    patch: dict[int | None, Axis] = {}
    for i, (axis, n) in enumerate(zip(axes, repeats, strict=True)):
        copies = axis_of(n)  # each like the others, so any of them may go
        if copies is None:
            copies = op.fixed(None, "as many copies as only the run time knows")
        elif copies.size != 1:
            patch[i] = copies
        out.append(axis if copies.size == 1 else product((copies, axis)))
    op.out(out)
    op.patch(1, patch)


@function("shape")
def shape(op: Op) -> None:
    axes = op.axes(0)
    start, end = shape_range(op, len(axes))
    op.network.shape_nodes.append((op.node, list(axes[start:end])))
    if op.outputs[0] in op.network.results:
        op.pin_all(axes[start:end], "its size is a result")
    op.out([op.fixed(end - start, "one element for each axis")])


@function("size")
def size(op: Op) -> None:
    op.pin_all(op.axes(0), "its number of elements is computed with")
    op.out([])
