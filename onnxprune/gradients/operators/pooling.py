"""Pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..table import Kernel, Spec, operator, plain
from .linear import pad, same_pads

_MAX: tuple[Callable[..., Any], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGE: tuple[Callable[..., Tensor], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


class Window:
    """The attributes that pools have in common, and where their windows lie."""

    def __init__(self, node: Spec) -> None:
        self.kernel: list[int] = node.attr("kernel_shape")
        rank = len(self.kernel)
        self.strides: list[int] = node.attr("strides") or [1] * rank
        self.dilations: list[int] = node.attr("dilations") or [1] * rank
        self.given: list[int] = node.attr("pads") or [0] * 2 * rank
        self.auto: str = node.attr("auto_pad", "NOTSET")
        self.ceil = bool(node.attr("ceil_mode", 0))
        self.rank = rank
        self.dilated = any(d != 1 for d in self.dilations)

    def pads(self, sizes: Sequence[int]) -> list[int]:
        """`[begin..., end...]`."""
        if self.auto in ("SAME_UPPER", "SAME_LOWER"):
            upper = self.auto == "SAME_UPPER"
            return same_pads(sizes, self.kernel, self.strides, self.dilations, upper)
        return [0] * 2 * self.rank if self.auto == "VALID" else self.given

    def counts(self, sizes: Sequence[int], pads: Sequence[int]) -> list[int]:
        """How many windows there are along each axis."""
        found = []
        for i, (n, k, s, d) in enumerate(
            zip(sizes, self.kernel, self.strides, self.dilations, strict=True)
        ):
            room = n + pads[i] + pads[self.rank + i] - d * (k - 1) - 1
            count = (-(-room // s) if self.ceil else room // s) + 1
            if self.ceil and (count - 1) * s >= n + pads[i]:
                count -= 1  # it would begin in what is padded at the end
            found.append(count)
        return found

    def reaching(self, sizes: Sequence[int], pads: Sequence[int]) -> list[int]:
        """`pads`, enlarged or cut at the end so that windows fit exactly."""
        ends = []
        for i, count in enumerate(self.counts(sizes, pads)):
            last = (count - 1) * self.strides[i] + self.dilations[i] * (self.kernel[i] - 1) + 1
            ends.append(last - sizes[i] - pads[i])
        return [*pads[: self.rank], *ends]


@operator("MaxPool", "com.microsoft.NhwcMaxPool")
def max_pool(node: Spec) -> Kernel:
    window = Window(node)
    column_major = node.attr("storage_order", 0)
    last = node.node.kind != "MaxPool"
    if not 1 <= window.rank <= 3:
        raise node.refuse(f"it pools over {window.rank} axes")
    call = _MAX[window.rank - 1]

    def run(x: Tensor) -> Any:
        kind = x.dtype
        if not x.is_floating_point():
            x = x.double() if kind in (torch.int32, torch.int64) else x.float()
        if last:
            x = x.movedim(-1, 1)
        sizes = x.shape[2:]
        pads = window.reaching(sizes, window.pads(sizes))
        padded = pad(x, pads, -torch.inf)
        found = call(
            padded, window.kernel, window.strides, 0, window.dilations, return_indices=places
        )
        y = found[0] if places else found
        if last:
            y = y.movedim(1, -1)
        y = y.to(kind)
        if not places:
            return y
        return y, _unpadded(found[1], padded.shape[2:], sizes, pads, bool(column_major))

    places = node.wants(1)
    return run


def _unpadded(
    flat: Tensor, padded: Sequence[int], sizes: Sequence[int], pads: Sequence[int], columns: bool
) -> Tensor:
    """Positions within `[n, c, *sizes]` from positions in each channel's padded plane."""
    at: list[Tensor] = []
    for i in reversed(range(len(sizes))):
        at.insert(0, flat % padded[i] - pads[i])
        flat = flat // padded[i]
    n, c = flat.shape[:2]
    planes = torch.arange(n * c, device=flat.device).reshape(n, c, *[1] * len(sizes))
    found = torch.zeros_like(flat)
    pairs = list(zip(at, sizes, strict=True))
    for each, size in reversed(pairs) if columns else pairs:
        found = found * size + each
    total = 1
    for size in sizes:
        total *= size
    return found + planes * total


@operator("AveragePool")
def average_pool(node: Spec) -> Kernel:
    window = Window(node)
    include = bool(node.attr("count_include_pad", 0))
    plain_case = (
        window.auto == "NOTSET"
        and not window.ceil
        and not window.dilated
        and window.rank <= 3
        and window.given[: window.rank] == window.given[window.rank :]
        and all(2 * p <= k for p, k in zip(window.given, window.kernel))  # noqa: B905
    )
    if plain_case:
        call, half = _AVERAGE[window.rank - 1], window.given[: window.rank]
        return lambda x: call(x, window.kernel, window.strides, half, False, include)

    def run(x: Tensor) -> Tensor:
        sizes = x.shape[2:]
        declared = window.pads(sizes)
        pads = window.reaching(sizes, declared)
        total = _sums(window, pad(x, pads), window.counts(sizes, declared))
        ones = torch.ones((1, 1, *sizes), dtype=x.dtype, device=x.device)
        if include:
            # Declared padding counts, and what a last window reaches beyond it does not.
            ones = pad(ones, declared, 1.0)
            beyond = [p - d for p, d in zip(pads, declared, strict=True)]
            ones = pad(ones, beyond)
        else:
            ones = pad(ones, pads)
        return total / _sums(window, ones, window.counts(sizes, declared))

    return run


def _sums(window: Window, x: Tensor, counts: Sequence[int]) -> Tensor:
    """The sum of each window of a padded tensor."""
    total: Tensor | None = None
    for offset in product(*(range(k) for k in window.kernel)):
        piece = x
        for i, (at, count) in enumerate(zip(offset, counts, strict=True)):
            start, step = at * window.dilations[i], window.strides[i]
            index = [slice(None)] * (2 + i) + [slice(start, start + (count - 1) * step + 1, step)]
            piece = piece[tuple(index)]
        total = piece if total is None else total + piece
    assert total is not None
    return total


@operator("LpPool")
def lp_pool(node: Spec) -> Kernel:
    window, p = Window(node), float(node.attr("p", 2))

    def run(x: Tensor) -> Tensor:
        sizes = x.shape[2:]
        declared = window.pads(sizes)
        padded = pad(x.abs() ** p, window.reaching(sizes, declared))
        return _sums(window, padded, window.counts(sizes, declared)) ** (1 / p)

    return run


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


plain("GlobalAveragePool", call=lambda x: x.mean(_spatial(x), True))
plain("GlobalMaxPool", call=lambda x: x.amax(_spatial(x), True))


@operator("GlobalLpPool")
def global_lp_pool(node: Spec) -> Kernel:
    p = float(node.attr("p", 2))
    return lambda x: (x.abs() ** p).sum(_spatial(x), keepdim=True) ** (1 / p)


@operator("MaxUnpool", host=(2,))
def max_unpool(node: Spec) -> Kernel:
    window = Window(node)

    def run(x: Tensor, places: Tensor, shape: Tensor | None = None) -> Tensor:
        if shape is not None:  # positions are those of that shape
            return _placed(x, places, [int(each) for each in shape.tolist()])
        sizes = [
            (n - 1) * s - window.given[i] - window.given[window.rank + i] + k
            for i, (n, s, k) in enumerate(
                zip(x.shape[2:], window.strides, window.kernel, strict=True)
            )
        ]
        return _placed(x, places, [*x.shape[:2], *sizes])

    return run


def _placed(x: Tensor, places: Tensor, shape: Sequence[int]) -> Tensor:
    flat = x.new_zeros(torch.Size(shape).numel())
    return flat.scatter(0, places.flatten(), x.flatten()).reshape(shape)


@operator("MaxRoiPool", fixed=(1,))
def max_roi_pool(node: Spec) -> Kernel:
    height, width = node.attr("pooled_shape")
    scale = node.attr("spatial_scale", 1.0)

    def run(x: Tensor, rois: Tensor) -> Tensor:
        found = []
        for row in rois.tolist():
            image = int(row[0])
            left, top, right, bottom = (round(each * scale) for each in row[1:])
            tall, wide = max(bottom - top + 1, 1), max(right - left + 1, 1)
            cells = []
            for i, j in product(range(height), range(width)):
                y0, y1 = top + i * tall // height, top - (-(i + 1) * tall // height)
                x0, x1 = left + j * wide // width, left - (-(j + 1) * wide // width)
                y0, y1 = (min(max(each, 0), x.shape[2]) for each in (y0, y1))
                x0, x1 = (min(max(each, 0), x.shape[3]) for each in (x0, x1))
                cell = x[image, :, y0:y1, x0:x1]
                empty = y1 <= y0 or x1 <= x0
                cells.append(x.new_zeros(x.shape[1]) if empty else cell.amax((1, 2)))
            found.append(torch.stack(cells, 1).reshape(x.shape[1], height, width))
        return torch.stack(found) if found else x.new_zeros(0, x.shape[1], height, width)

    return run
