"""The differentiable function held against onnxruntime: equal outputs, gradients everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..inputs import Feeds
from ..loading import ModelLike, load
from ..model import Array
from ..runtime import find_inputs, run, session
from .constants import everything
from .function import Differentiable
from .table import find
from .types import to_numpy

#: Differences from onnxruntime above this are looked into in float64.
ROUNDING = 1e-4
#: And differences above this are no rounding, of whoever.
_WRONG = 1e-2


@dataclass(frozen=True)
class Comparison:
    """What was seen of one model."""

    #: Largest difference of each output from onnxruntime's, relative to its largest value there.
    differences: Mapping[str, float]
    #: Outputs that depend on random numbers: they are not compared.
    random: list[str]
    parameters: int
    #: Parameters without a gradient, with one that is not finite, and with one that is all zero
    #: though a small change of them moves an output.
    missing: list[str] = field(default_factory=list)
    infinite: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    #: Those with a gradient of zero whose small changes move no output: behind a dead ReLU, say.
    dead: list[str] = field(default_factory=list)
    #: Where an output is off by more than `ROUNDING`: its difference from the same in float64.
    rounding: Mapping[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The largest difference of all outputs.

        Where float64 bears out this function and not onnxruntime, whose sigmoids and exponentials
        are approximations, it is the difference from float64.
        """
        least = {
            name: min(value, self.rounding.get(name, np.inf))
            for name, value in self.differences.items()
        }
        return max(least.values(), default=0.0)


def compare(
    model: ModelLike, feeds: Feeds | None = None, *, gradients: bool = True, **options: Any
) -> Comparison:
    """Run a model in torch and in onnxruntime (unoptimised), and take gradients of its outputs.

    Args:
        feeds: inputs; without them, random ones that the model accepts.
        gradients: whether to take them: of the sum of all float outputs, each times random numbers.
        options: of `Differentiable`.

    Raises:
        UnsupportedModel: one of the two can't run it.
    """
    loaded = load(model)
    source = loaded.path if loaded.path is not None else loaded.proto
    if feeds is None:
        feeds = find_inputs(source, base_dir=loaded.base_dir).feeds[0]
    folder = None if loaded.path is not None else loaded.base_dir
    expected = run(session(source, optimize=False, base_dir=folder), feeds)
    function = Differentiable(loaded, **options)
    given = {name: feeds[name] for name in function.inputs}
    with torch.set_grad_enabled(gradients):
        made = function(given)
    random = random_outputs(function)
    found = {name: value for name, value in flat(made).items() if name.split("[")[0] not in random}
    expected = _tables(expected, found)
    differences = {
        name: difference(to_numpy(found[name]), expected[name])
        for name in expected
        if name in found
    }
    rounding: dict[str, float] = {}
    doubtful = [n for n, each in differences.items() if ROUNDING < each < _WRONG]
    if doubtful and function.dtype == torch.float32:
        with torch.no_grad():
            exact = flat(Differentiable(loaded, dtype=torch.float64)(given))
        rounding = {n: difference(to_numpy(found[n]), to_numpy(exact[n])) for n in doubtful}
    if not gradients:
        return Comparison(differences, random, 0, rounding=rounding)
    _total(made).backward()
    grads = {name: weight.grad for name, weight in function.named_weights()}
    still = [name for name, grad in grads.items() if grad is not None and not bool(grad.any())]
    dead = [name for name in still if not _moves(function, given, name, found)]
    return Comparison(
        differences,
        random,
        len(grads),
        [name for name, grad in grads.items() if grad is None],
        [n for n, grad in grads.items() if grad is not None and not bool(grad.isfinite().all())],
        [name for name in still if name not in dead],
        dead,
        rounding,
    )


def _total(outputs: Mapping[str, Any]) -> torch.Tensor:
    """All float outputs times random numbers, summed up."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), requires_grad=True)
    for value in flat(outputs).values():
        if isinstance(value, torch.Tensor) and value.requires_grad and value.numel():
            weights = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            scale = value.detach().abs().amax().clamp(min=1e-12)
            total = torch.add(total, (value / scale * weights.to(value)).sum())
    return total


def _moves(
    function: Differentiable, feeds: Mapping[str, Any], name: str, before: Mapping[str, Any]
) -> bool:
    """Whether a small random change of a parameter moves an output."""
    weight = function.parameter(name)
    kept = weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(kept.shape, generator=generator).to(kept)
    with torch.no_grad():
        weight.add_(1e-4 * kept.abs().amax() * noise)
        after = flat(function(feeds))
        weight.copy_(kept)
    return any(difference(to_numpy(after[n]), to_numpy(x)) > 1e-7 for n, x in before.items())


def difference(found: Array, expected: Array) -> float:
    """The largest difference relative to the largest value; infinite where shapes differ."""
    if found.shape != expected.shape:
        return np.inf
    a, b = (np.asarray(each, np.float64) for each in (found, expected))
    # What masks with the lowest number there is, means the infinite.
    a, b = (np.where(np.abs(each) > 1e30, np.copysign(np.inf, each), each) for each in (a, b))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    finite = np.isfinite(b)
    if not np.isfinite(a[finite]).all() or not same[~finite].all():
        return np.inf
    return float(np.abs(a - b)[finite].max() / max(np.abs(b[finite]).max(), 1e-12))


def random_outputs(function: Differentiable) -> list[str]:
    """The outputs that depend on an operator that draws numbers."""
    context = function.graph.context
    drawn: set[str] = set()
    for node in everything([step.node for step in function.graph.steps]):
        entry = find(node.kind, context.versions.get(node.proto.domain, 1))
        if (entry is not None and entry.random) or not drawn.isdisjoint(node.inputs):
            drawn.update(name for name in node.outputs if name)
    return [name for name in function.outputs if name in drawn]


def _tables(expected: Feeds, found: Mapping[str, Any]) -> Feeds:
    """What onnxruntime gives as maps (ZipMap), a column for each key, as tables."""
    made = dict(expected)
    for name in found:
        columns = [value for key, value in expected.items() if key.startswith(f"{name}[")]
        if columns and name not in made:
            made[name] = np.stack(columns, -1)
    return made


def flat(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Sequences as `runtime.run` names them."""
    found: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, list):
            found.update((f"{name}[{i}]", each) for i, each in enumerate(value))
        elif value is not None:
            found[name] = value
    return found
