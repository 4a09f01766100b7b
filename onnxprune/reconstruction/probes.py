"""How much the outputs suffer when one group is cut and its readers are refitted: measured.

A probe removes channels of one group from the inputs of all that reads it, refits these readers on
their Gram matrices, and runs what comes after them on some of the calibration data. Nothing is
rewritten: a channel that nobody reads is as good as gone. What has run before the first reader is
run once for all probes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from ..data_sizes import measurable
from ..model import Array
from ..runtime import Feeds, run
from ..views import View
from .eliminate import Consumer
from .gram import Matrix
from .parts import Place
from .segments import Frontier
from .sites import Site
from .solve import factor, solve_factored
from .store import Store
from .writing import Writer

RIDGE = 1e-3
#: Classes are softened: most samples are so sure of theirs that, without it, a few say everything.
TEMPERATURE = 4.0


@dataclass
class Reader:
    """A consumer of a group, with the site that it is."""

    site: Site
    consumer: Consumer


def refitted(consumer: Consumer, kept: Sequence[int]) -> tuple[Matrix, Matrix]:
    """W `[g, k, o]`, zero where a channel is gone, and b, fitted to what is left."""
    gram = consumer.gram
    xx, xy = gram.covariance()
    w = np.zeros_like(consumer.w)
    alive = np.isin(consumer.channels, np.asarray(kept)) | (consumer.channels < 0)
    for g in range(len(w)):
        at = np.flatnonzero(alive[g])
        if not len(at):
            continue
        small = xx[g][np.ix_(at, at)][None]
        prior = consumer.w[g, at][None]
        lower = factor(small, RIDGE)
        w[g, at] = (prior + solve_factored(lower, xy[g, at][None] - small @ prior))[0]
    return w, gram.intercept(w)


def distance(
    given: Mapping[str, Array], wanted: Mapping[str, Array], kinds: Mapping[str, str]
) -> float:
    """How far outputs are from others, summed over samples.

    The KL divergence of classes, or the squared error relative to the spread of the values. What is
    of another shape has lost channels itself, and says nothing.
    """
    total = 0.0
    for name, value in wanted.items():
        kind = kinds.get(name, "")
        if not kind:
            continue
        a, b = np.asarray(value, np.float64), np.asarray(given[name], np.float64)
        if a.shape != b.shape:
            continue
        if kind == "logits":
            total += _divergence(_log_softmax(a / TEMPERATURE), _log_softmax(b / TEMPERATURE))
        elif kind == "probabilities":
            soft = [_log_softmax(np.log(np.maximum(p, 0) + 1e-9) / TEMPERATURE) for p in (a, b)]
            total += _divergence(soft[0], soft[1])
        else:
            spread = float(np.square(a - a.mean(0)).sum()) or 1.0
            total += float(np.square(a - b).sum()) / spread * len(a)
    return total


def output_kinds(outputs: Mapping[str, Array]) -> dict[str, str]:
    """What each output is taken for: `logits`, `probabilities`, `values`, or "" for no floats."""
    kinds = {}
    for name, value in outputs.items():
        if not np.issubdtype(value.dtype, np.floating) or value.ndim == 0:
            kinds[name] = ""
        elif value.ndim >= 2 and value.shape[-1] > 1 and _is_simplex(value):
            kinds[name] = "probabilities"
        elif value.ndim == 2 and value.shape[-1] > 2:
            kinds[name] = "logits"
        else:
            kinds[name] = "values"
    return kinds


def _is_simplex(value: Array) -> bool:
    return bool(value.min() >= 0 and np.allclose(value.sum(-1), 1.0, atol=1e-3))


def _log_softmax(x: Array) -> Array:
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def _divergence(p: Array, q: Array) -> float:
    return float((np.exp(p) * (p - q)).sum())


def measured(model: ModelProto, original: ModelProto) -> ModelProto:
    """`model`, giving what is `measurable` of the original instead of its outputs."""
    outputs = [value.name for value in original.graph.output]
    return View(measurable(original), outputs).of(model)


class Prober:
    """Probes of one model, in graph order: of what `wanted`, given by the original, consists of."""

    def __init__(
        self,
        model: ModelProto,
        batches: Sequence[Feeds],
        wanted: Sequence[Feeds],
        store: Store,
        ranks: Mapping[str, int],
        *,
        base_dir: Path = Path("."),
        threads: int = 1,
    ) -> None:
        self.model, self.batches, self.wanted = model, batches, wanted
        self.ranks, self.base_dir = ranks, base_dir
        outputs = list(wanted[0])
        self.frontier = Frontier(
            model, batches, store, wanted=outputs, base_dir=base_dir, threads=threads, tag="probe "
        )
        self.outputs = outputs
        self.samples = sum(len(next(iter(feeds.values()))) for feeds in batches)
        self.kinds = output_kinds(wanted[0])
        self.base = self.measure({})

    def advance(self, readers: Sequence[Reader]) -> None:
        """Run up to the first of these readers."""
        writer = Writer(self.model, self.base_dir, self.ranks)
        first = min(readers, key=lambda reader: reader.site.index)
        self.frontier.advance([Place(first.site, writer).x])

    def probe(self, readers: Sequence[Reader], kept: Sequence[int]) -> float:
        """The distance per sample with only `kept` of a group, less that of the model as it is."""
        changed = {reader.site.y: refitted(reader.consumer, kept) for reader in readers}
        return max(self.measure({r.site: changed[r.site.y] for r in readers}) - self.base, 0.0)

    def measure(self, changed: Mapping[Site, tuple[Matrix, Matrix]]) -> float:
        """The distance per sample from the original's outputs, with other weights in some sites."""
        ahead = [name for name in self.outputs if not self.frontier.holds(name)]
        piece, inputs = self.frontier.ahead(ahead)
        writer = Writer(piece, self.base_dir, self.ranks)
        for site, (w, b) in changed.items():
            Place(site, writer).write(w, b)
        total = 0.0
        live = self.frontier.session(piece)
        for batch, wanted in enumerate(self.wanted):
            feeds = {name: np.asarray(self.frontier.get(name, batch)) for name in inputs}
            given = {
                name: self.frontier.get(name, batch) for name in self.outputs if name not in ahead
            }
            total += distance({**given, **run(live, feeds)}, wanted, self.kinds)
        return total / self.samples
