"""Prune a model at random dims, and compare it in onnxruntime with what it should equal.

1. *Read.* The model as loading leaves it gives what the model gives.
2. *Permuted.* Every free dim in another order, through all its members: the same outputs.
3. *Masked.* Random groups lose random channels. Of the exact ones the same channels are masked in
   the original instead; the others are removed from it, too.
4. *Cut.* The pruned model against the same cut whose kept channels come in another order, which
   also proves those groups that have no masked twin.
5. *Zero.* In the original with all those channels masked, whatever tensor is held to be zero there
   is: on these claims it rests which groups are exact.
6. *Control.* One member of each group permuted alone: where that moves nothing, the graph proves
   nothing, and is counted so.

Outputs may differ by what rounding makes of them: by the tolerance, or else by as much as last bits
of the weights do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.axes import Choice, Dim, Index, Rows, occurrences
from onnxprune.certify import _only, _reordered, last_bits_moved, permutation
from onnxprune.errors import OnnxPruneError
from onnxprune.exactness import _Walk, maskable
from onnxprune.groups import find_groups, free_dims, pinned_axes
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.model import graphs
from onnxprune.network import Network
from onnxprune.rewrite import rewrite
from onnxprune.runtime import run, session
from onnxprune.tables import Rule, built_in
from onnxprune.views import View

Array = NDArray[Any]
Results = list[dict[str, Array]]

#: Relative to an output's largest value.
TOLERANCE = 1e-4
#: A difference of this many times what last bits do is rounding.
ROUNDING = 30.0
#: Reasons of what is pinned in every model.
_INTERFACE = ("an axis of the model's", "kernel", "directions", "single positions")
#: Values above this, or outputs that differ by less than this between inputs, say nothing.
_LARGEST, _LEAST = 1e5, 1e-5


class Mismatch(AssertionError):
    """A pruned model that is not what it should be; `stage` says where it showed."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(f"{stage}: {text}")
        self.stage = stage


@dataclass
class Outcome:
    """What was found of one model."""

    #: Why the model was not tried: it does not run, or says nothing.
    rejected: str = ""
    operators: Counter[str] = field(default_factory=Counter)
    #: Scored axes that can't lose anything, by the first reason.
    pins: Counter[str] = field(default_factory=Counter)
    groups: int = 0
    exact: int = 0
    pruned: int = 0
    #: Scored axes of more than one index, and those that are pinned.
    axes: int = 0
    pinned: int = 0
    #: Those of the pinned that no network could lose: its interface, kernels, directions.
    interface: int = 0
    #: Sets of channels by row: each head its own.
    rows: int = 0
    #: The control moved the outputs.
    proves: bool = False
    #: Differences that were rounding.
    rounding: int = 0
    #: Inputs of another size ran as well.
    resized: bool = False


def check(
    model: ModelProto,
    feeds: Sequence[Mapping[str, Array]],
    seed: int = 0,
    rules: Mapping[str, Rule] | None = None,
) -> Outcome:
    """Try one model. Raises Mismatch, or whatever the program itself raises."""
    outcome = Outcome()
    runner = _Runner([value.name for value in model.graph.output])
    try:
        given = runner.settle(model, feeds)
    except OnnxPruneError as error:
        outcome.rejected = f"does not run: {error}"
        return outcome
    outcome.resized = len(given) > 2
    outcome.rejected = _says_nothing(given)
    if outcome.rejected:
        return outcome
    for graph in graphs(model.graph):
        outcome.operators.update(node.op_type for node in graph.node)
    trial = _Trial(model, rules or built_in(), runner, np.random.default_rng(seed), outcome)
    trial.run(trial.compare("read", given, trial.network.model.proto))
    return outcome


def _says_nothing(given: Results) -> str:
    moved = False
    for name in given[0]:
        a, b = (each[name].astype(np.float64) for each in given[:2])
        if not np.isfinite(a).all() or not np.isfinite(b).all():
            return "not finite"
        largest = np.abs(a).max(initial=0)
        if largest > _LARGEST:
            return "too large"
        moved |= bool(np.abs(a - b).max(initial=0) > _LEAST * largest) and largest > _LEAST
    return "" if moved else "constant"


class _Runner:
    """Runs models on the same inputs, with activations unrounded."""

    def __init__(self, outputs: list[str]) -> None:
        self.feeds: list[Mapping[str, Array]] = []
        self.view = View(outputs, outputs, unrounded=True)

    def settle(self, proto: ModelProto, feeds: Sequence[Mapping[str, Array]]) -> Results:
        """Choose the inputs: two, and those of another size, if the model runs with them."""
        live = session(self.view.of(proto), optimize=False)
        self.feeds = list(feeds[:2])
        given = [run(live, each) for each in self.feeds]
        for each in feeds[2:]:
            with suppress(OnnxPruneError):
                given.append(run(live, each))
                self.feeds.append(each)
        return given

    def run(self, proto: ModelProto) -> Results:
        live = session(self.view.of(proto), optimize=False)
        return [run(live, feeds) for feeds in self.feeds]


def deviation(expected: Results, found: Results) -> float:
    """The largest difference, of the largest value of each output; infinite where shapes differ."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        for name, x in a.items():
            y = b[name]
            if x.shape != y.shape or x.dtype != y.dtype:
                return float("inf")
            if not x.size:
                continue
            with np.errstate(invalid="ignore"):
                difference = np.abs(x.astype(np.float64) - y)
            if np.isnan(difference).any():
                same = (np.isnan(x) == np.isnan(y)).all() and (np.isinf(x) == np.isinf(y)).all()
                if not same:
                    return float("inf")
            scale = max(float(np.abs(x[np.isfinite(x)]).max(initial=0)), 1e-9)
            worst = max(worst, float(np.nan_to_num(difference).max()) / scale)
    return worst


class _Trial:
    def __init__(
        self,
        model: ModelProto,
        rules: Mapping[str, Rule],
        runner: _Runner,
        rng: np.random.Generator,
        outcome: Outcome,
    ) -> None:
        self.runner, self.rng, self.outcome = runner, rng, outcome
        self.network: Network = infer(load(model), rules)
        self.groups = find_groups(self.network)
        self.walk = _Walk(self.network)
        self.exact = self.walk.run()

    def run(self, base: Results) -> None:
        """Cut it, and compare; `base` is what the reference gives."""
        network, outcome = self.network, self.outcome
        self._count()
        free = free_dims(network)
        if not free:
            return
        outer = {
            group.dim: group.outer
            for group in self.groups
            if group.outer is not None and self.rng.random() < 0.7
        }
        seed = int(self.rng.integers(2**31))
        order = permutation(free, seed, outer)
        self.compare("permuted", base, rewrite(network, order))
        outcome.proves = self._control(base, order)
        kept = self._choice(free, outer)
        outcome.pruned = len(kept)
        outcome.rows = sum(isinstance(each, Rows) for each in kept.values())
        if not kept:
            return
        pruned = rewrite(network, kept)
        complaint = _complaint(pruned)
        if complaint and not _complaint(network.model.proto):
            raise Mismatch("checker", complaint)
        result = self._runs("pruned", pruned)
        mask = {dim: index for dim, index in kept.items() if dim in self.exact}
        rest = {dim: index for dim, index in kept.items() if dim not in self.exact}
        if mask:
            masked = rewrite(network, rest, mask, maskable(network))
            self.compare("masked", self._runs("masked", masked), pruned, result)
        shuffled = rewrite(network, _reordered(kept, seed))
        self.compare("cut", result, shuffled)
        self._check_zeros(kept)

    def _check_zeros(self, kept: Choice) -> None:
        """Raise Mismatch where a tensor is not zero that is claimed to be."""
        network = self.network
        whole = {dim: index for dim, index in kept.items() if not isinstance(index, Rows)}
        main = {name for node in network.model.proto.graph.node for name in node.output}
        claims: dict[str, list[tuple[int, Index]]] = {}
        for name, dims in self.walk.zero.items():
            for i, axis in enumerate(network.axes.get(name) or () if name in main else ()):
                for dim, positions, index in occurrences(axis) if axis.size else ():
                    if dim in dims and dim in whole:
                        gone = positions[~np.isin(index, whole[dim])]
                        claims.setdefault(name, []).append((i, gone))
        if not claims:
            return
        masked = rewrite(network, {}, whole, maskable(network))
        names = {node.output[0] for node in masked.graph.node} & claims.keys()
        view = View(sorted(names), [], unrounded=True)
        try:
            found = run(session(view.of(masked), optimize=False), self.runner.feeds[0])
        except OnnxPruneError as error:
            raise Mismatch("zero", f"does not run: {error}") from error
        for name, value in found.items():
            for i, gone in claims[name] if value.dtype == np.float32 else ():
                if np.abs(np.take(value, gone, axis=i)).max(initial=0) > _LEAST:
                    raise Mismatch("zero", f"{name!r} is not zero at {gone} of axis {i}")

    def _runs(self, stage: str, proto: ModelProto) -> Results:
        try:
            return self.runner.run(proto)
        except OnnxPruneError as error:
            raise Mismatch(stage, f"does not run: {error}") from error

    def compare(
        self, stage: str, expected: Results, proto: ModelProto, found: Results | None = None
    ) -> Results:
        """What a model gives. Raises Mismatch where it is not as expected, beyond rounding."""
        found = found or self._runs(stage, proto)
        off = deviation(expected, found)
        if off <= TOLERANCE:
            return found
        rng = np.random.default_rng(0)
        weights = maskable(self.network)
        noise = max(
            deviation(self.runner.run(each), self.runner.run(last_bits_moved(each, weights, rng)))
            for each in (self.network.model.proto, proto)
            for _ in range(3)
        )
        if not off <= ROUNDING * noise:
            raise Mismatch(stage, f"outputs differ by {off:.1e}; last bits make {noise:.1e}")
        self.outcome.rounding += 1
        return found

    def _choice(self, free: Sequence[Dim], outer: Mapping[Dim, Dim]) -> dict[Dim, Index | Rows]:
        """A random subset of each of some groups, and of some dims that are no groups."""
        kept: dict[Dim, Index | Rows] = {}
        share = self.rng.choice([0.4, 0.7, 1.0])
        for dim in free:
            if self.rng.random() > share:
                continue
            size = dim.size or 0
            count = int(self.rng.integers(1, size))
            rows = outer.get(dim)
            if rows is None:
                kept[dim] = self._some(size, count)
            else:
                each = [self._some(size, count) for _ in range(rows.size or 0)]
                kept[dim] = Rows(rows, np.stack(each))
        return kept

    def _some(self, size: int, count: int) -> Index:
        return np.sort(self.rng.permutation(size)[:count]).astype(np.int64)

    def _control(self, base: Results, order: Choice) -> bool:
        first: dict[str, frozenset[Dim]] = {}
        for group in self.groups:
            member = next(member for member in group.members if member.scored)
            first[member.tensor] = first.get(member.tensor, frozenset()) | {group.dim}
        if not first:
            return False
        try:
            wrong = self.runner.run(rewrite(_only(self.network, first), order))
        except OnnxPruneError:
            return True
        return deviation(base, wrong) > 10 * TOLERANCE

    def _count(self) -> None:
        outcome = self.outcome
        outcome.groups = len(self.groups)
        outcome.exact = sum(group.dim in self.exact for group in self.groups)
        scored = {
            (member.tensor, member.axis)
            for group in self.groups
            for member in group.members
            if member.scored
        }
        pinned = pinned_axes(self.network)
        outcome.pinned = len(pinned)
        outcome.axes = len(scored) + len(pinned)
        for each in pinned:
            reasons = [pin.reason for pin in each.pins] or ["single positions"]
            if any(reason.startswith(_INTERFACE) for reason in reasons):
                outcome.interface += 1
            else:
                outcome.pins[reasons[0]] += 1


def _complaint(proto: ModelProto) -> str:
    """What ONNX's checker and its shape inference say against a model."""
    try:
        onnx.checker.check_model(proto)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error)
    return ""
