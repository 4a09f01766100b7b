"""Values that are computed with while a graph is read: what is one object, and is computed once."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune import values
from onnxprune.axes import Concat, Dim, Sizes, fold, leaves, resolve, split
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.model import Node
from onnxprune.network import Network
from onnxprune.op import Op
from onnxprune.sizes import UNKNOWN, size_of
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
        network.values[name] = network.one(np.array([size_of(dim), None])[:1])
    found = []
    for each in nodes:
        values.compute(Op(network, Node.of(each)))
        found.append(network.values[each.output[0]].tolist())
        a.bound = b
    assert found == [[UNKNOWN], [1]]


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
