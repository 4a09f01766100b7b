"""How sensitive each group is, by few probes, and the widths that suit a budget best.

The elimination order of a group says how the error of its readers grows with every channel that
goes; probes at a few widths say what that error means for the outputs. Between the probes, the
outputs' distance is taken to be a power of the readers' error. One solver then picks the widths of
all groups at once: the least sum of distances within the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..axes import Choice, Dim, Index
from ..groups import Group
from ..network import Network
from .beside import in_order
from .consumers import layouts
from .eliminate import Consumer, Order, eliminate
from .gram import Matrix
from .parts import Place
from .probes import Prober, Reader
from .records import NOWHERE, Record, Records
from .walk import Walk
from .writing import Writer

#: The shares of a group's channels that probes leave.
SHARES = (0.7, 0.4, 0.15)


@dataclass
class Sensitivity:
    """One group: the order in which its channels go, and the distance at each width.

    `distance[i]` is that of the outputs when `i` channels of those that are left have gone.
    """

    group: Group
    #: The channels that are there.
    channels: Index
    order: Order
    distance: Matrix

    def kept(self, width: int) -> Index:
        """The channels that are left at a width."""
        gone = self.order.removed[: len(self.channels) - width]
        return np.setdiff1d(self.channels, gone)

    def ladder(self) -> Matrix:
        """What each further channel costs, from the first to go: never less than the one before."""
        steps = np.diff(_convex(self.distance))
        # The last ones never go.
        return np.concatenate([steps, np.full(len(self.channels) - len(steps), steps[-1])])


def readers_of(
    network: Network, walk: Walk, writer: Writer, choice: Choice
) -> dict[Dim, list[Reader]]:
    """For each dim, the sites that sum over it, with their Gram matrices."""
    found: dict[Dim, list[Reader]] = {}
    for refitted in walk.sites:
        if refitted.gram is None or refitted.w is None:
            continue
        site = refitted.site
        linear = Place(site, writer).linear
        for dim, layout in layouts(network, site, linear, choice).items():
            if layout.inputs is not None and layout.outputs is None:
                consumer = Consumer(refitted.gram, refitted.w, layout.inputs)
                found.setdefault(dim, []).append(Reader(site, consumer))
    return found


def measure(
    groups: Sequence[Group],
    readers: Mapping[Dim, Sequence[Reader]],
    prober: Prober,
    choice: Choice,
    shares: Sequence[float] = SHARES,
    least: int = 1,
    progress: Callable[[str], None] = lambda _: None,
    records: Records = NOWHERE,
) -> list[Sensitivity]:
    """The sensitivity of every group that some site reads, probed in graph order.

    Args:
        records: where those are noted that were measured with the same arguments.
    """
    channels = {
        group.dim: np.asarray(choice.get(group.dim, np.arange(group.size)))
        for group in groups
        if readers.get(group.dim)
    }
    ordered = sorted(
        (
            group
            for group in groups
            if group.dim in channels and _can_go(channels[group.dim], least)
        ),
        key=lambda group: min(reader.site.index for reader in readers[group.dim]),
    )
    known = records.leading(len(ordered))
    threads = prober.frontier.threads

    def eliminated(group: Group) -> Order:
        consumers = [reader.consumer for reader in readers[group.dim]]
        return eliminate(consumers, channels[group.dim], least, threads=threads)

    # Which goes first in the next group is found while this one is probed: most groups have one
    # consumer, and elimination keeps one core at work.
    orders = in_order(eliminated, ordered[len(known) :], min(threads, 2))
    found = []
    for i, group in enumerate(ordered):
        progress(f"probe {i + 1}/{len(ordered)}")
        mine = list(readers[group.dim])
        prober.advance(mine)
        if i < len(known):
            found.append(sensitivity_of(known[i], groups))
            continue
        here = channels[group.dim]
        order = next(orders)
        count = len(here)
        widths = sorted({max(least, round(count * share)) for share in shares} - {count})
        probes = {}
        for width in widths:
            kept = np.setdiff1d(here, order.removed[: count - width])
            probes[count - width] = prober.probe(mine, kept.tolist())
        curve = _curve(order.errors, probes)
        arrays = {"channels": here, "removed": order.removed, "errors": order.errors}
        facts = {"group": group.name, "of": len(ordered)}
        records.write(i, facts, {**arrays, "distance": curve})
        found.append(Sensitivity(group, here, order, curve))
    return found


def _can_go(channels: Index, least: int) -> bool:
    return channels.ndim == 1 and len(channels) > least


def sensitivity_of(record: Record, groups: Sequence[Group]) -> Sensitivity:
    """What was noted of one of these groups."""
    arrays = record.arrays
    order = Order(arrays["removed"], arrays["errors"])
    group = next(each for each in groups if each.name == record.facts["group"])
    return Sensitivity(group, arrays["channels"], order, arrays["distance"])


def _curve(errors: Matrix, probes: Mapping[int, float]) -> Matrix:
    """The distance when 0, 1, 2 ... channels have gone, through the probes: a power law between."""
    errors = np.maximum(np.concatenate([[0.0], errors]), 1e-12)
    gone = sorted(probes)
    at = np.log(errors[gone])
    value = np.log(np.maximum(np.maximum.accumulate([probes[i] for i in gone]), 1e-9))
    if len(gone) > 1:
        slopes = np.diff(value) / np.maximum(np.diff(at), 1e-6)
        # Both are squared: the power is near 1, and what two probes say beyond it is noise.
        first, last = np.clip(slopes[0], 0.5, 1.5), np.clip(slopes[-1], 1.0, 4.0)
    else:
        first = last = 1.0
    x = np.log(errors)
    y = np.interp(x, at, value)
    y = np.where(x < at[0], value[0] + first * (x - at[0]), y)
    y = np.where(x > at[-1], value[-1] + last * (x - at[-1]), y)
    curve = np.exp(y)
    curve[0] = 0.0
    return np.asarray(np.maximum.accumulate(curve))


def _convex(curve: Matrix) -> Matrix:
    """The largest convex function below a curve."""
    hull: list[int] = []
    for i in range(len(curve)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (curve[b] - curve[a]) * (i - a) >= (curve[i] - curve[a]) * (b - a):
                hull.pop()
            else:
                break
        hull.append(i)
    return np.interp(np.arange(len(curve)), hull, curve[hull])
