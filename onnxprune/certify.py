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

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from .axes import Choice, Dim, Index, Rows, kept_size, product, select, selected_size
from .comparison import deviation, tolerance
from .errors import CheckFailed
from .exactness import maskable
from .groups import Group, free_dims
from .model import Array, replace_value, tensor_array
from .network import Axes, Network
from .rewrite import changed_positions, rewrite, take
from .runtime import Feeds, FoundInputs, make_inputs, run, session
from .views import View, views

#: The control has to move the outputs by this many times the tolerance.
MARGIN = 10.0
#: Sums in another order differ by up to this many times what the weights' last bits do.
ROUNDING = 20.0
#: No model is so ill-conditioned that a check may allow more than this.
LOOSEST = 1e-2
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


def permutation(
    dims: Sequence[Dim], seed: int = 0, outer: Mapping[Dim, Dim] | None = None
) -> dict[Dim, Index | Rows]:
    """A random permutation for each dim; none of them is the identity.

    A dim with an `outer` one has a permutation for each of its indices.
    """
    rng = np.random.default_rng(seed)
    found: dict[Dim, Index | Rows] = {}
    for dim in dims:
        rows = (outer or {}).get(dim)
        if rows is None:
            found[dim] = _shuffled(rng, dim.size or 0)
        else:
            each = [_shuffled(rng, dim.size or 0) for _ in range(rows.size or 0)]
            found[dim] = Rows(rows, np.stack(each))
    return found


def _shuffled(rng: np.random.Generator, size: int) -> Index:
    order = rng.permutation(size).astype(np.int64)
    return np.roll(order, 1) if (order == np.arange(size)).all() else order


def _reordered(kept: Choice, seed: int) -> dict[Dim, Index | Rows]:
    """The same indices of each dim, in another order."""
    rng = np.random.default_rng(seed)
    found: dict[Dim, Index | Rows] = {}
    for dim, chosen in kept.items():
        if isinstance(chosen, Rows):
            rows = [row[_shuffled(rng, len(row))] for row in chosen.indices]
            found[dim] = Rows(chosen.outer, np.stack(rows))
        else:
            found[dim] = chosen[_shuffled(rng, len(chosen))]
    return found


def _half(order: Choice) -> dict[Dim, Index | Rows]:
    """Some half of each dim's indices, ascending."""
    found: dict[Dim, Index | Rows] = {}
    for dim, chosen in order.items():
        count = (kept_size(chosen) + 1) // 2
        if isinstance(chosen, Rows):
            found[dim] = Rows(chosen.outer, np.sort(chosen.indices[:, :count]))
        else:
            found[dim] = np.sort(chosen[:count])
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

    Raises UnsupportedModel where onnxruntime can't run the model; CheckFailed where its outputs are
    not finite.
    """
    runner = _Runner(network, found, seed, threads)
    outer = {dim: each.outer for dim, each in kept.items() if isinstance(each, Rows)}
    order = permutation(free_dims(network), seed, outer)
    exact = {group.dim for group in groups if group.exact}
    mask = {dim: index for dim, index in kept.items() if dim in exact}
    statistical = {dim: index for dim, index in kept.items() if dim not in exact}
    reordered = _reordered(kept, seed)
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
        result = runner.run(pruned, view)
        if i == 0:
            _refuse_not_finite(network, original, result)
        certificate.tolerance = max(
            (tolerance(np.dtype(x.dtype)) for x in original[0].values()), default=1e-4
        )
        permuted = runner.run(rewrite(network, order), view)
        certificate.permutation = runner.deviation(original, permuted, order)
        certificate.control = max(
            runner.deviation(original, runner.run(wrong, view), {})
            for wrong in _controls(network, groups, order)
        )
        shuffled = runner.run(rewrite(network, reordered), view)
        certificate.cut = runner.deviation(result, shuffled, reordered, kept)
        if mask:
            masked = rewrite(network, statistical, mask, maskable(network))
            certificate.masking = runner.deviation(
                runner.run(masked, view), result, kept, statistical
            )
        if certificate.ok:
            break
    if not certificate.ok:
        _allow_rounding(certificate, runner, view, pruned, seed)
    return certificate


def _refuse_not_finite(
    network: Network, original: Sequence[Feeds], pruned: Sequence[Feeds]
) -> None:
    """Raise CheckFailed where outputs are no numbers, and so can't be compared."""
    before = {name: _finite(each[name] for each in original) for name in original[0]}
    if before and not any(before.values()):
        damaged = next(_not_numbers(network), None)
        where = f" (tensor {damaged!r} holds NaN)" if damaged else ""
        raise CheckFailed(
            f"output {next(iter(before))!r} of the original is NaN or infinite throughout on random"
            f" inputs{where}, so that nothing can be checked: repair the model, or give"
            " --no-verify to prune it unchecked"
        )
    for name, share in before.items():
        if share == 1 and _finite(each[name] for each in pruned) < 1:
            raise CheckFailed(
                f"output {name!r} of the pruned model has NaN or infinite values, that of the"
                " original has none; remove less, or leave layers out by --exclude"
            )


def _finite(values: Iterable[Array]) -> float:
    """The share of numbers that are finite; all of what is no float is."""
    flat = [np.isfinite(x.astype(np.float64)).ravel() for x in values if _floats(x) and x.size]
    return float(np.mean(np.concatenate(flat))) if flat else 1.0


def _floats(value: Array) -> bool:
    return value.dtype.kind == "f" or value.dtype.name.startswith(("bfloat16", "float8"))


def _not_numbers(network: Network) -> Iterator[str]:
    """Weights that hold NaN. (Infinity may be meant: in masks it is.)"""
    model = network.model
    for name in model.constants:
        if name in network.scored and np.isnan(model.read(name).astype(np.float64)).any():
            yield name


def _allow_rounding(
    certificate: Certificate, runner: _Runner, view: View, pruned: ModelProto, seed: int
) -> None:
    """Raise the tolerance to what the order of a sum alone can make of these models' outputs.

    It shows in the last bits of the weights: where moving them moves the outputs that far, no check
    can tell less. That the control moves them by far more is asked as before.
    """
    rng = np.random.default_rng(seed)
    weights = maskable(runner.network)
    noise = 0.0
    model = runner.network.model
    for proto in (model.proto, pruned):
        moved = runner.run(last_bits_moved(proto, weights, rng, model.base_dir), view)
        noise = max(noise, runner.deviation(runner.run(proto, view), moved, {}))
    certificate.rounding = max(certificate.rounding, noise)
    if ROUNDING * noise > certificate.tolerance:
        certificate.tolerance = max(certificate.tolerance, min(ROUNDING * noise, LOOSEST))
        certificate.notes = [
            *certificate.notes,
            f"ill-conditioned: the last bits of the weights alone move the outputs by {noise:.1e}",
        ]


def last_bits_moved(
    proto: ModelProto, weights: Set[str], rng: np.random.Generator, base_dir: Path = Path(".")
) -> ModelProto:
    """A copy with each of these weights that is float32 one step up or down.

    Other constants may say what an operator does: a scale of Resize gives the size of its output.
    """
    moved = ModelProto()
    moved.CopyFrom(proto)
    scales = np.array([0.5, 2.0], dtype=np.float32)
    for tensor in moved.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name in weights:
            value = tensor_array(tensor, base_dir)
            with np.errstate(over="ignore"):  # of masks: the least numbers that there are
                other = value * rng.choice(scales, value.shape)
            replace_value(tensor, np.where(np.isfinite(other), np.nextafter(value, other), value))
    return moved


def _controls(network: Network, groups: Sequence[Group], order: Choice) -> Iterator[ModelProto]:
    """Models that are wrong on purpose: one member of each group permuted, and half of it zero.

    The second is for groups of one member only (a tied matrix), which no permutation uncouples.
    """
    first: dict[str, Set[Dim]] = {}
    for group in groups:
        member = next(member for member in group.members if member.scored)
        first[member.tensor] = first.get(member.tensor, frozenset()) | {group.dim}
    yield rewrite(_only(network, first), order)
    yield rewrite(network, {}, _half(order), maskable(network))


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
        if not all(_finite(each[name] for each in expected) for name in expected[0]):
            return float("inf")  # other inputs may do: the logarithm of noise around zero is NaN
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
            axes = self.network.axes.get(name) or []
            pairs = [
                (_lined_up(x[name], axes, choice, before or {}), y.get(name))
                for x, y in zip(expected, found, strict=True)
            ]
            result = deviation(name, pairs, rtol=1.0)
            worst = max(worst, result.max_rel if result.same_nonfinite else float("inf"))
        return worst


def _lined_up(value: Array, axes: Axes, choice: Choice, before: Choice) -> Array:
    """`value`, of a model with `before` applied, as it is with `choice` applied in its place."""
    positions = {}
    for i, axis in enumerate(axes):
        try:
            changed = changed_positions(axis, choice)
        except KeyError:  # each head has its own, and heads are another axis
            return _lined_up_whole(value, axes, choice, before)
        if changed is not None:
            positions[i] = _found_in(select(axis, before), changed) if before else changed
    return take(value, positions) if positions else value


def _lined_up_whole(value: Array, axes: Axes, choice: Choice, before: Choice) -> Array:
    """The same for all axes at once: a tensor is the product of its axes."""
    known = [
        Dim(n) if axis.size is None else axis for n, axis in zip(value.shape, axes, strict=True)
    ]
    positions = select(product(known), choice)
    if before:
        positions = _found_in(select(product(known), before), positions)
    sizes = {dim: kept_size(chosen) for dim, chosen in choice.items()}
    return value.ravel()[positions].reshape([selected_size(axis, sizes) or 0 for axis in known])


def _found_in(before: Index, positions: Index) -> Index:
    """Where each of `positions` is in `before`, which has each of them once."""
    order = np.argsort(before)
    return np.asarray(order[np.searchsorted(before[order], positions)])
