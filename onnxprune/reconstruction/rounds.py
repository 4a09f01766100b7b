"""Choosing widths and refitting in rounds: each looks at the model that the last one left.

    look at every site → probe every group → widths for this round's budget → cut → refit → ...

With several rounds, the first remove what costs little; what a group costs after that is measured
anew, on the model that has shrunk. The last walk refits every site against the original.

What the first look and the probes come to does not depend on the budget: where it is noted, other
budgets begin with it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..axes import Choice, Dim, Index, Rows, kept_size
from ..costs import Cost
from ..groups import Group
from ..model_costs import macs_cost
from ..network import Network
from ..runtime import Feeds, run, session
from ..solver import Limit, Problem
from ..trials.identity import digest
from .aside import put_aside
from .parts import cut
from .probes import Prober, measured
from .records import NOWHERE, Records, fingerprint
from .sensitivity import SHARES, Sensitivity, measure, readers_of, sensitivity_of
from .sites import Site
from .store import Store
from .walk import Settings, Walk, walk
from .writing import Writer

Progress = Callable[[str], None]

#: Multiply-accumulates that all probes together may take, and samples that they use in any case.
_WORK = 1e13
_LEAST = 16
#: The shares that groups are probed at where even so few samples would take longer.
_FEWER = (0.6, 0.2)


@dataclass
class Rounds:
    """How rounds are done."""

    #: More than one has not paid so far: what is probed again was fitted to the same samples.
    rounds: int = 1
    #: Samples that walks before the last one use, and that probes use.
    walk_samples: int = 1000
    probe_samples: int = 384
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
    records: Records = NOWHERE,
    planned: Choice | None = None,
) -> tuple[Choice, Walk]:
    """The choice for a budget, and the refitted model.

    Args:
        cost: what the budget is of; `budget` is its amount in the end.
        planned: what is kept of groups that no probe can tell anything of, because none that reads
            them is linear (recurrent layers); by default all of them.
        batches: calibration inputs, in random order.
        records: where what is done is noted, and what was done is found.
    """
    few = some(batches, plan.walk_samples)
    choice: dict[Dim, Index | Rows] = {}
    whole = cost.total()
    looked: Walk | None = None
    seen = "look"
    for turn in range(plan.rounds):
        amount = whole * (budget / whole) ** ((turn + 1) / plan.rounds)
        probed = records.under(f"groups-{seen}-{_key(groups, plan)}")
        found = _known(groups, probed)
        if found is None:
            if looked is None:
                looked = _look(network, sites, few, plan, progress, records.under("look"))
            progress(f"round {turn + 1}: probes")
            found = _sensitivities(network, groups, looked, choice, few, plan, progress, probed)
            records.under("look").drop()  # Gram matrices are large
        progress(f"round {turn + 1}: widths")
        told = {sensitivity.group.dim for sensitivity in found}
        fixed = {dim: kept for dim, kept in (planned or {}).items() if dim not in told}
        settled = {**choice, **fixed}
        new = {**settled, **_widths(found, cost, amount, settled, plan)}
        last = turn + 1 == plan.rounds
        model = cut(network, sites, new, looked.parts if turn and looked else None, choice)
        settings = replace(plan.settings, keep_grams=not last)
        seen = f"refit-{fingerprint(model, new)}"
        looked = walk(
            network,
            sites,
            model,
            new,
            batches if last else few,
            settings,
            progress,
            records.under(seen),
        )
        choice = new
    assert looked is not None
    return choice, looked


def _look(
    network: Network,
    sites: Sequence[Site],
    batches: Sequence[Feeds],
    plan: Rounds,
    progress: Progress,
    records: Records,
) -> Walk:
    """The whole network, with the Gram matrix of every site."""
    settings = replace(plan.settings, only_look=True, keep_grams=True)
    return walk(network, sites, cut(network, sites, {}), {}, batches, settings, progress, records)


def _key(groups: Sequence[Group], plan: Rounds) -> str:
    """What else probes depend on: the other groups as well, since the model is split at each."""
    names = [group.name for group in groups]
    return digest([names, list(plan.shares), plan.least])[:16]


def _known(groups: Sequence[Group], records: Records) -> list[Sensitivity] | None:
    """What was measured before; None unless all of it was."""
    found = records.leading(len(groups))
    if not found or len(found) < found[0].facts["of"]:
        return None
    return [sensitivity_of(record, groups) for record in found]


def _sensitivities(
    network: Network,
    groups: Sequence[Group],
    looked: Walk,
    choice: Choice,
    batches: Sequence[Feeds],
    plan: Rounds,
    progress: Progress,
    records: Records,
) -> list[Sensitivity]:
    ranks = {name: len(axes) for name, axes in network.axes.items() if axes is not None}
    base_dir = network.model.base_dir
    writer = Writer(looked.model, base_dir, ranks)
    readers = readers_of(network, looked, writer, choice)
    count = len(readers.keys() & {group.dim for group in groups})
    # Half of the network runs for each.
    work = count * len(plan.shares) / 2 * macs_of_a_sample(network, batches[0])
    samples = int(_WORK / max(work, 1.0))
    shares = plan.shares if samples >= _LEAST else _FEWER
    few = some(batches, min(plan.probe_samples, max(samples, _LEAST)))
    threads = plan.settings.threads
    whole = measured(network.model.proto, network.model.proto)
    original = session(whole, optimize=True, threads=threads, base_dir=base_dir)
    wanted = [run(original, feeds) for feeds in few]
    del original  # it holds the weights twice
    with Store() as store, TemporaryDirectory(prefix="onnxprune-") as folder:
        model = looked.model
        if (light := put_aside(model, Path(folder))) is not None:
            model, base_dir = light, Path(folder)
        prober = Prober(model, few, wanted, store, ranks, base_dir=base_dir, threads=threads)
        return measure(groups, readers, prober, choice, shares, plan.least, progress, records)


def macs_of_a_sample(network: Network, feeds: Feeds) -> float:
    """Multiply-accumulates of the whole network for one sample of a batch."""
    macs = macs_cost(network, {name: x.shape for name, x in feeds.items()}).total()
    return macs / max(len(next(iter(feeds.values()))), 1)


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
            widths.append([kept_size(kept)])
            ladders.append(np.zeros(kept_size(kept)))
    problem = Problem(dims, widths, ladders, [Limit(cost, amount)])
    chosen = problem.solve() or [each[0] for each in widths]
    return {
        s.group.dim: s.kept(width)
        for s, width in zip(found, chosen, strict=False)
        if width < s.group.size
    }
