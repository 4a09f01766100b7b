"""Two layers around an elementwise function, refitted together.

A site that is refitted to the channels that are left is blind to what the next one makes of them.
Here the layers before a cut dim (the feeders) and the one that reads it move together, towards what
the original gives behind the reader. Gauss and Newton: the function between is replaced by its
tangent, the least-squares problem in all weights at once is solved, and a step is taken only where
the error on held-out samples falls. Each step looks at other samples, so that none is learnt by
heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..model import reads
from ..network import Network
from .beside import in_order
from .conjugate import Solver, Weights, combined
from .parts import Place
from .problem import HELD_OUT, Problem
from .segments import Frontier
from .sites import Site
from .tangents import PairFunction, View
from .writing import Writer

#: Nodes that the elementwise function may consist of.
_LONGEST = 12
#: Tangents taken, and iterations of conjugate gradients for each.
TURNS = 3
_ITERATIONS = 8
#: Rows of the reader for each tangent, at least so many for each unknown of an output.
ROWS = 60_000
_PER_UNKNOWN = 4
#: Bytes that the rows of a tangent may take, and floating-point operations for a pair.
_BYTES = 400_000_000
_WORK = 5e11
_DAMPING = 1e-3
#: A tangent whose step lowers the error by less than this share is the last.
_GAIN = 5e-3


@dataclass(frozen=True)
class Pair:
    """A site that reads, through a function of their elements, what others make."""

    reader: Site
    feeders: tuple[Site, ...]


def find_pairs(network: Network, sites: Sequence[Site]) -> dict[str, Pair]:
    """The pairs of a model, by what the reader makes.

    What lies between is only known to keep the shape; it is proved elementwise when it is refitted.
    """
    graph = network.model.proto.graph
    producer = {name: node for node in graph.node for name in node.output if name}
    readers: dict[str, set[str]] = {value.name: {""} for value in graph.output}
    for node in graph.node:
        for name in reads(node):
            readers.setdefault(name, set()).add(node.output[0])
    made = {site.y: site for site in sites if not site.hidden}
    found = {}
    for site in made.values():
        between: set[str] = set()
        feeders: dict[str, Site] = {}
        todo = [site.x]
        while todo and len(between) <= _LONGEST:
            name = todo.pop()
            if name in made:
                feeders[name] = made[name]
            elif name in between or name in network.model.constants:
                continue
            elif name in producer and len(producer[name].output) == 1:
                between.add(name)
                todo.extend(reads(producer[name]))
            else:
                break
        else:
            inside = between | {site.y}
            shapes = {tuple(a.size for a in network.axes.get(n) or ()) for n in (site.x, *feeders)}
            if (
                between
                and feeders
                and not todo
                and len(shapes) == 1
                and readers.get(site.x, set()) == {site.y}
                and all(readers.get(n, set()) <= inside for n in (*between, *feeders))
            ):
                found[site.y] = Pair(site, tuple(feeders.values()))
    return found


def refit_pair(pair: Pair, problem: Problem, writer: Writer) -> float:
    """Refit a pair in place, and run the pruned model anew up to the reader.

    Args:
        problem: the reader's; its pruned model still holds what the feeders read.

    Returns:
        the share that the reader's error on held-out samples fell to; 1 where nothing was changed.
    """
    return _Refit(pair, problem, writer).run()


def run_again(pair: Pair, pruned: Frontier, writer: Writer) -> None:
    """Run what lies between a pair anew, after its weights were written."""
    pruned.reindex()
    names = [Place(site, writer).x for site in pair.feeders]
    inputs = {name: pruned.get(name, 0) for name in names}
    live = pruned.between(inputs, [Place(pair.reader, writer).x])
    pruned.run_over(live, list(inputs))


class _Refit:
    def __init__(self, pair: Pair, problem: Problem, writer: Writer) -> None:
        self.pair, self.pruned, self.writer = pair, problem.pruned, writer
        self.reader = Place(pair.reader, writer)
        self.feeders = [Place(site, writer) for site in pair.feeders]
        self.weights: Weights = [place.read() for place in (*self.feeders, self.reader)]
        self.function = PairFunction(
            [site.y for site in pair.feeders], self.feeders, self.reader, problem
        )
        self.views = self.function.views
        self.rng = np.random.default_rng(problem.seed)

    def run(self) -> float:
        if not self.views.exist or not self._split() or not self._size():
            return 1.0
        first = self.function.batch(self.train[0], self._view())
        if not self.function.is_elementwise(first, self.weights):
            return 1.0
        share = 1.0
        damping = _DAMPING
        for turn in range(TURNS):
            gain, length = self._turn(turn, damping)
            share *= gain
            if gain > 1 - _GAIN:
                break
            damping = damping / 3 if length == 1.0 else damping * 10
        if share < 1.0:
            self._write()
        return share

    def _split(self) -> bool:
        """Which batches are fitted to, and which judge; False where there are too few."""
        like = self.pruned.get(self.reader.x, 0)
        count, every = self.pruned.count, min(HELD_OUT, self.pruned.count)
        same = [
            i
            for i in range(count)
            if self.pruned.get(self.reader.x, i).shape[1:] == like.shape[1:]
            or not self.views.per_image
        ]
        self.train = [i for i in same if i % every != every - 1]
        self.held = [i for i in same if i % every == every - 1]
        self.units = max(self.views.units(like), 1)
        return bool(self.train and self.held)

    def _size(self) -> bool:
        """How much is looked at for each tangent; False where that would be too little."""
        unknowns = [w.shape[0] * w.shape[1] for w, _ in self.weights]
        wide = 4 * (3 * unknowns[-1] + 2 * sum(unknowns[:-1]))
        rows = min(ROWS, _BYTES // wide)
        work = 8 * sum(w.size for w, _ in self.weights) * _ITERATIONS
        inverses = sum(2 * w.shape[0] * w.shape[1] ** 3 for w, _ in self.weights)
        rows = min(rows, int(max(_WORK / TURNS - inverses, 0) / work))
        #: Batches for each tangent, and positions of each unit.
        self.each = min(-(-len(self.train) // TURNS), max(1, rows // self.units))
        self.count = max(1, min(rows // (self.each * self.units), self.views.positions))
        self.held = self.held[: -(-self.each // 3)]
        rows = self.count * self.each * self.units
        return bool(rows >= _PER_UNKNOWN * max(w.shape[1] for w, _ in self.weights))

    def _view(self) -> View:
        """Of some positions, others each time."""
        start = int(self.rng.integers(self.views.positions - self.count + 1))
        return self.views.at(start, self.count)

    def _turn(self, turn: int, damping: float) -> tuple[float, float]:
        """One step; the share that the held-out error falls to, and the step's length."""
        function, weights, count = self.function, self.weights, len(self.train)
        some = {self.train[(turn * self.each + i) % count] for i in range(self.each)}
        seen = [(i, self._view()) for i in (*self.held, *sorted(some))]
        threads = self.pruned.threads
        both = list(in_order(lambda each: function.batch(*each), seen, threads))
        held, batches = both[: len(self.held)], both[len(self.held) :]
        solver = Solver(
            list(in_order(lambda each: function.tangent(each, weights), batches, threads)),
            weights,
            function.matrix(weights[-1][0]),
            function.emphasis,
            damping,
            threads,
        )
        step = solver.solve(_ITERATIONS)

        def error(these: Weights) -> float:
            return sum(in_order(lambda batch: function.error(batch, these), held, threads))

        before = error(weights)
        for length in (1.0, 0.5, 0.25):
            tried = combined(weights, step, length)
            after = error(tried)
            if after < before:
                self.weights = tried
                return after / before, length
        return 1.0, 0.0

    def _write(self) -> None:
        """Put the weights into the model, and run what the reader reads anew."""
        for place, (w, b) in zip((*self.feeders, self.reader), self.weights, strict=True):
            place.write(w, b)
        run_again(self.pair, self.pruned, self.writer)
