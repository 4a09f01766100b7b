"""Scopes: in which order channels go, group by group or all together.

Every channel of every group gets a *pressure* in (0, 1]: the ratio from which on it is removed. So
one knob, the ratio, turns all scopes, and more of it never brings back what less of it removed.

- `local`: each group by itself: the i-th least of n goes at i / n.
- `global`: all channels in one order.
- `isomorphic`: those groups in one order that have the same structure, and the same share of each
  such class ("Isomorphic Pruning for Vision Models", ECCV 2024): scores of unlike layers need not
  compare.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from .groups import Group
from .importance import Scores
from .network import Network

SCOPES = ("local", "global", "isomorphic")


def ladder(group: Group, scores: Scores) -> Scores:
    """A group's scores from the least to the greatest, `[size]`.

    Where each head (or convolution group) keeps channels of its own, the least of each go together,
    and what counts is their mean.
    """
    rows = np.sort(np.asarray(scores).reshape(group.rows, -1), kind="stable")
    mean: Scores = rows.mean(axis=0)
    return mean


def pressures(
    ladders: Sequence[Scores], floors: Sequence[int], classes: Sequence[Hashable]
) -> list[Scores]:
    """The pressure of each group's channels, in the order of its ladder.

    Groups with equal entries in `classes` are ranked together. The last `floors[i]` channels of a
    group are never removed: their pressure is infinite.
    """
    found = [np.full(len(each), np.inf) for each in ladders]
    together: dict[Hashable, list[int]] = defaultdict(list)
    for i, key in enumerate(classes):
        together[key].append(i)
    for members in together.values():
        free = [len(ladders[i]) - floors[i] for i in members]
        total = sum(len(ladders[i]) for i in members)
        values = np.concatenate([ladders[i][:n] for i, n in zip(members, free, strict=True)])
        rank = np.empty(len(values))
        rank[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1)
        start = 0
        for i, n in zip(members, free, strict=True):
            found[i][:n] = rank[start : start + n] / total
            start += n
    return found


def classes_of(network: Network | None, groups: Sequence[Group], scope: str) -> list[Hashable]:
    """What each group is ranked together with: equal entries are ranked together."""
    if scope == "global" or network is None:
        return [0] * len(groups) if scope == "global" else list(range(len(groups)))
    if scope == "local":
        return list(range(len(groups)))
    return _structures(network, groups)


def _structures(network: Network, groups: Sequence[Group]) -> list[Hashable]:
    """The structure of each group: who reads its weights, along which axes, and how large."""
    readers: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for record in network.records:
        for i, name in enumerate(record.node.input):
            if name in network.model.constants:
                readers[name].append((record.node.op_type, i))
    constants = network.model.constants
    found: list[Hashable] = []
    for group in groups:
        members = sorted(
            (tuple(sorted(readers[m.tensor])), m.axis, tuple(constants[m.tensor].dims))
            for m in group.members
            if m.scored
        )
        found.append((group.role, group.size, group.rows, tuple(members)))
    return found
