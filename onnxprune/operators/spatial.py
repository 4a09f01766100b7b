"""Operators on images: Resize, DepthToSpace, and channels moved to space."""

from __future__ import annotations

import math

from ..axes import Axis, Dim, product
from ..network import Axes, Unsure
from ..op import Op
from ..sizes import is_number
from ..tables import function
from .linear import takes_all


@function("resize")
def resize(op: Op) -> None:
    """Resize and Upsample: axes of scale 1 pass; along all others positions matter."""
    axes = op.axes(0)
    modern = len(op.inputs) > 2
    scales = op.value(2 if modern else 1) if op.has(2 if modern else 1) else None
    sizes = op.value(3) if op.has(3) else None
    where = [i % len(axes) for i in (op.attr("axes") or range(len(axes)))]
    hint = op.out_shape()
    given: list[float] = list(op.attr("scales") or ())
    if scales is not None and scales.size:
        given = scales.ravel().tolist()
    elif sizes is None and not given and op.has(2 if modern else 1) and not op.has(3):
        raise Unsure("its scales are computed at run time")
    out: Axes = list(axes)
    patch: dict[int | None, Axis] = {}
    for i, at in enumerate(where):
        axis = axes[at]
        if given:
            same = i < len(given) and given[i] == 1
        else:
            element = sizes.ravel().tolist()[i] if sizes is not None else None
            same = (is_number(element) and element == axis.size) or (at < 2 and axis.size is None)
            if is_number(element) and same:
                patch[i] = axis
        if same and op.attr("keep_aspect_ratio_policy", "stretch") == "stretch":
            continue
        op.pin(axis, "interpolated along it")
        out[at] = op.network.symbol(hint[at] if hint and len(hint) == len(axes) else None)
        op.pin(out[at], "interpolated along it")
    op.out(out)
    if op.has(3):
        op.patch(3, patch)


@function("depth_to_space")
def depth_to_space(op: Op) -> None:
    n, channels, height, width = op.axes(0)
    block = int(op.attr("blocksize"))
    if channels.size is None:
        raise Unsure("the number of channels is only known at run time")
    b1, b2 = (op.fixed(block, "becomes a position in space") for _ in range(2))
    rest = op.network.symbol(channels.size // block**2)
    order = (b1, b2, rest) if op.attr("mode", "DCR") == "DCR" else (rest, b1, b2)
    op.unify(product(order), channels)
    op.pin_all((height, width), "spatial")
    op.out([n, rest, product((height, b1)), product((width, b2))])


@function("space_to_depth")
def space_to_depth(op: Op) -> None:
    n, channels, height, width = op.axes(0)
    block = int(op.attr("blocksize"))
    op.pin_all((height, width), "spatial")
    b1, b2 = (op.fixed(block, "was a position in space") for _ in range(2))
    smaller = [
        op.network.symbol(None if axis.size is None else axis.size // block)
        for axis in (height, width)
    ]
    op.pin_all(smaller, "spatial")
    op.out([n, product((b1, b2, channels)), *smaller])


@function("pool")
def pool(op: Op) -> None:
    """A pool over windows: along an axis where these are of one position, it passes the axis on.

    Nothing is said of MaxPool's indices: they run over channels and positions at once.
    """
    op.match()
    kernel = op.attr("kernel_shape") or []
    out = list(op.network.axes[op.outputs[0]] or ())
    for i, (s, t) in enumerate(zip(op.env["s"], op.env["t"], strict=True)):
        if i < len(kernel) and kernel[i] == 1 and takes_all(op, i) and not op.outputs[1:]:
            out[2 + i] = s
        else:
            op.pin_all((s, t), "spatial")
    op.out(out)


@function("global_pool")
def global_pool(op: Op) -> None:
    """GlobalAveragePool and its kin: one position is left, whether inference knows it or not."""
    op.env["t"] = [Dim(1) for _ in op.axes(0)[2:]]
    op.match()


@function("col_to_image")
def col_to_image(op: Op) -> None:
    """Col2Im: channels times the positions of a block become channels."""
    n, columns, blocks = op.axes(0)
    size = math.prod(op.ints(2) or [0])
    if columns.size is None or not size or columns.size % size:
        raise Unsure(f"{columns.size} columns are not made of blocks of {size}")
    channels = Dim(columns.size // size)
    op.unify(product((channels, op.fixed(size, "becomes a position in space"))), columns)
    op.pin(blocks, "spatial")
    image = [op.fixed(each, "spatial") for each in op.ints(1) or ()]
    op.out([n, channels, *image])


@function("unfold")
def unfold(op: Op) -> None:
    """UnfoldTensor: slices along one axis; an axis of their size comes last."""
    axes = list(op.axes(0))
    at = op.attr("dim", -1)
    slices, step = int(op.attr("size")), int(op.attr("step", 1))
    whole = axes[at].size
    op.pin(axes[at], "cut in slices")
    axes[at] = op.fixed(None if whole is None else (whole - slices) // step + 1, "slices")
    op.out([*axes, op.fixed(slices, "a slice")])


@function("dft")
def dft(op: Op) -> None:
    """DFT: along one axis; the last holds real and imaginary parts."""
    axes = list(op.axes(0))
    old = op.network.model.opset < 20
    where = op.ints(2) if not old else None
    at = where[0] if where else int(op.attr("axis", 1 if old else -2))
    hint = op.out_shape()
    op.pin_all((axes[at], axes[-1]), "every position takes part in every frequency")
    for i in (at % len(axes), len(axes) - 1):
        axes[i] = op.fixed(None, "frequencies")
        if hint is not None and len(hint) == len(axes) and isinstance(size := hint[i], int):
            axes[i] = op.fixed(size, "frequencies")
    op.out(axes)


@function("center_crop_pad")
def center_crop_pad(op: Op) -> None:
    """CenterCropPad: the axes that keep their size are as they were."""
    axes = list(op.axes(0))
    where = [i % len(axes) for i in op.attr("axes") or range(len(axes))]
    value = op.value(1)
    target = [None] * len(where) if value is None else value.ravel().tolist()
    patch: dict[int | None, Axis] = {}
    for i, (at, size) in enumerate(zip(where, target, strict=True)):
        if is_number(size) and size == axes[at].size:
            patch[i] = axes[at]
            continue
        op.pin(axes[at], "cut or padded around its middle")
        axes[at] = op.fixed(int(size) if is_number(size) else None, "around the middle")
    op.out(axes)
    op.patch(1, patch)
