"""Random graphs, pruned at random and compared with their masked originals (see `tests.fuzz`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from onnxprune.notation import parse
from onnxprune.op import Op
from onnxprune.tables import FUNCTIONS, Rule, built_in
from tests.fuzz import cases
from tests.fuzz.check import Mismatch, Outcome, check
from tests.fuzz.grammar import Case, generate

#: Graphs in the suite; `tox -e fuzz` tries 20,000.
_FEW = 300
_ROOT = Path(__file__).resolve().parent.parent


@cache
def _case(seed: int) -> Case:
    return generate(seed)


@cache
def _outcomes() -> list[Outcome]:
    outcomes = []
    for seed in range(_FEW):
        try:
            outcomes.append(check(_case(seed).model, _case(seed).feeds, seed))
        except Mismatch as error:
            pytest.fail(f"seed {seed}: {error}")
    return outcomes


def test_random_graphs_equal_their_masked_originals() -> None:
    outcomes = _outcomes()
    assert sum(bool(each.rejected) for each in outcomes) < 0.05 * _FEW


def test_random_graphs_prove_something() -> None:
    """Most are pruned, a wrong coupling shows in most, and most weights' axes are free."""
    outcomes = _outcomes()
    assert sum(each.pruned > 0 for each in outcomes) > 0.75 * _FEW
    assert sum(each.proves for each in outcomes) > 0.75 * _FEW
    assert sum(each.resized for each in outcomes) > 0.2 * _FEW
    axes = sum(each.axes - each.interface for each in outcomes)
    free = sum(each.axes - each.pinned for each in outcomes)
    assert free > 0.6 * axes
    assert sum(each.groups - each.exact for each in outcomes) > 30, "statistical groups"
    assert sum(each.rows for each in outcomes) > 10, "each head its own channels"


def test_random_graphs_are_of_all_kinds() -> None:
    operators = {name for each in _outcomes() for name in each.operators}
    wanted = {
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"),
        *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Split", "Concat", "Slice"),
        *("Gather", "Pad", "Tile", "Expand", "Where", "ReduceMean", "ReduceSum", "ReduceMax"),
        *("LayerNormalization", "BatchNormalization", "InstanceNormalization", "Softmax"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "DepthToSpace", "If", "Loop"),
        *("Scan", "Shape", "QuantizeLinear", "DequantizeLinear", "MultiHeadAttention"),
    }
    assert wanted <= operators


@pytest.mark.parametrize("path", sorted(cases.FOLDER.glob("*.onnx")), ids=lambda path: path.stem)
def test_what_failed_once(path: Path) -> None:
    model, feeds = cases.read(path)
    for seed in range(20):
        outcome = check(model, feeds, seed)
        assert not outcome.rejected


def test_a_long_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    for count, wanted in (("3", "3 graphs in"), ("5", "5 graphs in")):
        command = [sys.executable, "-m", "tests.fuzz", "--count", count, "--state", str(state)]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
        assert wanted in done.stdout
        assert "can be pruned" in done.stdout


def test_failures_are_made_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong rule's first failure ends as a model of a few nodes, which fails when it is read."""
    wrong = {"InstanceNormalization": _WRONG["no statistics of groups"][1]}
    rules = built_in() | {name: change(built_in()[name]) for name, change in wrong.items()}
    monkeypatch.setattr("tests.fuzz.check.built_in", lambda: rules)
    for seed in range(_FEW):
        case = _case(seed)
        found = cases.failure(case.model, case.feeds, [seed])
        if isinstance(found, cases.Failure) and len(case.model.graph.node) > 20:
            path = cases.keep(tmp_path, "small", case.model, case.feeds, found, seed)
            model, feeds = cases.read(path)
            assert len(model.graph.node) < 10
            again = cases.failure(model, feeds, range(seed, seed + 6))
            assert isinstance(again, cases.Failure) and again.kind == found.kind
            return
    pytest.fail(f"not seen in {_FEW} graphs")


# -- the check can fail --------------------------------------------------------------------------


def _pattern(axes: str) -> Callable[[Rule], Rule]:
    """A rule that says this, and nothing of what must stay."""
    return lambda rule: replace(rule, pattern=parse(axes), function=None, pin={})


def _exchanged(op: Op) -> None:
    """Split whose runs of one length come in the wrong order."""
    FUNCTIONS["split"](op)
    axes = op.network.axes
    first, last = op.outputs[0], op.outputs[-1]
    a, b = axes[first] or [], axes[last] or []
    if [each.size for each in a] == [each.size for each in b]:
        axes[first], axes[last] = b, a


def _unshifted(op: Op) -> None:
    """Pad that forgets that a fill is not zero."""
    FUNCTIONS["pad"](op)
    op._keeps_zero = True


#: Rules that are wrong, as a person could get them wrong.
_WRONG: Mapping[str, tuple[str, Callable[[Rule], Rule]]] = {
    "groups inside of their channels": (
        "Conv",
        lambda rule: replace(rule, pattern=parse("n (i g) *s, (o g) i *k, (o g)? -> n (o g) *t")),
    ),
    "a bias of another order": (
        "ConvTranspose",
        lambda rule: replace(rule, pattern=parse("n (g i) *s, (g i) o *k, (o g)? -> n (g o) *t")),
    ),
    "a Sigmoid of zero": ("Sigmoid", lambda rule: replace(rule, zero=((0,),))),
    "a sum with one operand zero": ("Add", lambda rule: replace(rule, zero=((0,),))),
    "no statistics": ("LayerNormalization", _pattern("*x c, c, c? -> *x c")),
    "no statistics of groups": ("InstanceNormalization", _pattern("n c *s, c, c -> n c *s")),
    "positions of no account": ("Softmax", _pattern("*x -> *x")),
    "runs exchanged": ("Split", lambda rule: replace(rule, function="fuzz-exchanged")),
    "a fill that is zero": ("Pad", lambda rule: replace(rule, function="fuzz-unshifted")),
    "sums that are free": ("CumSum", _pattern("*x, . -> *x")),
    "a running variance that is scored": (
        "BatchNormalization",
        lambda rule: replace(rule, zero=((0,),)),
    ),
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_wrong_rules_are_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FUNCTIONS, "fuzz-exchanged", _exchanged)
    monkeypatch.setitem(FUNCTIONS, "fuzz-unshifted", _unshifted)
    operator, change = _WRONG[wrong]
    rules = built_in() | {operator: change(built_in()[operator])}
    for seed in range(_FEW):
        case = _case(seed)
        if operator in _outcomes()[seed].operators:
            try:
                check(case.model, case.feeds, seed, rules)
            except Mismatch:
                return
    pytest.fail(f"{operator}, {wrong}: not seen in {_FEW} graphs")
