"""Widths that may be left of a group: multiples of a step, and the full width.

A convolution's cost in onnxruntime is a staircase of 16 channels (8 without AVX-512), a matrix
product's is smooth but for vectors of 8: those are the default steps. The full width is always
allowed, even where it is no multiple: a layer that loses nothing costs what it did.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from .axes import Dim, leaves
from .groups import Group
from .network import Network

#: Default steps, of groups that convolutions touch and of those in matrix products only.
CONVOLUTION_STEP, MATRIX_STEP = 16, 8
#: What is measured is measured at multiples of this; the stairs are found, not assumed.
MEASURED_STEP = 8
#: A group of fewer steps than this takes a smaller power of two: else it could hardly be cut.
FEWEST_STEPS = 4

_CONVOLUTIONS = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "ConvInteger", "QLinearConv"}
)


def steps_of(network: Network, groups: Sequence[Group], round_to: int | str | None) -> list[int]:
    """The step of each group: `round_to` itself, or for `auto` and None one that fits its size."""
    if isinstance(round_to, int):
        return [round_to] * len(groups)
    if round_to == "auto":
        return [fitting(MEASURED_STEP, group.size) for group in groups]
    convolved = _convolved(network)
    return [
        fitting(CONVOLUTION_STEP if group.dim in convolved else MATRIX_STEP, group.size)
        for group in groups
    ]


def fitting(step: int, size: int) -> int:
    """`step`, or the largest smaller power of two of which `size` has four."""
    while step > 1 and size < FEWEST_STEPS * step:
        step //= 2
    return step


def admissible(size: int, step: int, least: int = 1) -> list[int]:
    """The widths that may be left of `size` indices, ascending: never fewer than `least`."""
    widths = list(range(step * -(-least // step), size + 1, step))
    return widths if widths and widths[-1] == size else [*widths, size]


def most_for_below(below: int, above: int) -> int:
    """The largest count that is rounded to `below`, of two neighbouring widths.

    Of two that are equally near, it is the multiple of the larger power of two: the better aligned,
    and over many groups neither up nor down.
    """
    middle = (below + above) // 2
    tie = 2 * middle == below + above
    return middle - 1 if tie and (above & -above) > (below & -below) else middle


def nearest(count: int, widths: Sequence[int]) -> int:
    """The one of `widths` (ascending) that is nearest to `count`."""
    at = bisect_left(widths, count)
    if at == 0 or at == len(widths):
        return widths[min(at, len(widths) - 1)]
    below, above = widths[at - 1], widths[at]
    return below if count <= most_for_below(below, above) else above


def _convolved(network: Network) -> set[Dim]:
    """The dims that are axes of what a convolution reads or writes."""
    return {
        dim
        for record in network.records
        if record.node.op_type in _CONVOLUTIONS
        for name in (*record.node.input, *record.node.output)
        for axis in network.axes.get(name) or ()
        for dim in leaves(axis)
    }
