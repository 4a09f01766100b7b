"""Operators that move elements about: reshapes, slices, concatenation, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..table import Kernel, Spec, ints, operator, plain
from .linear import pad as constant_pad

# -- sizes ---------------------------------------------------------------------------------------


@operator("Shape", differentiable=False)
def shape(node: Spec) -> Kernel:
    """On the CPU, whatever the device: sizes are what Python computes with."""
    start, end = node.attr("start", 0), node.attr("end")
    if start == 0 and end is None:
        return lambda x: torch.tensor(x.shape, dtype=torch.int64)
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


plain("Size", call=lambda x: torch.tensor(x.numel()), differentiable=False)

# -- reshapes ------------------------------------------------------------------------------------


def _filled(x: Tensor, target: Sequence[int]) -> list[int]:
    """`target` with the sizes of `x` where it says 0."""
    return [x.shape[i] if size == 0 else size for i, size in enumerate(target)]


@operator("Reshape", since=1)
def reshape_to(node: Spec) -> Kernel:
    target = node.attr("shape", [])
    return lambda x: x.reshape(_filled(x, target))


@operator("Reshape", since=5, host=(1,))
def reshape(node: Spec) -> Kernel:
    zero = node.attr("allowzero", 0)

    def run(x: Tensor, operand: Tensor) -> Tensor:
        target = operand.tolist()
        return x.reshape(target if zero or 0 not in target else _filled(x, target))

    return run


@operator("Flatten")
def flatten(node: Spec) -> Kernel:
    axis = node.attr("axis", 1)

    def run(x: Tensor) -> Tensor:
        at = axis + x.dim() if axis < 0 else axis
        rows = 1
        for size in x.shape[:at]:
            rows *= size
        return x.reshape(rows, -1) if x.numel() else x.reshape(rows, x.shape[at:].numel())

    return run


@operator("Transpose")
def transpose(node: Spec) -> Kernel:
    perm = node.attr("perm")
    if perm is None:
        return lambda x: x.permute(*reversed(range(x.dim())))
    return lambda x: x.permute(perm)


@operator("Squeeze", host=(1,))
def squeeze(node: Spec) -> Kernel:
    given = node.attr("axes")

    def run(x: Tensor, operand: Tensor | None = None) -> Tensor:
        axes = given if operand is None else ints(operand)
        return x.squeeze() if axes is None else x.squeeze(axes)

    return run


@operator("Unsqueeze", host=(1,))
def unsqueeze(node: Spec) -> Kernel:
    given = node.attr("axes")

    def run(x: Tensor, operand: Tensor | None = None) -> Tensor:
        axes = given if operand is None else ints(operand)
        if len(axes) == 1:
            return x.unsqueeze(axes[0])
        rank = x.dim() + len(axes)
        for axis in sorted(a % rank for a in axes):
            x = x.unsqueeze(axis)
        return x

    return run


@operator("com.microsoft.ExpandDims", host=(1,))
def expand_dims(node: Spec) -> Kernel:
    return lambda x, axis: x.unsqueeze(ints(axis)[0])


@operator("Expand", host=(1,))
def expand(node: Spec) -> Kernel:
    def run(x: Tensor, operand: Tensor) -> Tensor:
        target = operand.tolist()
        rank = max(x.dim(), len(target))
        sizes = [1] * (rank - x.dim()) + list(x.shape)
        for i, size in enumerate(target, rank - len(target)):
            if size != 1:
                sizes[i] = size
        return x.expand(sizes)

    return run


@operator("Tile", since=6, host=(1,))
def tile(node: Spec) -> Kernel:
    return lambda x, times: x.repeat(ints(times)) if x.dim() else x


@operator("Tile", since=1, host=(1, 2))
def tile_along(node: Spec) -> Kernel:
    def run(x: Tensor, times: Tensor, axis: Tensor) -> Tensor:
        return torch.cat([x] * ints(times)[0], ints(axis)[0])

    return run


# -- pieces --------------------------------------------------------------------------------------


@operator("Concat")
def concat(node: Spec) -> Kernel:
    axis = node.attr("axis", 1)

    def run(*pieces: Tensor) -> Tensor:
        # torch.cat skips a piece of shape [0] whatever its rank; so does ONNX by its sizes.
        return torch.cat(pieces, axis)

    return run


@operator("Split", since=1, host=(1,))
def split(node: Spec) -> Kernel:
    axis, given, count = node.attr("axis", 0), node.attr("split"), node.outputs

    def run(x: Tensor, operand: Tensor | None = None) -> Any:
        sizes = given if operand is None else ints(operand)
        if sizes is None:
            each = -(-x.shape[axis] // count)
            sizes = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
        return tuple(torch.split(x, sizes, axis))

    return run


def _sliced(
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
) -> Tensor:
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = i if axes is None else axes[i]
        step = 1 if steps is None else steps[i]
        size = x.shape[axis]
        first, last, _ = slice(start, end, step).indices(size)
        if step > 0:
            count = max(-(-(last - first) // step), 0)
            if step == 1:
                if count != size:
                    x = x.narrow(axis, first if count else 0, count)
                continue
            index = [slice(None)] * x.dim()
            index[axis] = slice(first, max(last, first), step)
            x = x[tuple(index)]
        else:
            x = (
                x.index_select(axis, torch.arange(first, last, step, device=x.device))
                if (first > last)
                else x.narrow(axis, 0, 0)
            )
    return x


@operator("Slice", since=1)
def slice_by_attributes(node: Spec) -> Kernel:
    starts, ends, axes = node.attr("starts"), node.attr("ends"), node.attr("axes")
    return lambda x: _sliced(x, starts, ends, axes, None)


@operator("Slice", since=10, host=(1, 2, 3, 4))
def slice_by_operands(node: Spec) -> Kernel:
    def run(
        x: Tensor,
        starts: Tensor,
        ends: Tensor,
        axes: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> Tensor:
        return _sliced(
            x,
            ints(starts),
            ints(ends),
            None if axes is None else ints(axes),
            None if steps is None else ints(steps),
        )

    return run


# -- padding -------------------------------------------------------------------------------------


def _reached(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """One axis padded by what is there: mirrored, repeated, or from the other end."""
    size = x.shape[axis]
    at = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        at = at.clamp(0, size - 1)
    elif mode == "wrap":
        at = at % size
    else:
        turn = max(2 * (size - 1), 1)
        at = at % turn
        at = torch.where(at >= size, turn - at, at)
    return x.index_select(axis, at)


def padded(x: Tensor, pads: Sequence[int], axes: Sequence[int], mode: str, value: Any) -> Tensor:
    """`x` with `axes` padded by `[begin..., end...]`; negative numbers cut."""
    every = [0] * 2 * x.dim()
    for i, axis in enumerate(axes):
        every[axis] = pads[i]
        every[axis + x.dim() if axis >= 0 else axis] = pads[len(axes) + i]
    if mode == "constant":
        if x.dtype == torch.bool:
            return constant_pad(x.to(torch.uint8), every, float(value)).to(torch.bool)
        return constant_pad(x, every, value)
    for axis in range(x.dim()):
        before, after = every[axis], every[axis + x.dim()]
        if before > 0 or after > 0:
            x = _reached(x, axis, max(before, 0), max(after, 0), mode)
    cut = [min(each, 0) for each in every]
    return constant_pad(x, cut) if any(cut) else x


@operator("Pad", since=1)
def pad_by_attributes(node: Spec) -> Kernel:
    pads, mode = node.attr("pads", node.attr("paddings")), node.attr("mode", "constant")
    value = node.attr("value", 0.0)
    return lambda x: padded(x, pads, range(x.dim()), mode, value)


@operator("Pad", since=11, host=(1, 2, 3))
@operator("com.microsoft.Pad", host=(1, 2))
def pad(node: Spec) -> Kernel:
    mode = node.attr("mode", "constant")

    def run(
        x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None
    ) -> Tensor:
        fill = 0 if value is None or not value.numel() else value.reshape(()).item()
        along = range(x.dim()) if axes is None else [a % x.dim() for a in ints(axes)]
        return padded(x, pads.flatten().tolist(), along, mode, fill)

    return run


@operator("CenterCropPad", host=(1,))
def center_crop_pad(node: Spec) -> Kernel:
    given = node.attr("axes")

    def run(x: Tensor, operand: Tensor) -> Tensor:
        axes = [a % x.dim() for a in given] if given else list(range(x.dim()))
        for axis, size in zip(axes, ints(operand), strict=True):
            more = size - x.shape[axis]
            if more < 0:
                x = x.narrow(axis, -more // 2, size)
            elif more > 0:
                x = padded(x, [more // 2, more - more // 2], [axis], "constant", 0)
        return x

    return run


# -- space and depth -----------------------------------------------------------------------------


@operator("DepthToSpace")
def depth_to_space(node: Spec) -> Kernel:
    block, mode = node.attr("blocksize"), node.attr("mode", "DCR")
    if mode == "CRD":
        return lambda x: F.pixel_shuffle(x, block)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        pieces = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return pieces.reshape(n, c // block**2, h * block, w * block)

    return run


@operator("SpaceToDepth")
def space_to_depth(node: Spec) -> Kernel:
    block = node.attr("blocksize")
    if node.attr("mode", "DCR") == "CRD":
        return lambda x: F.pixel_unshuffle(x, block)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        pieces = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return pieces.reshape(n, c * block**2, h // block, w // block)

    return run


@operator("Col2Im", host=(1, 2))
def col_to_image(node: Spec) -> Kernel:
    dilations, pads, strides = node.attr("dilations"), node.attr("pads"), node.attr("strides")

    def run(x: Tensor, image: Tensor, block: Tensor) -> Tensor:
        sizes, kernel = ints(image), ints(block)
        rank = len(sizes)
        step, spread = strides or [1] * rank, dilations or [1] * rank
        around = pads or [0] * 2 * rank
        full = [n + around[i] + around[rank + i] for i, n in enumerate(sizes)]
        counts = [
            (n - d * (k - 1) - 1) // s + 1
            for n, d, k, s in zip(full, spread, kernel, step, strict=True)
        ]
        flat = torch.zeros(1, dtype=torch.int64, device=x.device)
        for i in range(rank):  # where each (kernel position, window) falls, rows after rows
            here = (torch.arange(kernel[i], device=x.device) * spread[i])[:, None] + torch.arange(
                counts[i], device=x.device
            ) * step[i]
            shape = [1] * (2 * rank)
            shape[i], shape[rank + i] = kernel[i], counts[i]
            flat = flat * full[i] + here.reshape(shape)
        channels = x.shape[1] // torch.Size(kernel).numel()
        values = x.reshape(x.shape[0], channels, -1)
        made = x.new_zeros(x.shape[0], channels, torch.Size(full).numel())
        made = made.index_add(2, flat.flatten(), values).reshape(x.shape[0], channels, *full)
        return constant_pad(made, [-p for p in around])

    return run


@operator("com.microsoft.UnfoldTensor")
def unfold(node: Spec) -> Kernel:
    axis, size, step = node.attr("dim", -1), node.attr("size"), node.attr("step", 1)
    return lambda x: x.unfold(axis, size, step)


# -- triangles and eyes --------------------------------------------------------------------------


@operator("Trilu", "com.microsoft.Trilu", host=(1,))
def triangle(node: Spec) -> Kernel:
    call = torch.triu if node.attr("upper", 1) else torch.tril

    def run(x: Tensor, k: Tensor | None = None) -> Tensor:
        return call(x, 0 if k is None else ints(k)[0])

    return run


@operator("ReverseSequence", fixed=(1,))
def reverse_sequence(node: Spec) -> Kernel:
    time, batch = node.attr("time_axis", 0), node.attr("batch_axis", 1)

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        rows = x.movedim((batch, time), (0, 1))
        at = torch.arange(rows.shape[1], device=x.device)[None]
        ends = lengths.to(x.device)[:, None]
        at = torch.where(at < ends, ends - 1 - at, at)
        index = at.reshape(*at.shape, *[1] * (rows.dim() - 2)).expand(rows.shape)
        return rows.gather(1, index).movedim((0, 1), (batch, time))

    return run
