"""One walk over a pruned model in graph order: each site is refitted to the original's outputs.

Two models advance side by side over the calibration data, the original and the pruned one. At each
site the pruned model's own input, made by layers that are refitted already, is set against what the
original gives at the channels that are left. Every node runs once in each model.

A walk that goes on where another was stopped (see `records`) does not solve again what was solved:
it writes what that has written. The data runs through all pieces as it did then, so that each
number behind is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto

from ..axes import Choice, Index
from ..model import Array
from ..network import Network
from ..rewrite import changed_positions
from ..runtime import Feeds
from .gram import Gram, Matrix
from .normalise import Norm, find_norms, follow, refit_norm
from .noted import Note, noted
from .pairs import Pair, find_pairs, refit_pair, run_again
from .parts import Cut, Part, Place
from .problem import Problem, affine
from .reached import reached
from .records import NOWHERE, Records
from .recurrent import Recurrent, find_recurrent, refit_recurrent
from .relu import refine
from .segments import Frontier
from .sites import Site
from .solve import NOTHING, Fit, fit
from .store import Store
from .writing import Writer, Written

Progress = Callable[[str], None]
Step = Site | Norm | Recurrent


@dataclass
class Settings:
    """How a walk is done."""

    threads: int = 1
    seed: int = 0
    #: Rows used for each site; None for as many as its unknowns ask for.
    rows: int | None = None
    #: Passes that mind the Relu behind a site.
    relu_passes: int = 3
    #: Refit layers around an elementwise function together as well.
    pairs: bool = True
    #: Only gather Gram matrices; change nothing.
    only_look: bool = False
    #: Keep each site's Gram matrix.
    keep_grams: bool = False
    base_dir: Path = Path(".")


@dataclass
class Refitted:
    """What became of one site."""

    site: Site
    #: Relative squared error on held-out rows, before and after.
    before: float
    after: float
    ridge: float | None
    rows: int = 0
    gram: Gram | None = None
    #: The weights `[g, k, o]` that it has now, where Gram matrices are kept.
    w: Array | None = None


@dataclass
class RefittedNode:
    """What became of a normalisation or a recurrent node; the errors are as a site's."""

    name: str
    before: float
    after: float
    refitted: bool


@dataclass
class Walk:
    """A model whose sites were refitted, and how each of them did."""

    model: ModelProto
    sites: list[Refitted] = field(default_factory=list)
    others: list[RefittedNode] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)


def walk(
    network: Network,
    sites: Sequence[Site],
    model: Cut,
    choice: Choice,
    batches: Sequence[Feeds],
    settings: Settings,
    progress: Progress = lambda _: None,
    records: Records = NOWHERE,
) -> Walk:
    """Refit `model`, which is the network cut to `choice`, in place.

    Args:
        batches: calibration inputs; one batch in eight is held out, at least one.
        records: where the steps of a walk with the same arguments are noted.
    """
    with Store() as store:
        walker = _Walker(network, sites, model, choice, batches, settings, store, progress)
        return walker.run(records)


class _Walker:
    def __init__(
        self,
        network: Network,
        sites: Sequence[Site],
        cut: Cut,
        choice: Choice,
        batches: Sequence[Feeds],
        settings: Settings,
        store: Store,
        progress: Progress,
    ) -> None:
        self.network, self.choice, self.settings = network, choice, settings
        self.progress = progress
        self.changed: set[str] = set()
        reference, model = network.model, cut.model
        ranks = {name: len(axes) for name, axes in network.axes.items() if axes is not None}
        self.before = Writer(reference.proto, reference.base_dir, ranks)
        self.writer = Writer(model, settings.base_dir, ranks)
        self.writer.absorbed.update(cut.absorbed)
        self.walked = Walk(model)
        here = [_safe(site, self.before) for site in sites if site.y in self.writer.nodes]
        self.pairs: dict[str, Pair] = {}
        if not settings.only_look:
            self.changed = reached(network, choice)
            for site in here:
                place = Place(site, self.writer)
                self.walked.parts[site.y] = place.part()
            if settings.pairs:
                found = find_pairs(network, here)
                self.pairs = {y: pair for y, pair in found.items() if y in self.changed}
            if not settings.keep_grams:
                here = [site for site in here if site.y in self.changed]
        self.sites = here
        self.norms = [
            norm
            for norm in find_norms(network, self.sites)
            if norm.y in self.changed and norm.y in self.writer.nodes
        ]
        self.cells = [
            cell
            for cell in find_recurrent(network)
            if cell.y in self.changed and cell.y in self.writer.nodes
        ]
        more: list[Step] = [*self.norms, *self.cells]
        rest = [self._needs(step) for step in more]
        self.original = Frontier(
            reference.proto,
            batches,
            store,
            wanted=[name for site in self.sites for name in self._of_original(site)]
            + [name for theirs, _ in rest for name in theirs],
            base_dir=reference.base_dir,
            threads=settings.threads,
            tag="original ",
        )
        self.pruned = Frontier(
            model,
            batches,
            store,
            wanted=[name for site in self.sites for name in self._of_pruned(site)]
            + [name for _, ours in rest for name in ours],
            base_dir=settings.base_dir,
            threads=settings.threads,
            tag="pruned ",
        )

    def run(self, records: Records) -> Walk:
        steps: list[Step] = [*self.sites, *self.norms, *self.cells]
        steps.sort(key=lambda each: each.index)
        known = [noted(record) for record in records.leading(len(steps))]
        live = len(known) < len(steps)  # else no data is needed
        for i, step in enumerate(steps):
            word = "look at" if self.settings.only_look else "refit"
            self.progress(f"{word} {i + 1}/{len(steps)}")
            theirs, ours = self._needs(step)
            if live:
                self.original.advance(theirs)
                self.pruned.advance(ours)
            if i < len(known):
                note = known[i]
                self._again(step, note, live)
            else:
                note = self._do(step)
                note.write(records, i)
            self._add(step, note)
            if live:
                self.original.release(theirs)
                self.pruned.release(ours)
        self.writer.sweep()
        return self.walked

    def _do(self, step: Step) -> Note:
        written: list[Written] = []
        self.writer.log = written
        if isinstance(step, Norm):
            note = self._refit_norm(step)
        elif isinstance(step, Recurrent):
            note = self._refit_cell(step)
        else:
            note = self._refit(step)
        note.written, self.writer.log = written, None
        return note

    def _again(self, step: Step, note: Note, live: bool) -> None:
        """Have both the model and its activations be what a step that was done has left."""
        for done in note.written:
            self.writer.repeat(done)
        if not (live and note.written):
            return
        self.pruned.reindex()
        if isinstance(step, Norm) and note.line is not None:
            follow(step, self.pruned, note.line)
        elif isinstance(step, Site) and note.together:
            run_again(self.pairs[step.y], self.pruned, self.writer)

    def _add(self, step: Step, note: Note) -> None:
        """Take in what a step came to."""
        if not isinstance(step, Site):
            found = RefittedNode(step.name, note.before, note.after, note.refitted)
            self.walked.others.append(found)
            return
        for site in (step, *(self.pairs[step.y].feeders if note.together else ())):
            self.walked.parts[site.y] = Place(site, self.writer).part()
        result = Refitted(step, note.before, note.after, note.ridge, note.rows)
        if note.gram is not None:
            result.gram = note.gram
            result.w = Place(step, self.writer).read()[0].astype(np.float32)
        self.walked.sites.append(result)

    def _needs(self, step: Step) -> tuple[list[str], list[str]]:
        """The tensors that a step looks at, in the original and in the pruned model."""
        if isinstance(step, Norm):
            return [step.y], [step.y]
        if isinstance(step, Recurrent):
            return tuple(  # type: ignore[return-value]
                [name for name in step.needs(w.node(step.y)) if name not in w.initializers]
                for w in (self.before, self.writer)
            )
        return self._of_original(step), self._of_pruned(step)

    def _refit_cell(self, cell: Recurrent) -> Note:
        axes = self.network.axes[cell.node.input[2]] or []
        gates, hidden = (changed_positions(axis, self.choice) for axis in axes[1:])
        found = refit_recurrent(
            cell, self.original, self.pruned, self.before, self.writer, gates, hidden
        )
        self.pruned.reindex()
        return Note(*found)

    def _refit_norm(self, norm: Norm) -> Note:
        kept = [changed_positions(axis, self.choice) for axis in self.network.axes[norm.y] or ()]
        before, after, line = refit_norm(norm, self.original, self.pruned, self.writer, kept)
        self.pruned.reindex()
        return Note(before, after, line is not None, line=line)

    def _of_original(self, site: Site) -> list[str]:
        if site.hidden:
            return [site.x, *([site.other] if site.other else [])]
        return [site.end]

    def _of_pruned(self, site: Site) -> list[str]:
        pair = self.pairs.get(site.y)
        return [
            *(Place(feeder, self.writer).x for feeder in (pair.feeders if pair else ())),
            Place(site, self.writer).x,
            *([site.other] if site.other else []),
        ]

    def _refit(self, site: Site) -> Note:
        place = Place(site, self.writer)
        problem = self._problem(site)
        w0, b0 = place.read()
        train, held = problem.grams()
        if self.settings.only_look or site.y not in self.changed:
            spread = max(float(held.spread().sum()), 1e-30)
            error = float(held.errors(w0, b0).sum()) / spread
            found = Fit(w0, b0, None, error, error)
        else:
            found = fit(train, held, w0, b0, threads=self.settings.threads)
            if site.relu and self.settings.relu_passes and found.before > NOTHING:
                found = refine(problem, train, held, found, w0, b0, self.settings.relu_passes)
        if found.ridge is not None:
            place.write(found.w, found.b)
            self.pruned.reindex()  # there may be a new bias, even a new node
        del problem  # and the rows that it keeps
        share = self._refit_pair(site) if found.before > NOTHING else 1.0
        return Note(
            found.before,
            found.after * share,
            found.ridge is not None,
            ridge=found.ridge,
            rows=train.rows + held.rows,
            together=share < 1.0,
            gram=(train + held).small() if self.settings.keep_grams else None,
        )

    def _refit_pair(self, site: Site) -> float:
        pair = self.pairs.get(site.y)
        if pair is None:
            return 1.0
        return refit_pair(pair, self._problem(site), self.writer)

    def _problem(self, site: Site) -> Problem:
        return Problem(
            Place(site, self.writer),
            self.original,
            self.pruned,
            self._kept(site),
            self._hidden(site) if site.hidden else None,
            self.settings.seed,
            self.settings.rows,
        )

    def _kept(self, site: Site) -> list[Index | None]:
        axes = self.network.axes.get(site.end) or []
        return [changed_positions(axis, self.choice) for axis in axes]

    def _hidden(self, site: Site) -> tuple[Matrix, Matrix, Sequence[int], Index | None]:
        place = Place(site, self.before)
        axis = site.axes[site.linear.channel_axis]
        return *place.read(), place.shape, changed_positions(axis, self.choice)


def _safe(site: Site, writer: Writer) -> Site:
    """The site, compared at its own output where what follows nearly cancels a channel."""
    if site.hidden or not site.steps:
        return site
    scale, _ = affine(site.steps, writer)
    size = np.abs(scale)
    if np.all(np.isfinite(size)) and size.min() > 1e-3 * size.max():
        return site
    return replace(site, steps=[], end=site.y, other="", relu=False)
