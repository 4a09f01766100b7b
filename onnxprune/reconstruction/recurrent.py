"""LSTM and GRU: the weights of their gates, refitted to the original's gates.

Both are run in numpy, so that gates can be seen. Each gate is linear in the input and in the state
before it, so it is one least-squares problem: first with the original's states (at the channels
that are left), then with those that the refitted weights give themselves. The state's own error on
held-out sequences decides what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from ..axes import Index
from ..model import Array, attributes, node_name
from ..network import Network
from .cells import Trace, gru, lstm
from .gram import Gram
from .problem import HELD_OUT
from .segments import Frontier
from .solve import factor, solve_factored
from .writing import Writer

RIDGES = (1e-4, 1e-2)
_GATES = {"LSTM": 4, "GRU": 3}
_ATTRIBUTES = {"hidden_size", "direction", "linear_before_reset", "activations"}
_STANDARD = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"]}


@dataclass(eq=False)
class Recurrent:
    """One LSTM or GRU that can be refitted."""

    node: NodeProto
    index: int

    @property
    def name(self) -> str:
        return node_name(self.node)

    @property
    def y(self) -> str:
        return next(str(name) for name in self.node.output if name)

    def needs(self, node: NodeProto) -> list[str]:
        """The data it reads: the input, and initial states that are no constants."""
        return [name for i, name in enumerate(node.input) if i in (0, 5, 6) and name]


def find_recurrent(network: Network) -> list[Recurrent]:
    """The LSTM and GRU nodes of a model that are of the standard kind."""
    constants = network.model.constants
    found = []
    for index, node in enumerate(network.model.proto.graph.node):
        if node.op_type not in _GATES or node.domain not in ("", "ai.onnx"):
            continue
        attrs = attributes(node)
        given = dict(enumerate(node.input))
        standard = _STANDARD[node.op_type]
        activations = attrs.get("activations") or standard
        if (
            set(attrs) <= _ATTRIBUTES
            and activations in (standard, standard * 2)
            and all(given[i] in constants for i in (1, 2))
            and (not given.get(3) or given[3] in constants)
            and not given.get(4)
            and not given.get(7)
            and any(node.output)
        ):
            found.append(Recurrent(node, index))
    return found


@dataclass
class _Weights:
    w: Array
    r: Array
    bias: Array


class _Cell:
    """A node in one model: its weights, its operands, and how to run it."""

    def __init__(self, node: NodeProto, writer: Writer, frontier: Frontier) -> None:
        self.node, self.writer, self.frontier = node, writer, frontier
        attrs = attributes(node)
        self.gates = _GATES[node.op_type]
        self.linear_before_reset = bool(attrs.get("linear_before_reset", 0))
        direction = attrs.get("direction", b"forward")
        self.reverse = {b"forward": [False], b"reverse": [True]}.get(direction, [False, True])
        w, r = (writer.read(node.input[i]).astype(np.float64) for i in (1, 2))
        has_bias = len(node.input) > 3 and bool(node.input[3])
        bias = writer.read(node.input[3]).astype(np.float64) if has_bias else np.zeros(w.shape[:2])
        bias = bias.reshape(len(w), -1) if has_bias else np.hstack([bias, bias])
        self.weights = [
            _Weights(w[d], r[d], bias[d].reshape(2, -1)) for d in range(len(self.reverse))
        ]

    @property
    def hidden(self) -> int:
        return int(self.weights[0].r.shape[1])

    def x(self, batch: int, d: int) -> Array:
        x = self._operand(0, batch)
        assert x is not None
        return x[::-1] if self.reverse[d] else x

    def run(self, batch: int, d: int, weights: _Weights) -> Trace:
        x = self.x(batch, d)
        states = [self._operand(i, batch) for i in (5, 6)]
        h, c = (
            np.zeros((x.shape[1], self.hidden)) if state is None else state[d] for state in states
        )
        if self.gates == 4:
            return lstm(x, weights.w, weights.r, weights.bias, h, c)
        return gru(x, weights.w, weights.r, weights.bias, h, self.linear_before_reset)

    def _operand(self, i: int, batch: int) -> Array | None:
        if i >= len(self.node.input) or not self.node.input[i]:
            return None
        name = self.node.input[i]
        known = name in self.writer.initializers
        value = self.writer.read(name) if known else self.frontier.get(name, batch)
        return np.asarray(value, dtype=np.float64)

    def write(self, weights: Sequence[_Weights]) -> None:
        kind = self.writer.read(self.node.input[1]).dtype
        name = self.node.input[1]
        for i, values in (
            (1, [each.w for each in weights]),
            (2, [each.r for each in weights]),
            (3, [each.bias.ravel() for each in weights]),
        ):
            self.writer.write(self.node, i, np.stack(values).astype(kind), f"{name}_refitted_{i}")


def refit_recurrent(
    site: Recurrent, original: Frontier, pruned: Frontier, before: Writer, writer: Writer,
    gates: Index | None, hidden: Index | None,
) -> tuple[float, float, bool]:  # fmt: skip
    """Refit one; the states' relative squared error on held-out sequences before and after.

    Args:
        gates, hidden: the kept positions of the gates' axis and of the state's; None for all.
    """
    there = _Cell(before.node(site.y), before, original)
    here = _Cell(writer.node(site.y), writer, pruned)
    new, errors, starts = [], [], []
    for d, old in enumerate(here.weights):
        fitter = _Fitter(there, here, d, gates, hidden)
        start = fitter.error(old)
        best, least = old, start
        for ridge in RIDGES:
            first = fitter.fit(old, None, ridge)
            for candidate in (first, fitter.fit(old, first, ridge)):
                error = fitter.error(candidate)
                if error < least * (1 - 1e-6):
                    best, least = candidate, error
        new.append(best)
        errors.append(least)
        starts.append(start)
    better = sum(errors) < sum(starts)
    if better:
        here.write(new)
    return sum(starts) / len(starts), sum(errors) / len(errors), better


class _Fitter:
    """One direction of one node."""

    def __init__(
        self, there: _Cell, here: _Cell, d: int, gates: Index | None, hidden: Index | None
    ) -> None:
        self.there, self.here, self.d = there, here, d
        self.gates = np.arange(there.gates * there.hidden) if gates is None else gates
        self.hidden = np.arange(there.hidden) if hidden is None else hidden
        self.count = here.frontier.count
        self.every = min(HELD_OUT, self.count)

    def held(self, batch: int) -> bool:
        return self.every > 1 and batch % self.every == self.every - 1

    def error(self, weights: _Weights) -> float:
        """The states' squared error on held-out sequences, relative to their spread."""
        wrong = spread = 0.0
        for batch in range(self.count):
            if self.every == 1 or self.held(batch):
                wanted = self._original(batch).after[:, :, self.hidden]
                given = self.here.run(batch, self.d, weights).after
                wrong += float(np.square(given - wanted).sum())
                spread += float(np.square(wanted - wanted.mean((0, 1))).sum())
        return wrong / max(spread, 1e-30)

    def _original(self, batch: int) -> Trace:
        return self.there.run(batch, self.d, self.there.weights[self.d])

    def fit(self, old: _Weights, states: _Weights | None, ridge: float) -> _Weights:
        """Weights that give the original's gates; from its states, or from those of `states`."""
        size, full = len(self.hidden), self.here.gates
        new = _Weights(old.w.copy(), old.r.copy(), old.bias.copy())
        plain = slice(0, (full if full == 4 else 2) * size)
        w, r, b = self._solve(self._rows(states, plain, False), old, plain, ridge)
        new.w[plain], new.r[plain], new.bias[0, plain] = w, r, b - old.bias[1, plain]
        if full == 3:
            last = slice(2 * size, 3 * size)
            if self.here.linear_before_reset:
                w, _, b = self._solve(self._last_inputs(states, old), old, last, ridge, False)
                new.w[last], new.bias[0, last] = w, b
            else:
                w, r, b = self._solve(self._rows(states, last, True), old, last, ridge)
                new.w[last], new.r[last], new.bias[0, last] = w, r, b - old.bias[1, last]
        return new

    def _rows(
        self, states: _Weights | None, part: slice, reset: bool
    ) -> Iterator[tuple[Array, Array]]:
        """[x, state] and the gates of `part`, each `[rows, ...]`; the state reset where asked."""
        for batch in range(self.count):
            trace = self._original(batch)
            h = trace.before[:, :, self.hidden]
            if states is not None:
                h = self.here.run(batch, self.d, states).before
            if reset and trace.reset is not None:
                h = h * trace.reset[:, :, self.hidden]
            x = np.concatenate([self.here.x(batch, self.d), h], axis=2)
            y = trace.gates[:, :, self.gates[part]]
            yield x.reshape(-1, x.shape[2]), y.reshape(-1, y.shape[2])

    def _last_inputs(self, states: _Weights | None, old: _Weights) -> Iterator[tuple[Array, Array]]:
        """x alone and what it has to give, the recurrence being as it is behind the reset gate."""
        last = slice(2 * len(self.hidden), None)
        for batch in range(self.count):
            trace = self._original(batch)
            assert trace.reset is not None
            h = trace.before[:, :, self.hidden]
            if states is not None:
                h = self.here.run(batch, self.d, states).before
            inner = trace.reset[:, :, self.hidden] * (h @ old.r[last].T + old.bias[1, last])
            y = trace.gates[:, :, self.gates[last]] - inner
            x = self.here.x(batch, self.d)
            yield x.reshape(-1, x.shape[2]), y.reshape(-1, y.shape[2])

    def _solve(
        self,
        rows: Iterator[tuple[Array, Array]],
        old: _Weights,
        part: slice,
        ridge: float,
        recurrent: bool = True,
    ) -> tuple[Array, Array, Array]:
        gram: Gram | None = None
        for batch, (x, y) in enumerate(rows):
            if self.held(batch):
                continue
            if gram is None:
                gram = Gram(x.mean(0)[None], y.mean(0)[None])
            gram.add(x[None], y[None])
        assert gram is not None
        w0 = np.hstack([old.w[part], old.r[part]]) if recurrent else old.w[part]
        prior = w0.T[None]
        xx, xy = gram.covariance()
        found = prior + solve_factored(factor(xx, ridge), xy - xx @ prior)
        inputs = old.w.shape[1]
        return found[0, :inputs].T, found[0, inputs:].T, gram.intercept(found)[0]
