"""Masks: a model in which what would be removed is zero instead. Same sizes, no speed of its own.

With channels, a plan is carried out without removing anything, to look before cutting. The other
structures (see `sparsity`) are for runtimes and hardware that skip such zeros.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto

from . import provenance
from .criteria import criterion_of
from .criteria.norms import GroupL1, GroupL2, GroupLp
from .errors import NotPrunable, UsageError
from .evaluation import Evaluation
from .evaluation import evaluate as evaluate_models
from .exactness import maskable
from .model import Array, node_name
from .plans import Plan, choice_of
from .rewrite import rewrite, tensor_positions
from .runtime import find_inputs
from .shapes import int_attribute
from .sparsity import Bools, Pattern, n_of_m, smallest, spread, units
from .verify import verify
from .weights import Weights
from .words import near
from .work import Shapes, Work, inlined, write

NO_SPEED = (
    "a mask brings no speed on its own: sizes are as they were, and onnxruntime multiplies zeros as"
    " it does all else; `onnxprune prune` removes channels, other runtimes may skip 2:4 or blocks"
)
#: The operand that is the weight, by operator, and its axes `out` and `in`.
_MATRICES: Mapping[str, tuple[int, int, int]] = {
    **dict.fromkeys(["Conv", "FusedConv", "ConvInteger", "NhwcFusedConv"], (1, 0, 1)),
    "QLinearConv": (3, 0, 1),
    "ConvTranspose": (1, 1, 0),
    **dict.fromkeys(["MatMul", "FusedMatMul", "MatMulInteger"], (1, -1, -2)),
    **dict.fromkeys(["MatMulIntegerToFloat", "DynamicQuantizeMatMul"], (1, -1, -2)),
    "QLinearMatMul": (3, -1, -2),
    **dict.fromkeys(["Gemm", "FusedGemm"], (1, -1, -2)),
}
#: Operators that a weight may pass on its way.
_PASSES = ("DequantizeLinear", "Identity", "Cast")


@dataclass(frozen=True)
class TensorResult:
    """The zeros of one weight."""

    name: str
    shape: list[int]
    #: Elements that are zero (quantised: that mean zero), before and after.
    zeros_before: int
    zeros: int
    #: The share of zeros, from 0 to 1.
    sparsity: float


@dataclass
class MaskReport:
    """Everything that `onnxprune mask` prints; `to_dict` is its `--json` document."""

    model: str
    structure: str
    output: str | None = None
    tensors: list[TensorResult] = field(default_factory=list)
    #: The share of zeros in all of these together.
    sparsity: float = 0.0
    #: With channels: what was masked of each group: (name, size, kept).
    groups: list[tuple[str, int, int]] = field(default_factory=list)
    #: Weights that could not be masked so, and why.
    left: dict[str, str] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        found = self.evaluation.to_dict() if self.evaluation else None
        return {
            **{key: value for key, value in vars(self).items() if key not in _SPELLED},
            "tensors": [asdict(each) for each in self.tensors],
            "groups": [list(each) for each in self.groups],
            "evaluation": found,
        }


_SPELLED = ("tensors", "groups", "evaluation")


@dataclass
class Masked:
    """A model with zeros in it, and how it came about."""

    report: MaskReport
    #: What would be removed; None where single weights were masked.
    plan: Plan | None
    _work: Work = field(repr=False)
    _masked: ModelProto = field(repr=False)
    _verified: bool = field(repr=False, default=True)

    @property
    def model(self) -> ModelProto:
        """The masked model. Weights that were in other files are in it."""
        return inlined(self._masked, self._work.model.base_dir)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the masked model, all of it or nothing. Raises as `Result.save`."""
        write(self._work.model, self._masked, Path(path), force, self._verified)
        self.report.output = str(path)


def masked(
    work: Work,
    pattern: Pattern,
    *,
    plan: Plan | None = None,
    ratio: float = 0.5,
    scope: str = "local",
    criterion: Any = "group-l2",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    input_shapes: Shapes | None = None,
    threads: int = 1,
    verified: bool = True,
    evaluated: str | None = None,
    metric: str | None = None,
    seed: int = 0,
) -> Masked:
    """Zero what a plan would remove; or, without a plan, single weights in a pattern."""
    network, report = work.network, MaskReport(work.name, pattern.text)
    weights = Weights(network, work.groups)
    if plan is not None:
        choice = choice_of(plan, network, work.groups)
        allowed = maskable(network)
        made = rewrite(network, {}, choice, allowed)
        cut = tensor_positions(network, choice).keys()
        values: dict[str, Array] = {}
        touched = [name for name in cut if name in allowed]
        report.groups = [(g.name, g.size, g.width) for g in plan.groups]
        report.options = dict(plan.options)
        if any(group.kind != "exact" for group in plan.groups):
            report.notes.append(
                "in statistical groups a norm counts the zeros, so removing is not the same"
            )
    else:
        places, report.left = _places(work, include, exclude)
        gone = _gone(weights, places, pattern, ratio, scope, criterion, report.left)
        if not gone:
            raise NotPrunable(
                f"no weight can be masked {pattern.text}: "
                + ("; ".join(f"{k}: {v}" for k, v in list(report.left.items())[:2]) or "none is")
            )
        values = {name: _zeroed(work, name, where) for name, where in gone.items()}
        made = rewrite(network, {}, values=values)
        touched = list(values)
        report.options = {"ratio": ratio, "scope": scope, "criterion": criterion}
        if pattern.kind == "n:m":
            report.options = {"criterion": criterion}
        report.options |= {"include": list(include), "exclude": list(exclude)}
    report.notes.append(NO_SPEED)
    after = Work(inlined(made, work.model.base_dir), work.rules, None)
    _count(report, weights, Weights(after.network, after.groups), touched)
    if verified:
        model = work.model
        found = find_inputs(model.proto, input_shapes, seed=seed, base_dir=model.base_dir)
        verify(model.proto, made, model.base_dir, found, threads)
    if evaluated:
        report.evaluation = evaluate_models(
            work.model.proto, made, evaluated, work.model.base_dir, threads, metric
        )
    if work.provenance:
        provenance.stamp(made, provenance.entries(work.original.sha256, plan))
    return Masked(report, plan, work, made, verified)


@dataclass(frozen=True)
class _Place:
    """A weight that is a matrix of `out` and `in`, axes counted from the start."""

    out: int
    inner: int


def _places(
    work: Work, include: Sequence[str], exclude: Sequence[str]
) -> tuple[dict[str, _Place], dict[str, str]]:
    """The weights of matrix products and convolutions that may be masked; and those left, why."""
    network = work.network
    constants, allowed = network.model.constants, maskable(network)
    origin: dict[str, str] = {name: name for name in constants}
    found: dict[str, set[_Place]] = defaultdict(set)
    users: dict[str, set[str]] = defaultdict(set)
    for record in network.records:
        node = record.node
        if node.op_type in _PASSES and node.input and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
            continue
        place = _MATRICES.get(node.op_type)
        operand = place[0] if place else 0
        name = origin.get(node.input[operand]) if len(node.input) > operand else None
        if place is None or name is None or len(constants[name].dims) < 2:
            continue
        found[name].add(_place(node, place, len(constants[name].dims)))
        users[name].update((node_name(node), name))
    chosen = _named(users, include, set(found)) if include else set(found)
    chosen -= _named(users, exclude, set())
    left = {name: "its uses sum over different axes" for name in chosen if len(found[name]) > 1}
    for name in sorted(chosen - allowed):
        left.setdefault(name, "it is not only multiplied and summed")
    return {
        name: next(iter(each))
        for name, each in found.items()
        if name in chosen and name not in left
    }, left


def _place(node: NodeProto, place: tuple[int, int, int], rank: int) -> _Place:
    _, out, inner = place
    if int_attribute(node, "transB", 0):
        out, inner = inner, out
    return _Place(out % rank, inner % rank)


def _named(users: Mapping[str, set[str]], globs: Sequence[str], none: set[str]) -> set[str]:
    """The weights that match one of the globs, or whose nodes do. Raises UsageError."""
    found: set[str] = set()
    for glob in globs:
        now = {w for w, names in users.items() if any(fnmatchcase(n, glob) for n in names)}
        if not now:
            hint = near(glob, set().union(*users.values()))
            raise UsageError(f"no node and no weight that can be masked matches {glob!r}{hint}")
        found |= now
    return found if globs else none


def _power(criterion: Any) -> float:
    """The power that magnitudes are summed with. Raises UsageError for other criteria."""
    made = criterion_of(criterion)
    if not isinstance(made, (GroupL1, GroupL2, GroupLp)):
        raise UsageError(
            f"criterion {criterion!r} scores whole channels; single weights are masked by"
            " magnitude: group-l1, group-l2 or group-lp:P"
        )
    return float(made.power)


def _gone(
    weights: Weights,
    places: Mapping[str, _Place],
    pattern: Pattern,
    ratio: float,
    scope: str,
    criterion: Any,
    left: dict[str, str],
) -> dict[str, Bools]:
    """Which elements of each weight go, in the weight's own shape."""
    power = _power(criterion)
    found: dict[str, Bools] = {}
    scored: dict[str, Array] = {}
    for name, place in places.items():
        matrix = _matrix(np.abs(weights.value(name)), place)
        if pattern.kind == "n:m":
            inner = weights.value(name).shape[place.inner]
            if inner % pattern.second:
                left[name] = f"its {inner} inputs are no multiple of {pattern.second}"
                continue
            found[name] = _back(
                n_of_m(matrix, pattern.first, pattern.second), weights.value(name).shape, place
            )
        else:
            scored[name] = units(matrix, pattern, power)
    if scored:
        everything = np.concatenate([each.ravel() for each in scored.values()])
        chosen = smallest(everything, round(ratio * everything.size)) if scope == "global" else None
        start = 0
        for name, scores in scored.items():
            if chosen is None:
                gone = smallest(scores, round(ratio * scores.size))
            else:
                gone = chosen[start : start + scores.size].reshape(scores.shape)
                start += scores.size
            shape = weights.value(name).shape
            rows = shape[places[name].out]
            elements = spread(gone, pattern, (rows, int(np.prod(shape)) // rows))
            found[name] = _back(elements, shape, places[name])
    return found


def _matrix(value: Array, place: _Place) -> Array:
    """`value` as `[out, (others in)]`: neighbours in a row are neighbours along `in`."""
    moved = np.moveaxis(value, (place.out, place.inner), (0, -1))
    return moved.reshape(moved.shape[0], -1)


def _back(matrix: Bools, shape: Sequence[int], place: _Place) -> Bools:
    """`_matrix` undone."""
    order = np.moveaxis(np.empty(shape, dtype=bool), (place.out, place.inner), (0, -1)).shape
    found: Bools = np.moveaxis(matrix.reshape(order), (0, -1), (place.out, place.inner))
    return found


def _zeroed(work: Work, name: str, gone: Bools) -> Array:
    """A constant with zeros (or its zero point, where it is quantised) where `gone` says."""
    value: Array = work.network.model.read(name).copy()
    fill = np.zeros((), dtype=value.dtype)
    codes = work.network.quantised().get(name)
    if codes is not None and codes.point in work.network.model.constants:
        fill = codes.spread(work.network.model.read(codes.point), value.shape)
    value[gone] = np.broadcast_to(fill, value.shape)[gone]
    return value


def _count(report: MaskReport, before: Weights, after: Weights, names: Sequence[str]) -> None:
    total = zeros = 0
    for name in names:
        was = before.value(name)
        if name not in after.network.model.constants:
            continue
        now = after.value(name)
        count = int(np.count_nonzero(now == 0))
        report.tensors.append(
            TensorResult(
                name,
                list(was.shape),
                int(np.count_nonzero(was == 0)),
                count,
                count / now.size if now.size else 0.0,
            )
        )
        total, zeros = total + now.size, zeros + count
    report.sparsity = zeros / total if total else 0.0
