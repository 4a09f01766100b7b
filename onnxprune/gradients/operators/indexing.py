"""Gathering and scattering at indices, and what makes indices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..table import Kernel, Spec, ints, operator

# -- gathering -----------------------------------------------------------------------------------


def _positive(index: Tensor, size: int) -> Tensor:
    """Indices counted from the front, as int64."""
    index = index.long() if index.dtype != torch.int64 else index
    return torch.where(index < 0, index + size, index)


@operator("Gather", fixed=(1,))
def gather(node: Spec) -> Kernel:
    axis = node.attr("axis", 0)

    def run(x: Tensor, index: Tensor) -> Tensor:
        if index.dim() == 0 and index.device.type == "cpu":
            return x.select(axis, int(index))
        at = _positive(index, x.shape[axis])
        if axis == 0 and x.dim() == 2 and x.is_floating_point():
            return F.embedding(at, x)
        found = x.index_select(axis, at.flatten())
        if index.dim() == 1:
            return found
        where = axis % x.dim()
        return found.reshape(*x.shape[:where], *index.shape, *x.shape[where + 1 :])

    return run


@operator("GatherElements", fixed=(1,))
def gather_elements(node: Spec) -> Kernel:
    axis = node.attr("axis", 0)
    return lambda x, index: torch.gather(x, axis, _positive(index, x.shape[axis]))


@operator("GatherND", "com.microsoft.GatherND", fixed=(1,))
def gather_nd(node: Spec) -> Kernel:
    batch = node.attr("batch_dims", 0)

    def run(x: Tensor, index: Tensor) -> Tensor:
        depth = index.shape[-1]
        flat = _flat_index(index, x.shape[batch : batch + depth])
        rest = x.shape[batch + depth :]
        outer, wide = math.prod(x.shape[:batch]), math.prod(rest)
        rows = x.reshape(outer, math.prod(x.shape[batch : batch + depth]), wide)
        places = flat.reshape(outer, math.prod(index.shape[batch:-1]))
        if rows.shape[0] == 1:
            found = rows[0].index_select(0, places[0])
        else:
            found = rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))
        return found.reshape(*index.shape[:-1], *rest)

    return run


def _flat_index(index: Tensor, sizes: torch.Size) -> Tensor:
    """Row-major positions from index tuples, `[..., depth]` -> `[...]`."""
    flat = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
    for i, size in enumerate(sizes):
        flat = flat * size + _positive(index[..., i], size)
    return flat


@operator("Compress", fixed=(1,))
def compress(node: Spec) -> Kernel:
    axis = node.attr("axis")

    def run(x: Tensor, condition: Tensor) -> Tensor:
        kept = condition.nonzero().flatten()
        return x.flatten()[kept] if axis is None else x.index_select(axis, kept)

    return run


@operator("ai.onnx.ml.ArrayFeatureExtractor", fixed=(1,))
def array_feature_extractor(node: Spec) -> Kernel:
    def run(x: Tensor, index: Tensor) -> Tensor:
        found = x.index_select(-1, index.flatten().long())
        return found.reshape(1, -1) if x.dim() == 1 else found

    return run


# -- scattering ----------------------------------------------------------------------------------

_REDUCE = {"mul": "prod", "max": "amax", "min": "amin", "add": "sum"}


@operator("ScatterElements", "Scatter", fixed=(1,))
def scatter_elements(node: Spec) -> Kernel:
    axis, how = node.attr("axis", 0), node.attr("reduction", "none")

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        at = _positive(index, x.shape[axis])
        if how == "none":
            return x.scatter(axis, at, updates)
        if how == "add":
            return x.scatter_add(axis, at, updates)
        return x.scatter_reduce(axis, at, updates, _REDUCE[how])

    return run


@operator("ScatterND", fixed=(1,))
def scatter_nd(node: Spec) -> Kernel:
    how = node.attr("reduction", "none")

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        depth = index.shape[-1]
        flat = _flat_index(index, x.shape[:depth]).flatten()
        wide = math.prod(x.shape[depth:])
        rows, new = x.reshape(math.prod(x.shape[:depth]), wide), updates.reshape(len(flat), wide)
        if how == "none":
            made = rows.index_put((flat,), new)
        elif how == "add":
            made = rows.index_add(0, flat, new)
        else:
            made = rows.scatter_reduce(0, flat[:, None].expand(new.shape), new, _REDUCE[how])
        return made.reshape(x.shape)

    return run


@operator("TensorScatter", fixed=(2,))
def tensor_scatter(node: Spec) -> Kernel:
    """Writes a run of an axis of a cache, from each batch's own place on."""
    axis, around = node.attr("axis", -2), node.attr("mode", "linear") == "circular"

    def run(past: Tensor, update: Tensor, places: Tensor | None = None) -> Tensor:
        at = axis % past.dim()
        count = torch.arange(update.shape[at], device=past.device)
        starts = torch.zeros_like(count[:1]) if places is None else places.to(past.device)
        index = starts[:, None] + count  # [batch, run]
        index = index % past.shape[at] if around else index
        shape = [1] * past.dim()
        shape[0], shape[at] = index.shape
        return past.scatter(at, index.reshape(shape).expand(update.shape), update)

    return run


@operator("OneHot", host=(1,), fixed=(0,))
def one_hot(node: Spec) -> Kernel:
    axis = node.attr("axis", -1)

    def run(index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = ints(depth)[0]
        at = index.long()
        at = torch.where(at < 0, at + count, at).unsqueeze(axis)
        shape = [1] * at.dim()
        shape[axis] = count
        hit = at == torch.arange(count, device=at.device).reshape(shape)
        off, on = values.to(at.device).unbind()
        return torch.where(hit, on, off)

    return run


# -- indices -------------------------------------------------------------------------------------


@operator("NonZero", differentiable=False)
def non_zero(node: Spec) -> Kernel:
    return lambda x: torch.nonzero(x if x.dim() else x.reshape(1)).T[: max(x.dim(), 0) or 1]


@operator("NonMaxSuppression", host=(0, 1, 2, 3, 4), differentiable=False)
def non_max_suppression(node: Spec) -> Kernel:
    """Greedy, each class by itself; in numpy: every box waits for those before it."""
    centre = node.attr("center_point_box", 0)

    def run(
        boxes: Tensor,
        scores: Tensor,
        most: Tensor | None = None,
        overlap: Tensor | None = None,
        least: Tensor | None = None,
    ) -> Tensor:
        limit = ints(most)[0] if most is not None else 0
        worst = float(overlap.reshape(())) if overlap is not None else 0.0
        floor = float(least.reshape(())) if least is not None else None
        b, s = boxes.detach().cpu().numpy(), scores.detach().cpu().numpy()
        if centre:
            half = b[..., 2:] / 2
            b = np.concatenate([b[..., :2] - half, b[..., :2] + half], -1)
        else:
            low, high = np.minimum(b[..., :2], b[..., 2:]), np.maximum(b[..., :2], b[..., 2:])
            b = np.concatenate([low, high], -1)
        found = [
            (image, kind, box)
            for image in range(s.shape[0])
            for kind in range(s.shape[1])
            for box in _kept(b[image], s[image, kind], limit, worst, floor)
        ]
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 3).to(boxes.device)

    return run


def _kept(boxes: Any, scores: Any, limit: int, worst: float, floor: float | None) -> list[int]:
    order = np.argsort(-scores, kind="stable")
    if floor is not None:
        order = order[scores[order] > floor]
    sizes = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    while order.size and len(kept) < limit:
        first, order = int(order[0]), order[1:]
        kept.append(first)
        low = np.maximum(boxes[first, :2], boxes[order, :2])
        high = np.minimum(boxes[first, 2:], boxes[order, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        union = sizes[first] + sizes[order] - common
        order = order[~(common > worst * union)]
    return kept
