"""Times between the widths that were measured: linear on the grid, level on a stair.

A convolution that computes blocks of 16 channels takes for 52 channels what it takes for 64. So the
grid lies on the stairs' edges, and a width between two of them costs what the upper end of its own
stair does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

#: So many stairs are measured one by one. onnxruntime computes four blocks at a time, so that the
#: pattern of 16, 32, 48, 64 repeats, and above whole fours tell enough.
_EVERY = 8
_FOURS = 4
#: At most so many widths of one axis.
_MOST = 13


def dense(size: int, step: int) -> list[int]:
    """Widths to measure along an axis whose stairs matter, ascending; the last is `size`."""
    small = [n for n in (step // 4, step // 2) if 0 < n < size]
    stairs = list(range(step, min(size, _EVERY * step + 1), step))
    left = max(2, _MOST - len(small) - len(stairs) - 1)
    wide = list(range((_EVERY + _FOURS) * step, size, _FOURS * step))
    if len(wide) > left:
        wide = [wide[i * len(wide) // left] for i in range(left)]
    return sorted({*small, *stairs, *wide, size})


def coarse(size: int, step: int) -> list[int]:
    """Widths to measure along an axis in which time is nearly linear; the last is `size`."""
    if size <= 2 * step:
        found = {size // 4, size // 2, step // 4, step // 2, step}
    else:
        found = {step // 2, step, *(_near(size * k // 4, step) for k in (1, 2))}
    return sorted({n for n in found if 0 < n < size} | {size})


def settled(times: Mapping[tuple[int, ...], float], grain: int = 4) -> dict[tuple[int, ...], float]:
    """Times without what can only be noise: nothing takes longer than something wider does.

    Except at widths that are no multiple of `grain`: those really do, without blocked kernels.
    """
    found = dict(times)
    for at in times:
        if not any(size % grain for size in at):
            found[at] = min(
                ms
                for wider, ms in times.items()
                if all(a <= b for a, b in zip(at, wider, strict=True))
            )
    return found


def _near(width: int, step: int) -> int:
    return max(step, round(width / step) * step)


@dataclass
class Table:
    """Times (ms) on a grid of widths, one list of edges for each axis, and what lies between."""

    edges: Sequence[Sequence[int]]
    times: Mapping[tuple[int, ...], float]
    #: For each axis the height of its stairs, 1 where there are none.
    steps: Sequence[int]

    def __post_init__(self) -> None:
        self._patterns = [self._pattern(axis) for axis in range(len(self.edges))]

    @property
    def full(self) -> float:
        """ms at the widest."""
        return self.times[tuple(edges[-1] for edges in self.edges)]

    def __call__(self, *sizes: int) -> float:
        """ms at these widths; beyond the grid, as at its edge."""
        corners = [
            _bracket(edges, size, step, pattern)
            for edges, size, step, pattern in zip(
                self.edges, sizes, self.steps, self._patterns, strict=True
            )
        ]
        total = 0.0
        for corner in product(*corners):
            weight = 1.0
            for _, share in corner:
                weight *= share
            if weight:
                total += weight * self.times[tuple(edge for edge, _ in corner)]
        return total

    def _pattern(self, axis: int) -> list[float]:
        """How far one, two, three and four more blocks go of the way that four go.

        The remainder of one block costs more than a quarter of four: taken between the fourth and
        the eighth stair, where each was measured. Even where they were not.
        """
        step, edges = self.steps[axis], self.edges[axis]
        stairs = [step * (_FOURS + i) for i in range(_FOURS + 1)]
        even = [i / _FOURS for i in range(_FOURS + 1)]
        if step == 1 or not set(stairs) <= set(edges):
            return even
        at = [edges[-1] for edges in self.edges]
        points = [(*at[:axis], stair, *at[axis + 1 :]) for stair in stairs]
        times = [self.times[point] for point in points]
        if times[-1] <= times[0]:
            return even
        return [min(1.0, max(0.0, (t - times[0]) / (times[-1] - times[0]))) for t in times]


def _bracket(
    edges: Sequence[int], size: int, step: int, pattern: Sequence[float]
) -> list[tuple[int, float]]:
    """The edges around a width, with the share of each."""
    if size <= edges[0]:
        return [(edges[0], 1.0)]
    if size >= edges[-1]:
        return [(edges[-1], 1.0)]
    above = next(i for i, edge in enumerate(edges) if edge >= size)
    low, high = edges[above - 1], edges[above]
    place = float(size)
    if size != high and size > step:
        fours = size // (_FOURS * step)
        blocks = -(-(size % (_FOURS * step)) // step)
        place = min(float(high), _FOURS * step * (fours + pattern[blocks]))
        if high - low <= step:
            place = float(high)
    elif size != high and step > 1:
        place = float(high)  # inside the first block
    share = (place - low) / (high - low)
    return [(low, 1 - share), (high, share)]
