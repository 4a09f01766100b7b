"""Values that are computed with while a graph is read: what is one object, and is computed once."""

from __future__ import annotations

import gc
import math
import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import ModelProto

from onnxprune import values
from onnxprune.axes import Concat, Dim, Product, Sizes, fold, leaves, resolve, split
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.model import Node
from onnxprune.network import Network
from onnxprune.op import Op
from onnxprune.tables import built_in
from onnxprune.uncollected import uncollected
from tests.graphs import make, node


def _blocks(count: int) -> ModelProto:
    """Blocks that each compute the same target from their input's shape: [batch * 3, -1, 4]."""
    nodes, x = [], "x"
    for i in range(count):
        nodes += [
            node("Shape", [x], [f"shape{i}"]),
            node("Gather", [f"shape{i}", "first"], [f"batch{i}"]),
            node("Mul", [f"batch{i}", "three"], [f"tripled{i}"]),
            node("Concat", [f"tripled{i}", "rest"], [f"target{i}"], axis=0),
            node("Reshape", [x, f"target{i}"], [f"halves{i}"]),
            node("Reshape", [f"halves{i}", "back"], [f"y{i}"]),
        ]
        x = f"y{i}"
    numbers = {"first": [0], "three": [3], "rest": [-1, 4], "back": [-1, 6, 8]}
    constants = {name: np.array(value, dtype=np.int64) for name, value in numbers.items()}
    return make(nodes, {"x": [2, 6, 8]}, {x: [2, 6, 8]}, constants)


def test_equal_arithmetic_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    computed = values._computed

    def counted(op: Any, operands: Any) -> Any:
        done.append(op.kind)
        return computed(op, operands)

    monkeypatch.setattr(values, "_computed", counted)
    network = infer(load(_blocks(5)), built_in())
    assert [network.values[f"target{i}"].tolist() for i in range(5)] == [[6, -1, 4]] * 5
    assert network.values["target0"] is network.values["target4"]
    assert [done.count(kind) for kind in ("Gather", "Mul", "Concat")] == [1, 1, 1]


def test_values_of_other_types_are_other_values() -> None:
    network = Network(load(_blocks(1)), built_in())
    alike = [
        np.array([1], dtype=object),
        np.array([True], dtype=object),
        np.array([1.0], dtype=object),
        np.array([[1]], dtype=object),
        np.array([1], dtype=np.int64),
        np.array([1], dtype=np.uint64),
    ]
    assert [network.one(each) is each for each in alike] == [True] * len(alike)
    assert network.one(np.array([True], dtype=object)) is alike[1]
    assert network.one(np.array([1], dtype=np.uint64)) is alike[5]


def test_what_a_division_leaves_open_is_asked_again() -> None:
    """Whether two sizes divide may only be known when their dims have become one."""
    network = Network(load(_blocks(1)), built_in())
    a, b = Dim(None), Dim(None)
    nodes = [node("Div", ["a", "b"], [f"out{i}"]) for i in range(2)]
    for name, dim in (("a", a), ("b", b)):
        network.values[name] = network.one(np.array([values.size_of(dim), None])[:1])
    found = []
    for each in nodes:
        values.compute(Op(network, Node.of(each)))
        found.append(network.values[each.output[0]].tolist())
        a.bound = b
    assert found == [[values.UNKNOWN], [1]]


Expression = tuple[Any, ...] | int | str


def _expressions() -> st.SearchStrategy[Expression]:
    leaf = st.sampled_from(["a", "b", "c", "pair", "runs"]) | st.integers(0, 6)
    return st.recursive(
        leaf, lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner), max_leaves=7
    )


def _evaluated(expression: Expression, given: dict[str, Any]) -> Any:
    if isinstance(expression, tuple):
        operation, *operands = expression
        a, b = (_evaluated(each, given) for each in operands)
        return a + b if operation == "+" else a - b if operation == "-" else a * b
    return given[expression] if isinstance(expression, str) else expression


@given(_expressions(), _expressions(), st.permutations([2, 3, 5]), st.booleans())
def test_sizes_are_computed_as_numbers_are(
    one: Expression, other: Expression, sizes: list[int], late: bool
) -> None:
    """Sums, differences and products of sizes; what divides exactly does so for all sizes."""
    a, b, c, pair, runs = dims = [Dim(None) for _ in range(5)]
    symbols = {name: values.size_of(dim) for name, dim in zip("abc", dims, strict=False)}
    symbols |= {"pair": values.size_of(pair), "runs": values.size_of(runs)}
    if not late:  # else what the dims become is only known once they have been computed with
        pair.bound, runs.bound = Product((a, b)), Concat((a, c, Dim(4)))
    x, y = _evaluated(one, symbols), _evaluated(other, symbols)
    pair.bound, runs.bound = Product((a, b)), Concat((a, c, Dim(4)))
    numbers = dict(zip("abc", sizes, strict=True))
    numbers |= {"pair": sizes[0] * sizes[1], "runs": sizes[0] + sizes[2] + 4}
    m, n = _evaluated(one, numbers), _evaluated(other, numbers)

    def number(element: Any) -> int | None:
        if isinstance(element, values.Size):
            element = values.normal(element)
        if isinstance(element, values.Size):
            known = {a: sizes[0], b: sizes[1], c: sizes[2]}
            return sum(
                math.prod([known[dim] for dim in each if isinstance(dim, Dim)], start=factor)
                for factor, each in element.terms
            )
        assert isinstance(element, int) or element is values.UNKNOWN
        return element if isinstance(element, int) else None

    assume(number(x) is not None and number(y) is not None)  # else they have too many terms
    assert (number(x), number(y)) == (m, n)
    assert values.same(x, y) == values.same(x - y, 0)
    if isinstance(x, values.Size) and not values.same(y, 0):
        product, plain = x * y, values.normal(x)
        if number(product) is not None and (isinstance(plain, int) or len(plain.terms) == 1):
            assert values.same(product // y, x)
        quotient = x // y
        assert quotient is values.UNKNOWN or number(quotient) * n == m
    for name, compare in {
        **{"Equal": operator.eq, "Less": operator.lt, "LessOrEqual": operator.le},
        **{"Greater": operator.gt, "GreaterOrEqual": operator.ge, "Max": max, "Min": min},
    }.items():
        operands = (np.array([each, None], dtype=object)[:1] for each in (x, y))
        (found,) = values.OPERATORS[name](None, *operands).tolist()
        assert found is values.UNKNOWN or number(found) == compare(m, n), name  # type: ignore[operator]


def test_what_is_known_of_sizes_that_are_not() -> None:
    """No size is below zero: exporters ask whether one is -1, and what is larger, it or 0."""
    size = values.size_of(Dim(None))

    def ask(name: str, a: object, b: object) -> object:
        operands = (np.array([each, None], dtype=object)[:1] for each in (a, b))
        return values.OPERATORS[name](None, *operands).item()

    assert ask("Equal", size, -1) is False
    assert ask("Equal", size * 3 - size, size * 2) is True
    assert ask("Equal", size, 1) is values.UNKNOWN
    assert ask("Less", size, size * 2 + 1) is True
    assert ask("Greater", size, size) is False
    assert ask("GreaterOrEqual", size * 2, size) is True
    assert ask("Less", size, 4) is values.UNKNOWN
    assert ask("Max", size, 0) is size
    assert ask("Min", size * 2, size) is size
    assert ask("Max", size, values.UNKNOWN) is values.UNKNOWN


def test_sizes_do_not_grow_without_end() -> None:
    """A damaged file may square a size forty times over, or add up thousands."""
    size = values.size_of(Dim(None))
    for _ in range(40):
        size = size * size
    assert size is values.UNKNOWN
    total = values.size_of(Dim(None))
    for _ in range(100):
        total = total + values.size_of(Dim(None))
    assert total is values.UNKNOWN
    assert values.size_of(Dim(None)) * 2**62 * 2 is values.UNKNOWN


def test_the_collector_is_left_as_it_was() -> None:
    @uncollected()
    def work() -> bool:
        return gc.isenabled()

    assert gc.isenabled()
    assert not work()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"), uncollected():
        raise ValueError("inside")
    assert gc.isenabled()
    gc.disable()
    try:
        assert not work()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_axis_that_was_cut_often_is_gone_through_once() -> None:
    """Each rest is part of the one before: 3,000 cuts are 6,000 steps, not 4,500,000, and no
    deep recursion."""
    count = 3000
    rests: list[Any] = [Dim(2 * count)]
    runs: list[Any] = []
    for _ in range(count - 1):
        run, rest = split(rests[-1], 2)
        runs.append(run)
        rests.append(rest)
    joined = 0

    def join(_: Any, parts: list[int]) -> int:
        nonlocal joined
        joined += len(parts)
        return sum(parts)

    known: dict[Dim, int] = {}
    sizes = [fold(rest, lambda dim: dim.size or 0, join, known) for rest in rests]
    assert sizes == [2 * (count - i) for i in range(count)]
    assert joined == 2 * (count - 1)

    left = Sizes({run: 1 for run in runs[::3]})
    found = [left.of(rest) for rest in rests[:20]]
    assert found == [sum(left.left.get(dim, 2) for dim in leaves(rest)) for rest in rests[:20]]
    assert isinstance(resolve(rests[0]), Concat)
