"""The whole job: a plan's model refitted, or the plan chosen as well; and a check of the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from onnx import ModelProto

from ..axes import Choice
from ..calibration import Calibration
from ..costs import Cost
from ..groups import Group
from ..inputs import input_specs
from ..model import Array
from ..network import Network
from ..rewrite import rewrite
from ..runtime import Feeds, cores, run, session
from ..words import counted
from .beside import one_thread_each
from .copies import with_copies
from .parts import cut
from .probes import distance, measured, output_kinds
from .problem import HELD_OUT
from .records import NOWHERE, Kept, Records, fingerprint, identity_of_job
from .rounds import Rounds, choose_and_refit, macs_of_a_sample
from .sites import find_sites
from .walk import Settings, Walk, walk

Progress = Callable[[str], None]


@dataclass
class SiteResult:
    """How one node did: relative squared error on held-out rows."""

    node: str
    before: float
    after: float
    refitted: bool


@dataclass
class Outcome:
    """A refitted model, and how it came about."""

    model: ModelProto = field(repr=False)
    choice: Choice = field(repr=False)
    sites: list[SiteResult]
    #: Nodes with weights that were left alone: (node, reason).
    skipped: list[tuple[str, str]]
    #: Distance of the outputs from the original's on held-out inputs, per sample.
    before: float
    after: float
    samples: int
    #: What the calibration data was, in words.
    source: str = ""
    #: Mirrored and moved copies of images that were fitted to beside them.
    copies: int = 0

    def text(self) -> str:
        """One line for people."""
        done = sum(each.refitted for each in self.sites)
        also = f" and {self.copies:,} copies of them, mirrored or moved" if self.copies else ""
        layers = counted(len(self.sites), "layer")
        return (
            f"{done} of {layers} refitted on {self.source}{also}: the outputs' distance from the"
            f" original's on held-out {'copies' if self.copies else 'inputs'} went from"
            f" {self.before:.3g} to {self.after:.3g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "sites": [asdict(each) for each in self.sites],
            "skipped": [list(each) for each in self.skipped],
            "before": self.before,
            "after": self.after,
            "samples": self.samples,
            "source": self.source,
            "copies": self.copies,
        }


def reconstruct(
    network: Network,
    choice: Choice,
    calibration: Calibration,
    *,
    threads: int | None = None,
    seed: int = 0,
    kept: Kept | None = None,
    progress: Progress = lambda _: None,
) -> Outcome:
    """The model cut to `choice`, every site refitted to what the original gives.

    With an empty choice nothing changes. Where the outputs are no better for it on the held-out
    inputs, the model is as it was cut.

    Args:
        threads: None for as many as there are cores.
        kept: the records of the command, if it is one that can be resumed.

    Raises:
        UsageError: there is no calibration data, or the records are another job's.
        UnsupportedModel: the model can't be run piece by piece.
    """
    sites, skipped = find_sites(network)
    settings = Settings(threads or cores(), seed, base_dir=network.model.base_dir)
    batches, copied = _data(network, calibration, settings)
    model = cut(network, sites, choice)
    with one_thread_each(), _records(kept, network, batches, settings) as records:
        noted = records.under(f"refit-{fingerprint(model, choice)}")
        walked = walk(network, sites, model, choice, batches, settings, progress, noted)
    return _finished(network, choice, walked, skipped, batches, settings, calibration, copied)


def choose_and_reconstruct(
    network: Network,
    groups: Sequence[Group],
    cost: Cost,
    amount: float,
    calibration: Calibration,
    *,
    rounds: Rounds | None = None,
    threads: int | None = None,
    seed: int = 0,
    kept: Kept | None = None,
    progress: Progress = lambda _: None,
    planned: Choice | None = None,
) -> Outcome:
    """Widths of `groups` for a budget (`amount` of `cost`), chosen by what refitting can't mend.

    Of those that this can't be told of, what is `planned` is kept. Raises: as `reconstruct`.
    """
    sites, skipped = find_sites(network)
    settings = Settings(threads or cores(), seed, base_dir=network.model.base_dir)
    batches, copied = _data(network, calibration, settings)
    rounds = replace(rounds or Rounds(), settings=settings)
    about = {"walk_samples": rounds.walk_samples, "probe_samples": rounds.probe_samples}
    with one_thread_each(), _records(kept, network, batches, settings, about) as records:
        choice, walked = choose_and_refit(
            network, sites, groups, cost, amount, batches, rounds, progress, records, planned
        )
    return _finished(network, choice, walked, skipped, batches, settings, calibration, copied)


@contextmanager
def _records(
    kept: Kept | None,
    network: Network,
    batches: Sequence[Feeds],
    settings: Settings,
    about: Mapping[str, Any] | None = None,
) -> Iterator[Records]:
    """Where this job's steps are noted. More threads make the same steps faster, not others."""
    if kept is None:
        yield NOWHERE
        return
    options = {**asdict(settings), **(about or {})}
    for name in ("threads", "base_dir"):
        del options[name]
    with kept.open(identity_of_job(network.model, batches, options)) as records:
        yield records


def _data(
    network: Network, calibration: Calibration, settings: Settings
) -> tuple[list[Feeds], int]:
    """All batches, with copies of the images where they are few; and how many copies."""
    batches = shuffled(calibration, settings.seed)
    if not calibration.real:
        return batches, 0
    proto = network.model.proto
    live: Any = None

    def original(feeds: Feeds) -> Mapping[str, Array]:
        nonlocal live
        live = live or session(
            proto, optimize=True, threads=settings.threads, base_dir=settings.base_dir
        )
        return run(live, feeds)

    macs = macs_of_a_sample(network, batches[0])
    return with_copies(batches, input_specs(proto), macs, original, settings.seed)


def shuffled(calibration: Calibration, seed: int, size: int = 64) -> list[Feeds]:
    """All batches of calibration data, samples in random order: at least two where it can be."""
    count = calibration.samples
    if count is not None and count < size * HELD_OUT:
        size = max(1, -(-count // HELD_OUT))
    batches = list(calibration.batches(size))
    order = np.random.default_rng(seed).permutation(len(batches))
    return [batches[i] for i in order]


def _finished(
    network: Network,
    choice: Choice,
    walked: Walk,
    skipped: list[tuple[str, str]],
    batches: Sequence[Feeds],
    settings: Settings,
    calibration: Calibration,
    copied: int,
) -> Outcome:
    """What came out, or the model as it was cut where that is better on held-out inputs."""
    every = min(HELD_OUT, len(batches))
    held = [feeds for i, feeds in enumerate(batches) if i % every == every - 1]
    plain = rewrite(network, choice)
    before, after = (
        _distance(network, model, held, settings) if walked.sites or walked.others else 0.0
        for model in (plain, walked.model)
    )
    model = walked.model if after < before else plain
    return Outcome(
        model,
        choice,
        [SiteResult(r.site.name, r.before, r.after, r.ridge is not None) for r in walked.sites],
        skipped,
        before,
        min(before, after),
        sum(len(next(iter(feeds.values()))) for feeds in batches) - copied,
        calibration.source,
        copied,
    )


def _distance(
    network: Network, model: ModelProto, batches: Sequence[Feeds], settings: Settings
) -> float:
    whole = network.model.proto
    original, other = (
        session(
            measured(each, whole),
            optimize=True,
            threads=settings.threads,
            base_dir=settings.base_dir,
        )
        for each in (whole, model)
    )
    total, count = 0.0, 0
    for feeds in batches:
        wanted = run(original, feeds)
        total += distance(run(other, feeds), wanted, output_kinds(wanted))
        count += len(next(iter(feeds.values())))
    return total / max(count, 1)
