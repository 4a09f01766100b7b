"""Every operator of the table against onnxruntime, and its gradient against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import TensorProto

torch = pytest.importorskip("torch")

from onnxprune.gradients import Differentiable  # noqa: E402
from onnxprune.gradients.check import difference, flat, random_outputs  # noqa: E402
from onnxprune.gradients.function import key_of  # noqa: E402
from onnxprune.gradients.table import known  # noqa: E402
from onnxprune.gradients.types import to_numpy  # noqa: E402
from tests.equivariance import Case, with_constants  # noqa: E402
from tests.gradients.cases import cases, expected, types  # noqa: E402

pytestmark = pytest.mark.torch


def tolerance(case: Case) -> float:
    """Relative: float16 and bfloat16 are computed in float32 here, and codes may be one off."""
    named = set(types(case))
    if TensorProto.BFLOAT16 in named:
        return 2e-2
    if TensorProto.FLOAT16 in named:
        return 2e-3
    return 1e-2 if "QLinear" in case.name else 1e-4


def disagreement(case: Case) -> str | None:
    """How torch's outputs differ from onnxruntime's; None where they don't."""
    wanted = expected(case)
    if wanted is None:
        return None
    function = Differentiable(case.model)
    with torch.no_grad():
        found = flat(function(case.feeds))
    for name, value in wanted.items():
        if name.split("[")[0] in random_outputs(function):
            continue
        worst = difference(to_numpy(found[name]), value)
        if not worst <= tolerance(case):
            return f"{case.name}: {name} is off by {worst:.2g}"
    return None


@pytest.mark.parametrize("operator", sorted(cases()))
def test_equals_onnxruntime(operator: str) -> None:
    if operator not in known():
        pytest.skip("no torch call of its own")
    found = [disagreement(case) for case in cases()[operator]]
    assert not [each for each in found if each is not None]


#: Of which a finite difference says nothing: codes are steps, and these pass a gradient on purpose.
_STEPS = ("Quant", "QLinear", "Integer", "NBits")
#: Elements of float inputs that are moved at once.
_MOST = 4000


def smooth(operator: str) -> list[Case]:
    """Cases of an operator with float inputs, as weights."""
    found = []
    for case in cases()[operator]:
        floats = {name for name, value in case.feeds.items() if value.dtype.kind == "f"}
        size = sum(case.feeds[name].size for name in floats)
        if expected(case) is None:
            continue
        rng = np.random.default_rng(0)
        fixed = known()[operator][-1].fixed
        how = {
            name
            for node in case.model.graph.node
            for i, name in enumerate(node.input)
            if i in fixed and node.op_type == operator.rpartition(".")[2]
        }
        # Off the kinks, which lie at round numbers; but what says how (scales) stays as it is.
        for name in sorted(floats - how):
            noise = rng.uniform(-1e-2, 1e-2, case.feeds[name].shape)
            feeds = {**case.feeds, name: np.asarray(case.feeds[name] + noise, np.float32)}
            case = Case(case.name, case.model, feeds)
        if floats and size <= _MOST and TensorProto.FLOAT16 not in set(types(case)):
            found.append(with_constants(case, floats))
    return found[:: max(1, len(found) // 6)][:6]


def slopes(case: Case) -> tuple[float, float] | None:
    """The slope of the outputs' sum along random directions: by autograd, and by differences."""
    function = Differentiable(case.model, dtype=torch.float64, numbers=True)
    weights = dict(function.named_weights())
    if not weights or random_outputs(function):
        return None
    generator = torch.Generator().manual_seed(1)

    def drawn(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    ways = {name: drawn(weight) for name, weight in weights.items()}
    signs: dict[str, torch.Tensor] = {}

    def total(step: float) -> torch.Tensor:
        moved = {
            f"weights.{key_of(name)}": weight + step * ways[name]
            for name, weight in weights.items()
        }
        found = flat(torch.func.functional_call(function, moved, (case.feeds,)))
        parts = []
        for name, value in found.items():
            if value.is_floating_point() and value.requires_grad and value.numel():
                parts.append((value * signs.setdefault(name, drawn(value))).sum())
        return torch.stack(parts).sum() if parts else torch.zeros((), requires_grad=True)

    total(0.0).backward()
    grads = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    by_autograd = sum(float((grad * ways[name]).sum()) for name, grad in grads.items())
    by_steps = float(total(1e-6) - total(-1e-6)) / 2e-6
    return by_autograd, by_steps


@pytest.mark.parametrize("operator", sorted(cases()))
def test_gradient_equals_finite_differences(operator: str) -> None:
    entries = known().get(operator)
    if entries is None or not entries[-1].differentiable or any(s in operator for s in _STEPS):
        pytest.skip("no gradient of its own")
    tried, wrong = 0, []
    for case in smooth(operator):
        found = slopes(case)
        if found is None or not all(map(math.isfinite, found)):
            continue
        tried += found[1] != 0
        if abs(found[0] - found[1]) > 1e-4 * max(1.0, *map(abs, found)):
            wrong.append(f"{case.name}: {found[0]:.6g} by autograd, {found[1]:.6g} by differences")
    assert not wrong
    if not tried:
        pytest.skip("no case with a gradient")
