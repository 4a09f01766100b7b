"""Leaving the blocked layout: what widths below a block cost besides.

A convolution (unless it is grouped) reads less than a block of channels in the ordinary layout, so
the tensor that it reads is reordered first. A model whose widths are whole blocks has none of these
nodes, and nothing in its profile says what they will take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from statistics import median

from onnxprune.axes import is_pinned
from onnxprune.costs import Term
from onnxprune.model import attributes

from .convolutions import CONVOLUTIONS
from .executed import Execution
from .tensors import Axes

#: Operators that read and write each element once, as reordering does.
_MOVING = ("ReorderOutput", "ReorderInput", "QuickGelu", "Relu", "Add", "Mul", "Concat")
#: Elements from which on a node's time is that of moving them.
_MANY = 1 << 15
#: ms for each element, where a model moves none: 4 bytes at 16 GB/s.
_USUAL = 2.5e-7
#: ms of a node that does hardly anything.
_LEAST = 0.002


def reorders(
    execution: Execution, axes: Mapping[str, Axes], padded: Container[str], block: int
) -> list[Term]:
    """One term for each blocked tensor that a convolution reads, 0 while it has a whole block.

    Args:
        padded: the tensors in the blocked layout.
        block: channels in a block.
    """
    pace = _pace(execution)
    read = {
        done.inputs[0].name: done.inputs[0]
        for done in execution.nodes
        if done.node.op_type in CONVOLUTIONS
        and done.inputs
        and done.inputs[0].name in padded
        and attributes(done.node).get("group", 1) == 1
    }
    terms = []
    for name, operand in read.items():
        if name not in axes or len(operand.shape) < 3:
            continue
        axis = axes[name][1]
        if not is_pinned(axis) and (axis.size or 0) >= block:
            moved = 2 * block * math.prod(operand.shape) / operand.shape[1]
            terms.append(Term(f"{name} reordered", (axis,), _below(block, _LEAST + moved * pace)))
    return terms


def _pace(execution: Execution) -> float:
    """ms for each element that is moved: the median of what moves many."""
    paces = []
    for done in execution.nodes:
        elements = sum(math.prod(operand.shape) for operand in (*done.inputs, *done.outputs))
        if done.node.op_type in _MOVING and elements >= _MANY:
            paces.append(done.ms / elements)
    return median(paces) if paces else _USUAL


def _below(width: int, ms: float) -> Callable[..., float]:
    return lambda size: ms if size < width else 0.0
