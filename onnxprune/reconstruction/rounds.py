"""Choosing widths and refitting in rounds: each looks at the model that the last one left.

    look at every site → probe every group → widths for this round's budget → cut → refit → ...

With several rounds, the first remove what costs little; what a group costs after that is measured
anew, on the model that has shrunk. The last walk refits every site against the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..axes import Choice, Dim, Index
from ..costs import Cost
from ..groups import Group
from ..network import Network
from ..runtime import Feeds, run, session
from ..solver import Limit, Problem
from .parts import cut
from .probes import Prober
from .sensitivity import SHARES, Sensitivity, measure, readers_of
from .sites import Site
from .store import Store
from .walk import Settings, Walk, walk
from .writing import Writer

Progress = Callable[[str], None]


@dataclass
class Rounds:
    """How rounds are done."""

    #: More than one has not paid so far: what is probed again was fitted to the same samples.
    rounds: int = 1
    #: Samples that walks before the last one use, and that probes use.
    walk_samples: int = 1000
    probe_samples: int = 1024
    shares: Sequence[float] = SHARES
    #: Widths of a group are multiples of this, by its dim; without it, any.
    steps: Mapping[Dim, int] = field(default_factory=dict)
    least: int = 1
    settings: Settings = field(default_factory=Settings)


def some(batches: Sequence[Feeds], samples: int) -> list[Feeds]:
    """The first batches, of so many samples in all."""
    found: list[Feeds] = []
    count = 0
    for feeds in batches:
        if count >= samples and found:
            break
        found.append(feeds)
        count += len(next(iter(feeds.values())))
    return found


def choose_and_refit(
    network: Network,
    sites: Sequence[Site],
    groups: Sequence[Group],
    cost: Cost,
    budget: float,
    batches: Sequence[Feeds],
    plan: Rounds,
    progress: Progress = lambda _: None,
) -> tuple[Choice, Walk]:
    """The choice for a budget, and the refitted model.

    Args:
        cost: what the budget is of; `budget` is its amount in the end.
        batches: calibration inputs, in random order.
    """
    few = some(batches, plan.walk_samples)
    choice: dict[Dim, Index] = {}
    whole = cost.total()
    looked = walk(
        network,
        sites,
        cut(network, sites, choice, {}, choice),
        choice,
        few,
        replace(plan.settings, only_look=True, keep_grams=True),
        progress,
    )
    for turn in range(plan.rounds):
        amount = whole * (budget / whole) ** ((turn + 1) / plan.rounds)
        progress(f"round {turn + 1}: probes")
        found = _sensitivities(network, groups, looked, choice, few, plan)
        progress(f"round {turn + 1}: widths")
        new = {**choice, **_widths(found, cost, amount, choice, plan)}
        last = turn + 1 == plan.rounds
        model = cut(network, sites, new, looked.parts, choice)
        settings = replace(plan.settings, keep_grams=not last)
        looked = walk(network, sites, model, new, batches if last else few, settings, progress)
        choice = new
    return choice, looked


def _sensitivities(
    network: Network,
    groups: Sequence[Group],
    looked: Walk,
    choice: Choice,
    batches: Sequence[Feeds],
    plan: Rounds,
) -> list[Sensitivity]:
    ranks = {name: len(axes) for name, axes in network.axes.items() if axes is not None}
    base_dir = network.model.base_dir
    writer = Writer(looked.model, base_dir, ranks)
    readers = readers_of(network, looked, writer, choice)
    few = some(batches, plan.probe_samples)
    threads = plan.settings.threads
    original = session(network.model.proto, optimize=True, threads=threads, base_dir=base_dir)
    wanted = [run(original, feeds) for feeds in few]
    with Store() as store:
        prober = Prober(looked.model, few, wanted, store, ranks, base_dir=base_dir, threads=threads)
        return measure(groups, readers, prober, choice, plan.shares, plan.least)


def _widths(
    found: Sequence[Sensitivity], cost: Cost, amount: float, choice: Choice, plan: Rounds
) -> dict[Dim, Index]:
    """The channels that are kept for a budget."""
    dims = [s.group.dim for s in found]
    ladders = [s.ladder() for s in found]
    widths = []
    for s in found:
        step, size = plan.steps.get(s.group.dim, 1), len(s.channels)
        widths.append(sorted({size, *range(max(step, plan.least), size + 1, step)}))
    for dim, kept in choice.items():  # what is cut and was not probed again stays as it is
        if dim not in dims:
            dims.append(dim)
            widths.append([len(kept)])
            ladders.append(np.zeros(len(kept)))
    problem = Problem(dims, widths, ladders, [Limit(cost, amount)])
    chosen = problem.solve() or [each[0] for each in widths]
    return {
        s.group.dim: s.kept(width)
        for s, width in zip(found, chosen, strict=False)
        if width < s.group.size
    }
