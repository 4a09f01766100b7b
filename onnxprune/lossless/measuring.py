"""Channels that are zero on every calibration sample, whatever their weights are.

A Relu that nothing in the data ever opens can't be proved dead from weights. What is found here
holds for the data, and is reported as measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..axes import Dim, leaves, occurrences
from ..calibration import Calibration
from ..groups import Group
from ..network import Network
from ..statistics import Request, collect, measurable
from .contraction import contraction
from .removable import Measured, consumers_of
from .rows import Floats


def measure_zero(network: Network, groups: Sequence[Group], calibration: Calibration) -> Measured:
    """For what products read: 0 for each channel that was zero throughout, NaN for the others."""
    readers = consumers_of(network)
    known = measurable(network)
    wanted: dict[Request, list[Dim]] = {}
    for group in groups:
        for record in readers.get(group.dim, ()):
            product = contraction(network, record.node)
            if product is not None and product.data in known:
                request = Request(product.data, product.in_axis, "absolute")
                wanted.setdefault(request, []).append(group.dim)
    if not wanted:
        return {}
    found: dict[str, dict[Dim, Floats]] = {}
    for request, statistic in collect(network, list(wanted), calibration).items():
        axis = (network.axes.get(request.tensor) or [])[request.axis]
        for dim in dict.fromkeys(wanted[request]):
            if dim in set(leaves(axis)):
                total = np.zeros(dim.size or 0)
                for each, positions, channels in occurrences(axis):
                    if each is dim:
                        np.add.at(total, channels, statistic.value[positions])
                values = np.where(total == 0, 0.0, np.nan)
                found.setdefault(request.tensor, {})[dim] = values
    return found
