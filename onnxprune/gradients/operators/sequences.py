"""Sequences (lists of tensors) and optional values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..table import Kernel, Spec, ints, operator, plain

Sequence = list[Any]

plain("SequenceEmpty", call=lambda: [])
plain("SequenceConstruct", call=lambda *each: list(each))
plain("SequenceLength", call=lambda each: torch.tensor(len(each)), differentiable=False)
plain("SequenceAt", call=lambda each, at: each[ints(at)[0]], host=(1,))
plain("Optional", call=lambda *value: value[0] if value else None)
plain("OptionalGetElement", call=lambda value: value)
plain(
    "OptionalHasElement",
    call=lambda *value: torch.tensor(bool(value) and value[0] is not None),
    differentiable=False,
)


@operator("SequenceInsert", host=(2,))
def insert(node: Spec) -> Kernel:
    def run(each: Sequence, value: Tensor, at: Tensor | None = None) -> Sequence:
        made = list(each)
        made.insert(len(made) if at is None else ints(at)[0], value)
        return made

    return run


@operator("SequenceErase", host=(1,))
def erase(node: Spec) -> Kernel:
    def run(each: Sequence, at: Tensor | None = None) -> Sequence:
        made = list(each)
        del made[-1 if at is None else ints(at)[0]]
        return made

    return run


@operator("ConcatFromSequence")
def concat(node: Spec) -> Kernel:
    axis, new = node.attr("axis"), node.attr("new_axis", 0)
    return lambda each: torch.stack(each, axis) if new else torch.cat(each, axis)


@operator("SplitToSequence", host=(1,))
def split(node: Spec) -> Kernel:
    axis, keep = node.attr("axis", 0), node.attr("keepdims", 1)

    def run(x: Tensor, sizes: Tensor | None = None) -> Sequence:
        if sizes is None:
            pieces = x.split(1, axis)
            return list(pieces) if keep else [each.squeeze(axis) for each in pieces]
        return list(x.split(ints(sizes) if sizes.dim() else ints(sizes)[0], axis))

    return run


@operator("ai.onnx.ml.ZipMap")
def zip_map(node: Spec) -> Kernel:
    """The table that its maps are of, `[n, classes]`: a map of each row holds the same numbers."""
    return lambda x: x


@operator("SequenceMap")
def sequence_map(node: Spec) -> Kernel:
    body = node.compile(node.attr("body"))
    count = len(node.node.inputs)

    def run(first: Sequence, *rest: Any) -> tuple[Any, ...]:
        more, captured = rest[: count - 1], rest[count - 1 :]
        rows = [
            body(each, *(x[i] if isinstance(x, list) else x for x in more), *captured)
            for i, each in enumerate(first)
        ]
        if not rows:
            return tuple([] for _ in range(node.outputs))
        return tuple(list(each) for each in zip(*rows, strict=True))

    return run
