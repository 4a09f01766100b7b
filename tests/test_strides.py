"""Index tensors that count: what is known of their steps, operator by operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

import onnxprune
from onnxprune.axes import Dim, product
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.network import Network
from onnxprune.sizes import UNKNOWN
from onnxprune.strides import Count, count_of, counts_through
from onnxprune.tables import built_in

from .graphs import make, node, weight


def model(*nodes: NodeProto, opset: int = 17, **constants: Any) -> ModelProto:
    """`rows` is 2, 5, 8, … and `columns` is 0, 1, 2, …; nothing is known of `seed` and `places`.

    There are as many columns as the input has; how many rows, nothing tells. The numbers from 0 to
    7 are constants `c0` to `c7`.
    """
    numbers = {f"c{i}": np.int64(i) for i in range(8)}
    made = make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("MatMul", ["h", "w2"], ["z"]),
            node("Shape", ["x"], ["sizes"]),
            node("Gather", ["sizes", "c0"], ["n"]),
            node("Gather", ["sizes", "c1"], ["m"]),
            node("Range", ["c2", "n", "c3"], ["rows"]),
            node("Range", ["c0", "m", "c1"], ["columns"]),
            *nodes,
        ],
        {"x": ["N", "M", 6]},
        {"z": ["N", "M", 4]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4), **numbers, **constants},
        opset=opset,
    )
    for name, shape in {"seed": [], "places": [1]}.items():
        value = helper.make_tensor_value_info(name, TensorProto.INT64, shape)
        made.graph.input.append(value)
    return made


def read(*nodes: NodeProto, **more: Any) -> Network:
    return infer(load(model(*nodes, **more)), built_in())


def counted(*nodes: NodeProto, **more: Any) -> Count | None:
    """How `y` counts."""
    return read(*nodes, **more).counts.get("y")


def up_to(size: int) -> NDArray[np.int64]:
    return np.arange(size, dtype=np.int64)


# -- constants -----------------------------------------------------------------------------------

ODD = up_to(12).reshape(3, 4)
BELOW, ABOVE = ODD.copy(), ODD.copy()
BELOW[2, 3], ABOVE[2, 3] = 10, 12
CONSTANTS: dict[str, tuple[Any, Count | None]] = {
    "a number": (np.int64(5), Count(5, ())),
    "a row": (3 + 2 * up_to(4), Count(3, (2,))),
    "two": (np.array([1, 4]), Count(1, (3,))),
    "one": (np.array([7]), Count(7, (0,))),
    "32 bits": (np.arange(4, dtype=np.int32), Count(0, (1,))),
    "three axes": (4 + up_to(24).reshape(2, 3, 4), Count(4, (12, 4, 1))),
    "an axis of size 1": (up_to(6).reshape(2, 1, 3), Count(0, (3, 0, 1))),
    "an element below": (BELOW, None),
    "an element above": (ABOVE, None),
    "none": (up_to(0), None),
    "no integers": (np.arange(4, dtype=np.float32), None),
    "as many as are looked at": (up_to(2**20), Count(0, (1,))),
    "more than are looked at": (up_to(2**20 + 1), None),
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants(case: str) -> None:
    value, expected = CONSTANTS[case]
    network = read(node("Identity", ["given"], ["y"]), given=value)
    assert count_of(network, "given") == expected
    assert count_of(network, "given") is count_of(network, "given")  # looked at once


def test_what_is_no_constant_and_was_not_followed_is_unknown() -> None:
    network = read()
    assert count_of(network, "rows") == Count(2, (3,))
    assert count_of(network, "seed") is None and count_of(network, "no such tensor") is None


# -- operators -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["seed", "none", "two"])
def test_a_range_from_what_is_not_known_or_no_number(start: str) -> None:
    ranges = node("Range", [start, "n", "c1"], ["y"])
    assert counted(ranges, none=up_to(0), two=up_to(2)) is None


@pytest.mark.parametrize(("start", "step"), [(0, 0.5), (0.5, 1)])
def test_a_range_of_fractions_does_not_count(start: float, step: float) -> None:
    """As integers, 0, 0.5, 1, … are 0, 0, 1, …"""
    nodes = [
        node("Cast", ["n"], ["limit"], to=TensorProto.FLOAT),
        node("Range", ["start", "limit", "step"], ["halves"]),
        node("Cast", ["halves"], ["y"], to=TensorProto.INT64),
    ]
    found = read(*nodes, start=np.float32(start), step=np.float32(step)).counts
    assert found.keys() == {"rows", "columns"}


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        (TensorProto.INT64, True),
        (TensorProto.INT32, True),
        (TensorProto.INT8, False),
        (TensorProto.FLOAT16, False),
    ],
)
def test_a_cast_to_what_holds_all_indices(kind: int, counts: bool) -> None:
    expected = Count(2, (3,)) if counts else None
    assert counted(node("Cast", ["rows"], ["y"], to=kind)) == expected


def test_identity() -> None:
    assert counted(node("Identity", ["rows"], ["y"])) == Count(2, (3,))
    assert counted(node("Identity", ["seed"], ["y"])) is None


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize(
    ("axes", "steps"),
    [
        ([0], (0, 3)),
        ([1], (3, 0)),
        ([-1], (3, 0)),
        ([0, 2], (0, 3, 0)),
        ([2, 0], (0, 3, 0)),
        ([-1, 0], (0, 3, 0)),
        ([1, 2], (3, 0, 0)),
    ],
)
def test_unsqueeze(axes: list[int], steps: tuple[int, ...], opset: int) -> None:
    if opset < 13:
        found = counted(node("Unsqueeze", ["rows"], ["y"], axes=axes), opset=opset)
    else:
        found = counted(node("Unsqueeze", ["rows", "at"], ["y"]), at=np.array(axes))
    assert found == Count(2, steps)


def test_unsqueeze_of_what_does_not_count() -> None:
    assert counted(node("Unsqueeze", ["seed", "at"], ["y"]), at=up_to(1)) is None


def test_axes_of_an_unsqueeze_that_the_run_time_computes() -> None:
    """Nothing counts then, and all else is read as before."""
    made = model(node("Unsqueeze", ["rows", "places"], ["y"]))
    assert "y" not in infer(load(made), built_in()).counts
    assert [group.size for group in onnxprune.inspect(made).groups] == [8]


@pytest.mark.parametrize("operands", [["rows", "c5"], ["c5", "rows"]])
def test_counts_times_a_number(operands: list[str]) -> None:
    assert counted(node("Mul", operands, ["y"])) == Count(10, (15,))


@pytest.mark.parametrize(
    "operands", [["rows", "seed"], ["seed", "rows"], ["seed", "c5"], ["rows", "five"]]
)
def test_counts_times_what_is_no_number_that_is_known(operands: list[str]) -> None:
    assert counted(node("Mul", operands, ["y"]), five=np.array([5])) is None


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("operands", "expected"),
    [
        (["rows", "c7"], Count(9, (3,))),
        (["column", "columns"], Count(2, (3, 1))),
        (["column", "row"], Count(4, (3, 3))),
        (["grid", "columns"], Count(1, (10, 5, UNKNOWN))),
        # Of an axis of size 1 nothing is left where the other operand's is longer.
        (["single", "columns"], Count(4, (1,))),
        (["columns", "columns"], Count(0, (2,))),
        (["four", "four more"], Count(3, (3,))),
        (["pair", "two"], Count(3, (5,))),
        (["grid", "pair by five"], Count(3, (10, 7, 1))),
        # It may be one row that stands for all, or as many as there are columns.
        (["rows", "columns"], Count(2, (UNKNOWN,))),
        (["columns", "four"], Count(0, (UNKNOWN,))),
        (["rows", "seed"], None),
        (["seed", "c5"], None),
    ],
)
def test_sums(operands: list[str], expected: Count | None, turned: bool) -> None:
    found = counted(
        node("Unsqueeze", ["rows", "behind"], ["column"]),
        node("Unsqueeze", ["rows", "before"], ["row"]),
        node("Range", ["c0", "c4", "c1"], ["four"]),
        node("Range", ["c4", "c5", "c6"], ["single"]),
        node("Range", ["c2", "c6", "c2"], ["pair"]),
        node("Unsqueeze", ["pair", "behind"], ["pair by five"]),
        node("Add", operands[::-1] if turned else operands, ["y"]),
        **{"behind": np.array([1]), "before": np.array([0]), "two": np.array([1, 4])},
        **{"four more": 3 + 2 * up_to(4), "grid": 1 + up_to(30).reshape(3, 2, 5)},
    )
    assert found == expected


# -- the order of all elements -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        (up_to(12).reshape(3, 4), 12, True),
        (up_to(24).reshape(2, 3, 4), 24, True),
        (up_to(12).reshape(3, 1, 4), 12, True),
        (up_to(8).reshape(2, 4), 8, True),
        (up_to(8).reshape(4, 2), 8, True),
        (np.zeros((1, 1), np.int64), 1, True),
        (up_to(12).reshape(3, 4), 13, False),
        (1 + up_to(12).reshape(3, 4), 12, False),
        (up_to(12).reshape(3, 4) - 1, 12, False),
        (up_to(12).reshape(4, 3).T, 12, False),
        (2 * up_to(12).reshape(3, 4), 12, False),
        (BELOW, 12, False),
    ],
)
def test_whether_all_elements_come_in_order(
    value: NDArray[np.int64], size: int, expected: bool
) -> None:
    network = read(node("Identity", ["given"], ["y"]), given=value)
    axes = network.axes_of("given") or []
    assert counts_through(network, "given", axes, Dim(size)) is expected


@pytest.mark.parametrize(("stride", "expected"), [("c6", True), ("c5", False), ("c7", False)])
def test_rows_of_which_only_the_run_time_knows_how_many(stride: str, expected: bool) -> None:
    network = read(
        node("Mul", ["columns", stride], ["starts"]),
        node("Unsqueeze", ["starts", "behind"], ["column"]),
        node("Add", ["column", "six"], ["y"]),
        **{"behind": np.array([1]), "six": up_to(6)},
    )
    axes = network.axes_of("y") or []
    assert [axis.size for axis in axes] == [None, 6]
    assert counts_through(network, "y", axes, product(axes)) is expected
    assert counts_through(network, "y", axes, Dim(12)) is False
