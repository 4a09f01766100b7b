"""The front of cost against loss, its knee, and the best point under a constraint.

Costs and losses are numbers of which less is better. What is not finite is on no front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]


def front(points: Sequence[Point]) -> list[int]:
    """The points that no other beats in both, by ascending cost; of equal ones the first."""
    order = sorted(
        (i for i, point in enumerate(points) if all(map(math.isfinite, point))),
        key=lambda i: (*points[i], i),
    )
    found: list[int] = []
    for i in order:
        if not found or points[i][1] < points[found[-1]][1]:
            found.append(i)
    return found


def knee(points: Sequence[Point], original: Point) -> int | None:
    """The point of the front where it bends most: beyond it, less cost is paid for dearly.

    That is the farthest below the line from the cheapest point of the front to the original, both
    axes scaled to that line's extent (Satopää et al., "Finding a Kneedle in a Haystack", 2011).
    Where none is below it, the point of least loss. None where there are no points.
    """
    on = [i for i in front(points) if points[i][0] < original[0]]
    if not on:
        return None
    (x0, y0), (x1, y1) = points[on[0]], original
    wide, high = x1 - x0, max(y0, y1) - min(points[i][1] for i in on)

    def below(i: int) -> float:
        x, y = points[i]
        line = y0 + (y1 - y0) * (x - x0) / wide
        return (line - y) / high if high > 0 else 0.0

    best = max(on, key=below)
    if below(best) > 0:
        return best
    if high <= 0:
        return on[0]  # nothing is lost anywhere
    return min(on, key=lambda i: (points[i][1], points[i][0]))


def best(
    points: Sequence[Point], most_loss: float | None = None, most_cost: float | None = None
) -> int | None:
    """The cheapest point that loses no more than `most_loss`, and costs no more than `most_cost`.

    With a bound on the cost alone, the point of least loss. None where no point is in the bounds.
    """
    inside = [
        i
        for i, (cost, loss) in enumerate(points)
        if math.isfinite(cost)
        and math.isfinite(loss)
        and (most_loss is None or loss <= most_loss)
        and (most_cost is None or cost <= most_cost)
    ]
    if most_loss is None:
        return min(inside, key=lambda i: (points[i][1], points[i][0], i), default=None)
    return min(inside, key=lambda i: (*points[i], i), default=None)
