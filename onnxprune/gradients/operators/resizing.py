"""Resampling: Resize, GridSample, RoiAlign.

A Resize is separable: along each axis every output is a weighted sum of a few inputs, its *taps*.
Indices and weights are computed once for each pair of sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...model import Array
from ..table import Kernel, Spec, operator


class How(NamedTuple):
    """What the attributes of a Resize say of an axis."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude: bool
    antialias: bool
    extrapolation: float


def _places(how: How, size: int, out: int, scale: float, roi: tuple[float, float]) -> Array:
    """Where outputs lie among inputs, `[out]`."""
    x = np.arange(out, dtype=np.float64)
    kind = how.coordinates
    if kind == "align_corners":
        return x * (size - 1) / (out - 1) if out > 1 else x * 0
    if kind == "asymmetric":
        return x / scale
    if kind == "tf_crop_and_resize":
        if out == 1:
            return x + 0.5 * (roi[0] + roi[1]) * (size - 1)
        return roi[0] * (size - 1) + x * (roi[1] - roi[0]) * (size - 1) / (out - 1)
    if kind == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    if kind == "pytorch_half_pixel" and out == 1:
        return x * 0
    moved = (x + 0.5) / scale - 0.5
    if kind == "half_pixel_symmetric":
        return moved + size / 2 * (1 - out / (scale * size))
    return moved


_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _cubic(x: Array, a: float) -> Array:
    """Keys' kernel (1981) at a distance."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=256)
def _taps(
    how: How, size: int, out: int, scale: float, roi: tuple[float, float]
) -> tuple[Array, Array, Array]:
    """Indices and weights, `[taps, out]`, and which outputs lie outside, `[out]`."""
    places = _places(how, size, out, scale, roi)
    outside = (places < 0) | (places > size - 1)
    if how.mode == "nearest":
        at = np.clip(_NEAREST[how.nearest](places.astype(np.float32)), 0, size - 1)
        return at[None].astype(np.int64), np.ones((1, out)), outside
    wide = 1.0 if how.mode == "linear" else 2.0
    shrink = min(scale, 1.0) if how.antialias else 1.0
    if how.mode == "linear" and not how.antialias:
        places = np.clip(places, 0, size - 1)
    reach = int(np.ceil(wide / shrink))
    at = np.floor(places)[None] + np.arange(1 - reach, reach + 1)[:, None]
    distance = (at - places[None]) * shrink
    weights = np.maximum(1 - np.abs(distance), 0) if how.mode == "linear" else None
    if weights is None:
        weights = _cubic(distance, how.cubic)
    if how.exclude:  # else the edges are repeated
        weights = np.where((at >= 0) & (at < size), weights, 0.0)
    total = weights.sum(0)
    weights = weights / np.where(total == 0, 1, total)
    used = np.abs(weights).max(1) > 0
    return np.clip(at, 0, size - 1).astype(np.int64)[used], weights[used], outside


def _resized(
    x: Tensor, axis: int, how: How, out: int, scale: float, roi: Sequence[float]
) -> Tensor:
    at, weights, outside = _taps(how, x.shape[axis], out, scale, (roi[0], roi[1]))
    shape = [1] * x.dim()
    shape[axis] = -1
    y: Tensor | None = None
    for places, weight in zip(at, weights, strict=True):
        piece = x.index_select(axis, torch.from_numpy(places).to(x.device))
        if how.mode != "nearest":
            piece = piece * torch.from_numpy(weight).to(x.device, x.dtype).reshape(shape)
        y = piece if y is None else y + piece
    assert y is not None
    if how.coordinates == "tf_crop_and_resize" and outside.any():
        mask = torch.from_numpy(outside).to(x.device).reshape(shape)
        y = torch.where(mask, torch.full_like(y, how.extrapolation), y)
    return y


_TORCH_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


def _in_torch(
    x: Tensor, how: How, sizes: Sequence[int], scales: Sequence[float], axes: Sequence[int]
) -> Tensor | None:
    """The same by torch's own interpolation, several times as fast, where it has that very one."""
    spatial = list(range(2, x.dim()))
    moved = [a for a in axes if x.shape[a] != sizes[a]]
    if x.dim() not in _TORCH_MODES or how.antialias or any(a < 2 for a in moved):
        return None
    exact = all(abs(sizes[a] / x.shape[a] - scales[a]) < 1e-7 * scales[a] for a in moved)
    size = [sizes[a] for a in spatial]
    if how.mode == "nearest":
        whole = all(sizes[a] % x.shape[a] == 0 for a in moved)
        if not whole or not exact or not x.is_floating_point():
            return None
        floors = how.coordinates == "asymmetric" and how.nearest == "floor"
        halves = how.coordinates in ("half_pixel", "pytorch_half_pixel") and how.nearest.startswith(
            "round"
        )
        return F.interpolate(x, size, mode="nearest") if floors or halves else None
    if how.mode == "linear":
        aligned = how.coordinates == "align_corners"
        halves = how.coordinates == "half_pixel" or (
            how.coordinates == "pytorch_half_pixel" and min(size) > 1
        )
        if aligned or (halves and exact):
            return F.interpolate(x, size, mode=_TORCH_MODES[x.dim()], align_corners=aligned)
    return None


def _resize(
    x: Tensor,
    how: How,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    roi: Sequence[float] | None,
    axes: Sequence[int],
    policy: str,
) -> Tensor:
    rank = x.dim()
    by, to = [1.0] * rank, list(x.shape)
    for i, axis in enumerate(axes):
        if sizes is not None:
            to[axis] = int(sizes[i])
            by[axis] = to[axis] / x.shape[axis]
        else:
            assert scales is not None
            by[axis] = float(scales[i])
            to[axis] = int(np.floor(x.shape[axis] * np.float32(by[axis])))
    if sizes is not None and policy != "stretch":
        one = (min if policy == "not_larger" else max)(by[axis] for axis in axes)
        for axis in axes:
            by[axis] = one
            to[axis] = int(np.floor(one * x.shape[axis] + 0.5))
    starts, ends = [0.0] * rank, [1.0] * rank
    if roi is not None and len(roi):
        for i, axis in enumerate(axes):
            starts[axis], ends[axis] = roi[i], roi[len(axes) + i]
    if how.coordinates == "tf_crop_and_resize" and scales is not None:
        for axis in axes:
            to[axis] = int(np.floor(x.shape[axis] * (ends[axis] - starts[axis]) * by[axis]))
    fast = None if how.coordinates == "tf_crop_and_resize" else _in_torch(x, how, to, by, axes)
    if fast is not None:
        return fast
    kind = x.dtype
    if how.mode != "nearest" and not x.is_floating_point():
        x = x.float()
    for axis in axes:
        whole = starts[axis] == 0 and ends[axis] == 1
        if to[axis] != x.shape[axis] or by[axis] != 1 or not whole:
            x = _resized(x, axis, how, to[axis], by[axis], (starts[axis], ends[axis]))
    return x if x.dtype == kind else x.round().to(kind)


@operator("Resize", since=10, host=(1,))
@operator("Upsample", since=7, host=(1,))
def upsample(node: Spec) -> Kernel:
    mode = node.attr("mode", "nearest")
    how = How(mode, "asymmetric", "floor", -0.75, False, False, 0.0)
    if mode in ("bilinear", "cubic"):
        how = how._replace(mode="linear" if mode == "bilinear" else mode)
    given = node.attr("scales")

    def run(x: Tensor, scales: Tensor | None = None) -> Tensor:
        by = given if scales is None else scales.tolist()
        return _resize(x, how, by, None, None, range(x.dim()), "stretch")

    return run


@operator("Resize", since=11, host=(1, 2, 3))
def resize(node: Spec) -> Kernel:
    how = How(
        node.attr("mode", "nearest"),
        node.attr("coordinate_transformation_mode", "half_pixel"),
        node.attr("nearest_mode", "round_prefer_floor"),
        node.attr("cubic_coeff_a", -0.75),
        bool(node.attr("exclude_outside", 0)),
        bool(node.attr("antialias", 0)),
        node.attr("extrapolation_value", 0.0),
    )
    given, policy = node.attr("axes"), node.attr("keep_aspect_ratio_policy", "stretch")

    def run(
        x: Tensor,
        roi: Tensor | None = None,
        scales: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        axes = [a % x.dim() for a in given] if given else list(range(x.dim()))
        by = scales.tolist() if scales is not None and scales.numel() else None
        to = sizes.tolist() if sizes is not None and sizes.numel() else None
        box = roi.tolist() if roi is not None else None
        return _resize(x, how, by, to, box, axes, policy)

    return run


# -- samples at given places ---------------------------------------------------------------------


@operator("GridSample", "com.microsoft.GridSample")
def grid_sample(node: Spec) -> Kernel:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        node.attr("mode", "linear"), node.attr("mode", "linear")
    )
    padding, corners = node.attr("padding_mode", "zeros"), bool(node.attr("align_corners", 0))
    return lambda x, grid: F.grid_sample(x, grid, mode, padding, corners)


@operator("AffineGrid", host=(1,))
def affine_grid(node: Spec) -> Kernel:
    corners = bool(node.attr("align_corners", 0))
    return lambda theta, size: F.affine_grid(theta, [int(s) for s in size.tolist()], corners)


def _bilinear(planes: Tensor, y: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The four neighbours of `[r, points]` in `[r, c, h, w]`, `[r, c, points]`, and weights."""
    height, width = planes.shape[-2:]
    outside = (y < -1) | (y > height) | (x < -1) | (x > width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor().clamp(max=height - 1), x.floor().clamp(max=width - 1)
    values, weights = [], []
    flat = planes.flatten(2)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = (top + i).clamp(max=height - 1), (left + j).clamp(max=width - 1)
        at = (row * width + column).long()
        values.append(flat.gather(2, at[:, None].expand(-1, flat.shape[1], -1)))
        down, right = y - top, x - left
        weight = (down if i else 1 - down) * (right if j else 1 - right)
        weights.append(torch.where(outside, torch.zeros_like(weight), weight)[:, None])
    return values, weights


@operator("RoiAlign", since=10, fixed=(1, 2))
def roi_align(node: Spec) -> Kernel:
    mode, scale = node.attr("mode", "avg"), node.attr("spatial_scale", 1.0)
    height, width = node.attr("output_height", 1), node.attr("output_width", 1)
    ratio = node.attr("sampling_ratio", 0)
    half = node.version >= 16 and node.attr("coordinate_transformation_mode", "half_pixel") == (
        "half_pixel"
    )

    def one(x: Tensor, roi: Tensor, image: int) -> Tensor:
        offset = 0.5 if half else 0.0
        left, top, right, bottom = (roi.detach() * scale - offset).tolist()
        wide, tall = right - left, bottom - top
        if not half:
            wide, tall = max(wide, 1.0), max(tall, 1.0)
        rows = ratio or max(int(np.ceil(tall / height)), 1)
        columns = ratio or max(int(np.ceil(wide / width)), 1)

        def points(start: float, size: float, cells: int, count: int) -> Tensor:
            step = torch.arange(cells * count, dtype=x.dtype, device=x.device)
            return start + (step + 0.5) * (size / (cells * count))

        y = points(top, tall, height, rows)[:, None].expand(-1, width * columns).reshape(1, -1)
        z = points(left, wide, width, columns)[None].expand(height * rows, -1).reshape(1, -1)
        values, weights = _bilinear(x[image : image + 1], y, z)
        pieces = [v * w for v, w in zip(values, weights, strict=True)]
        cells = (x.shape[1], height, rows, width, columns)
        if mode == "max":  # of the weighted corners, as onnxruntime does
            return torch.stack(pieces).amax(0).reshape(cells).amax((2, 4))
        return torch.stack(pieces).sum(0).reshape(cells).mean((2, 4))

    def run(x: Tensor, rois: Tensor, images: Tensor) -> Tensor:
        found = [one(x, roi, image) for roi, image in zip(rois, images.tolist(), strict=True)]
        return torch.stack(found) if found else x.new_zeros(0, x.shape[1], height, width)

    return run


@operator("com.microsoft.CropAndResize", host=(3,), fixed=(1, 2))
def crop_and_resize(node: Spec) -> Kernel:
    mode, outside = node.attr("mode", "bilinear"), node.attr("extrapolation_value", 0.0)
    how = How(
        "linear" if mode == "bilinear" else "nearest",
        *("tf_crop_and_resize", "round_prefer_ceil", -0.75, False, False, outside),
    )

    def run(x: Tensor, rois: Tensor, images: Tensor, size: Tensor) -> Tensor:
        found = []
        for roi, image in zip(rois.tolist(), images.tolist(), strict=True):
            piece = x[image : image + 1]
            found.append(_resize(piece, how, None, size.tolist(), roi, (2, 3), "stretch"))
        return torch.cat(found)

    return run
