"""The two certificates: that a cut was made exactly, proved from outside, in onnxruntime.

*Permutation.* Every dim that is not pinned is permuted at random through all its members. If the
coupling is right, the outputs do not change. It needs no zeroing, so it also covers the dims that
are statistical, which is most of a transformer.

*Masking.* The pruned model against the original, in which the removed channels of the exact groups
are set to zero instead (the statistical ones are removed on both sides).

The statistical groups' cut has no masked twin. So the pruned model is also compared with the same
cut whose kept channels come in another order (*cut*): a tensor that lost other channels than the
rest of its group would show.

A check must be able to fail. So the same outputs are also measured on a *control*: a permutation of
one member of each group only, which has to move them by far more than the tolerance.

Outputs are compared as they are, or else (see `views`) ahead of what makes small errors large.
Optimisations are off, since they round differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto

from .axes import Dim, Index, select
from .comparison import deviation, tolerance
from .exactness import maskable
from .groups import Group, free_dims
from .network import Network
from .rewrite import Choice, changed_positions, rewrite, take
from .runtime import Feeds, FoundInputs, make_inputs, run, session
from .views import View, views

#: The control has to move the outputs by this many times the tolerance.
MARGIN = 10.0
#: Inputs are good for a check when a last bit in them moves the outputs by less than this.
WELL_CONDITIONED = 1e-5


@dataclass
class Certificate:
    """What the two certificates measured; deviations are relative to the largest output."""

    permutation: float | None = None
    masking: float | None = None
    cut: float | None = None
    control: float | None = None
    #: How far a last bit in the inputs moves the original's outputs: what no check can be below.
    rounding: float = 0.0
    tolerance: float = 1e-4
    groups: int = 0
    exact: int = 0
    #: What was compared: the model's outputs, or tensors ahead of them.
    compared: list[str] = field(default_factory=list)
    inputs: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Every certificate that could be made is within the tolerance."""
        measured = (self.permutation, self.masking, self.cut)
        made = [each for each in measured if each is not None]
        return all(each <= self.tolerance for each in made)

    @property
    def proves(self) -> bool:
        """The check could have failed: the control moved the outputs."""
        return self.control is not None and self.control > MARGIN * self.tolerance

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok, "proves": self.proves}


def permutation(dims: Sequence[Dim], seed: int = 0) -> dict[Dim, Index]:
    """A random permutation for each dim; none of them is the identity."""
    rng = np.random.default_rng(seed)
    found = {}
    for dim in dims:
        order = rng.permutation(dim.size or 0)
        if (order == np.arange(len(order))).all():
            order = np.roll(order, 1)
        found[dim] = order.astype(np.int64)
    return found


def certify(
    network: Network,
    groups: Sequence[Group],
    kept: Choice,
    pruned: ModelProto,
    found: FoundInputs,
    *,
    seed: int = 0,
    threads: int = 1,
) -> Certificate:
    """Make both certificates for `pruned`, the model with the indices `kept` of some groups.

    `found` holds inputs that the original runs with.

    Raises UnsupportedModel where onnxruntime can't run the model.
    """
    runner = _Runner(network, found, seed, threads)
    order = permutation(free_dims(network), seed)
    exact = {group.dim for group in groups if group.exact}
    mask = {dim: index for dim, index in kept.items() if dim in exact}
    statistical = {dim: index for dim, index in kept.items() if dim not in exact}
    reordered = {
        dim: index[turn]
        for (dim, index), turn in zip(
            kept.items(),
            permutation([Dim(len(index)) for index in kept.values()], seed).values(),
            strict=True,
        )
    }
    for i, view in enumerate(views(network)):
        if i == 0:
            runner.settle(view, seed)
        certificate = Certificate(
            groups=len(groups),
            exact=len(exact),
            compared=view.names,
            inputs=runner.described,
            rounding=runner.rounding,
            notes=view.notes,
        )
        original = runner.run(network.model.proto, view)
        certificate.tolerance = max(
            (tolerance(np.dtype(x.dtype)) for x in original[0].values()), default=1e-4
        )
        permuted = runner.run(rewrite(network, order), view)
        certificate.permutation = runner.deviation(original, permuted, order)
        certificate.control = max(
            runner.deviation(original, runner.run(wrong, view), {})
            for wrong in _controls(network, groups, order)
        )
        result = runner.run(pruned, view)
        shuffled = runner.run(rewrite(network, reordered), view)
        certificate.cut = runner.deviation(result, shuffled, reordered, kept)
        if mask:
            masked = rewrite(network, statistical, mask, maskable(network))
            certificate.masking = runner.deviation(runner.run(masked, view), result, mask)
        if certificate.ok:
            break
    return certificate


def _controls(network: Network, groups: Sequence[Group], order: Choice) -> Iterator[ModelProto]:
    """Models that are wrong on purpose: one member of each group permuted, and half of it zero.

    The second is for groups of one member only (a tied matrix), which no permutation uncouples.
    """
    first: dict[str, Set[Dim]] = {}
    for group in groups:
        member = next(member for member in group.members if member.scored)
        first[member.tensor] = first.get(member.tensor, frozenset()) | {group.dim}
    yield rewrite(_only(network, first), order)
    half = {dim: np.sort(index[: (len(index) + 1) // 2]) for dim, index in order.items()}
    yield rewrite(network, {}, half, maskable(network))


def _only(network: Network, tensors: Mapping[str, Set[Dim]]) -> Network:
    """A network in which only these constants have axes."""
    return Network(
        network.model, network.rules, axes={name: network.axes[name] for name in tensors}
    )


class _Runner:
    """Runs models on the same inputs, and reads the tensors that can be compared."""

    def __init__(self, network: Network, found: FoundInputs, seed: int, threads: int) -> None:
        self.network = network
        self.threads = threads
        self.base_dir = str(network.model.base_dir)
        again = make_inputs(network.model.proto, found.shapes, seed=seed + 1)
        for name, value in again.items():
            if value.ndim == 0 and value.dtype.kind in "iu":  # a mode, such as a sampling rate
                again[name] = found.feeds[0][name]
        self.feeds: list[Feeds] = [found.feeds[0], again, *found.feeds[1:]]
        self.described = found.describe()
        self.rounding = 0.0

    def settle(self, view: View, seed: int) -> None:
        """Choose inputs on which rounding alone hardly moves what is compared.

        Some networks are so ill-conditioned on noise around zero (a detector made for pixels from
        0 to 255) that a last bit in the input shows in the fourth digit of the output.
        """
        rng = np.random.default_rng(seed)
        plain = self.feeds
        pixels = [
            {
                name: rng.uniform(0, 255, x.shape).astype(x.dtype) if x.dtype.kind == "f" else x
                for name, x in feeds.items()
            }
            for feeds in plain
        ]
        tried: list[tuple[float, int, list[Feeds]]] = []
        for feeds in (plain, pixels):
            rounding = self._rounding(feeds, view, rng)
            if tried and not rounding:
                break  # outputs that do not move at all are no better
            tried.append((rounding, len(tried), feeds))
            if rounding < WELL_CONDITIONED:
                break
        self.rounding, chosen, self.feeds = min(tried, key=lambda each: each[:2])
        if chosen:
            self.described += " (values from 0 to 255)"

    def _rounding(self, feeds: list[Feeds], view: View, rng: np.random.Generator) -> float:
        """How far the original's outputs move when the last bits of its inputs do."""
        self.feeds = feeds
        expected = self.run(self.network.model.proto, view)
        self.feeds = [
            {
                name: np.nextafter(x, x + rng.choice([-1, 1], x.shape).astype(x.dtype))
                if x.dtype.name in ("float32", "float64")
                else x
                for name, x in each.items()
            }
            for each in feeds
        ]
        moved = self.run(self.network.model.proto, view)
        self.feeds = feeds
        return self.deviation(expected, moved, {})

    def run(self, proto: ModelProto, view: View) -> list[Feeds]:
        """What the view reads, for every set of inputs."""
        live = session(view.of(proto), optimize=False, threads=self.threads, base_dir=self.base_dir)
        return [run(live, feeds) for feeds in self.feeds]

    def deviation(
        self,
        expected: Sequence[Feeds],
        found: Sequence[Feeds],
        choice: Choice,
        before: Choice | None = None,
    ) -> float:
        """The largest relative deviation of the values found from those expected.

        What was found comes from a model with `choice` applied as well, or, where `before` is
        given, in its place; tensors inside the model are cut or reordered to line up.
        """
        worst = 0.0
        for name in expected[0]:
            positions = _positions(self.network, name, choice, before or {})
            pairs = [
                (take(x[name], positions) if positions else x[name], y.get(name))
                for x, y in zip(expected, found, strict=True)
            ]
            result = deviation(name, pairs, rtol=1.0)
            worst = max(worst, result.max_rel if result.same_nonfinite else float("inf"))
        return worst


def _positions(network: Network, name: str, choice: Choice, before: Choice) -> dict[int, Index]:
    """How to index a tensor of a model with `before` applied, to have it as with `choice`."""
    found = {}
    for i, axis in enumerate(network.axes.get(name) or ()):
        positions = changed_positions(axis, choice)
        if positions is not None:
            found[i] = np.searchsorted(select(axis, before), positions) if before else positions
    return found
