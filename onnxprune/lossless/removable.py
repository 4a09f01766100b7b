"""Which channels of a dim carry nothing, and what their consumers have to take over.

A channel can go when each operator that sums over its dim is a product with a constant weight, and
for each of them one of these holds:

- its column of the weight is zero;
- the channel is constant there: its share of the sum goes into the bias;
- the channel is a multiple of another one, the same for all consumers, that stays: its column is
  added to the other's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..axes import Dim, Index, leaves
from ..groups import Group
from ..network import Network, Record
from .contraction import Contraction, contraction
from .facts import Facts
from .rows import Floats
from .walk import Walk

#: What kind of nothing a channel carries, in the order in which it is looked for.
KINDS = ("unused", "constant", "duplicate")


@dataclass
class Removable:
    """The channels of one dim that carry nothing."""

    dim: Dim
    kinds: dict[int, str] = field(default_factory=dict)
    #: Channels of which calibration inputs say so, and not the weights alone.
    measured: set[int] = field(default_factory=set)
    #: For each consumer: `[size, size]` sparse, rows (kept, removed, factor) of columns to add.
    merges: dict[str, list[tuple[int, int, float]]] = field(default_factory=dict)
    #: For each consumer: what constant channels are worth, by channel.
    constants: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def channels(self) -> Index:
        """All of them, ascending."""
        return np.array(sorted(self.kinds), dtype=np.int64)


@dataclass(frozen=True)
class Consumer:
    """One product that sums over a dim, and what is known of the dim's channels there."""

    product: Contraction
    #: The channel's column of the weight is zero.
    unused: NDArray[np.bool_]
    facts: Facts
    #: A constant value can go into the bias.
    foldable: bool


#: Constants seen on calibration inputs: `{tensor: {dim: values [n], NaN where they vary}}`.
Measured = Mapping[str, Mapping[Dim, Floats]]


def find_removable(
    network: Network, groups: Sequence[Group], measured: Measured | None = None
) -> list[Removable]:
    """The channels of each group that carry nothing, where there are any."""
    readers = consumers_of(network)
    statistical = {dim for axis, _ in network.statistical for dim in leaves(axis)}
    uses = _uses(network)
    wanted = [group for group in groups if group.dim not in statistical and group.dim in readers]
    nodes = {id(r.node): r.node for group in wanted for r in readers[group.dim]}
    products = {key: contraction(network, node) for key, node in nodes.items()}
    able = [g for g in wanted if all(products[id(r.node)] for r in readers[g.dim])]
    # Facts are followed along these dims only: of a transformer, that is a part of its weights.
    if not able:
        return []
    walk = Walk(network, {group.dim for group in able}).run()
    found = []
    for group in able:
        read = [products[id(record.node)] for record in readers[group.dim]]
        consumers = _consumers(walk, group.dim, read, uses)
        if consumers is None:
            continue
        result = _of(group.dim, consumers, measured or {})
        if result.kinds:
            found.append(result)
    return found


def consumers_of(network: Network) -> dict[Dim, list[Record]]:
    """The records that sum over each dim."""
    found: dict[Dim, list[Record]] = defaultdict(list)
    for record in network.records:
        for dim in dict.fromkeys(dim for axis in record.contracted for dim in leaves(axis)):
            found[dim].append(record)
    return found


def _uses(network: Network) -> dict[str, int]:
    """How many operands of nodes each constant is."""
    uses: dict[str, int] = defaultdict(int)
    for record in network.records:
        for name in record.node.input:
            uses[name] += 1
    return uses


def _consumers(
    walk: Walk, dim: Dim, products: Iterable[Contraction | None], uses: Mapping[str, int]
) -> list[Consumer] | None:
    """All consumers of a dim; None where one of them is not a product with a constant weight."""
    found = []
    for product in products:
        if product is None or uses[product.weight] > 1:
            return None
        if dim not in product.summed or not walk.plain(product.data, dim):
            return None
        unused = walk.silent(product.weight, dim, product.order[1])
        if unused is None:
            return None
        bias = product.bias
        free = not bias or (bias in walk.network.model.constants and uses[bias] == 1)
        facts = walk.facts(product.data, dim)
        foldable = free and not product.padded
        found.append(Consumer(product, unused, facts, foldable))
    return found or None


def _of(dim: Dim, consumers: Sequence[Consumer], measured: Measured) -> Removable:
    found = Removable(dim)
    worth = [_worth(consumer, dim, measured) for consumer in consumers]
    proved = [consumer.facts.constant for consumer in consumers]
    settled = []  # [consumers, n]: nothing of the channel is missed there
    for consumer, values in zip(consumers, worth, strict=True):
        fold = np.isfinite(values) & (consumer.foldable | (values == 0))
        settled.append(consumer.unused | fold)
    n = dim.size or 0
    unlike = any(len(np.unique(consumer.facts.label)) == n for consumer in consumers)
    if unlike and not any(done.any() for done in settled):
        return found  # most groups: every channel is one of its own
    open_ = [tuple(i for i, done in enumerate(settled) if not done[k]) for k in range(n)]
    twins = _Twins(consumers)
    # Those that more consumers miss come first, so that they can stand for the others.
    for k in sorted(range(n), key=lambda k: -len(open_[k])):
        rest = [i for i in range(len(consumers)) if i not in open_[k]]
        if not open_[k]:
            silent = all(consumer.unused[k] for consumer in consumers)
            _note(found, k, "unused" if silent else "constant", consumers, worth, rest)
        else:
            twin = twins.of(k, open_[k])
            if twin is None:
                continue
            _note(found, k, "duplicate", consumers, worth, rest)
            for i in open_[k]:
                facts = consumers[i].facts
                factor = float(facts.scale[k] / facts.scale[twin])
                merges = found.merges.setdefault(consumers[i].product.node.output[0], [])
                merges.append((twin, k, factor))
        if any(not consumers[i].unused[k] and not proved[i][k] for i in rest):
            found.measured.add(k)
    if len(found.kinds) == n:  # one has to stay
        _keep(found, min(k for k in found.kinds))
    return found


class _Twins:
    """Channels that stay, to be found by what they are alike to for some of the consumers."""

    def __init__(self, consumers: Sequence[Consumer]) -> None:
        self.labels = [consumer.facts.label for consumer in consumers]
        self.kept: list[int] = []
        self.tables: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}

    def of(self, k: int, at: tuple[int, ...]) -> int | None:
        """The channel that k is a multiple of, for the consumers `at`; None if k stays itself."""
        if at not in self.tables:
            self.tables[at] = {}
            for other in reversed(self.kept):
                self.tables[at][self._key(other, at)] = other
        twin = self.tables[at].get(self._key(k, at))
        if twin is None:
            self.kept.append(k)
            for consumers, table in self.tables.items():
                table.setdefault(self._key(k, consumers), k)
        return twin

    def _key(self, k: int, at: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(self.labels[i][k]) for i in at)


def _worth(consumer: Consumer, dim: Dim, measured: Measured) -> Floats:
    """The value of each channel where it is constant, else NaN."""
    values = np.where(consumer.facts.constant, consumer.facts.low, np.nan)
    seen = measured.get(consumer.product.data, {}).get(dim)
    return values if seen is None else np.where(np.isnan(values), seen, values)


def _note(
    found: Removable,
    k: int,
    kind: str,
    consumers: Sequence[Consumer],
    worth: Sequence[Floats],
    only: Sequence[int],
) -> None:
    """Remember channel k, and its constant for each consumer that would miss it."""
    found.kinds[k] = kind
    for i in only:
        value = float(worth[i][k])
        if not consumers[i].unused[k] and value:
            output = consumers[i].product.node.output[0]
            found.constants.setdefault(output, {})[k] = value


def _keep(found: Removable, k: int) -> None:
    del found.kinds[k]
    found.measured.discard(k)
    for values in found.constants.values():
        values.pop(k, None)
