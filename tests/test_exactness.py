"""Exact or statistical: what masking with zeros can stand for, and what it can't."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto

import onnxprune
from tests.graphs import make, node, weight

AXIS = np.array([1])
CONTRIB = {"com.microsoft": 1}
IMAGE = {"x": [1, 3, 6, 6]}
MATRIX = {"x": [7, 5]}


def kinds(model: ModelProto) -> list[str]:
    """`exact` or `statistical` of each group, after the certificates of a cut have passed."""
    result = onnxprune.prune(model, benchmark=False)
    assert result.report.certificate is not None and result.report.certificate.ok
    return [group.kind for group in result.plan.groups]


def image(*nodes: NodeProto, rank: int = 4, **more: Any) -> ModelProto:
    """x -> Conv w1 [8, 3, 1, 1] -> a -> `nodes` -> b -> Conv w2 [4, 8, 1, 1] -> y."""
    weights = {"w1": weight("w1", 8, 3, 1, 1), "w2": weight("w2", 4, 8, 1, 1), "axis": AXIS}
    return make(
        [node("Conv", ["x", "w1"], ["a"]), *nodes, node("Conv", ["b", "w2"], ["y"])],
        IMAGE,
        {"y": [None] * rank},
        {**weights, **more},
        domains=CONTRIB,
    )


NORM = node("ReduceL2", ["a"], ["n"], axes=[2, 3])
OTHER = node("Conv", ["x", "w3"], ["c"])
UNDEFINED = {
    "0 / 0": [NORM, node("Div", ["a", "n"], ["b"])],
    "1 / 0": [node("Div", ["d", "a"], ["b"])],
    "Reciprocal": [node("Reciprocal", ["a"], ["b"])],
    "Log": [node("Abs", ["a"], ["m"]), node("Log", ["m"], ["b"])],
    "Pow": [node("Abs", ["a"], ["m"]), node("Pow", ["m", "e"], ["b"])],
    "Mod": [OTHER, node("Mod", ["a", "c"], ["b"], fmod=1)],
    "ReduceLogSum": [node("Abs", ["a"], ["m"]), node("ReduceLogSum", ["m"], ["b"], axes=[2, 3])],
    "MeanVarianceNormalization": [node("MeanVarianceNormalization", ["a"], ["b"])],
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_zero_that_has_no_finite_result_masks_nothing(case: str) -> None:
    """The masked model would be full of NaN, which no zero weight takes away."""
    more = {
        "d": weight("d", 8, 1, 1),
        "e": np.float32(-1),
        "w3": weight("w3", 8, 3, 1, 1),
    }
    assert kinds(image(*UNDEFINED[case], **more)) == ["statistical"]


@pytest.mark.parametrize("op_type", ["FusedConv", "FusedGemm"])
@pytest.mark.parametrize(
    ("activation", "kind"), [("Relu", "exact"), ("Sigmoid", "statistical"), ("Tanh", "exact")]
)
def test_a_fused_activation_of_zero(op_type: str, activation: str, kind: str) -> None:
    conv = op_type == "FusedConv"
    fused = node(op_type, ["x", "w1", "b1"], ["a"], domain="com.microsoft", activation=activation)
    model = make(
        [fused, node("ReduceSum", ["a", "axis"], ["y"])],
        IMAGE if conv else MATRIX,
        {"y": None},
        {
            "w1": weight("w1", 8, 3, 1, 1) if conv else weight("w1", 5, 8),
            **{"b1": weight("b1", 8), "axis": AXIS},
        },
        domains=CONTRIB,
    )
    assert kinds(model) == [kind]


def test_a_shrink_whose_lambd_is_negative_moves_zero() -> None:
    model = image(node("Shrink", ["a"], ["s"], lambd=-1.0, bias=0.5))
    model.graph.node[2].CopyFrom(node("ReduceSum", ["s", "axis"], ["y"]))
    assert kinds(model) == ["statistical"]


@pytest.mark.parametrize(("point", "kind"), [(128, "statistical"), (0, "exact")])
def test_a_zero_point_read_as_a_number_is_not_zero(point: int, kind: str) -> None:
    model = make(
        [
            node("Conv", ["x", "w1"], ["a"]),
            node("QuantizeLinear", ["a", "scale", "point"], ["q"]),
            node("Cast", ["q"], ["c"], to=TensorProto.FLOAT),
            node("ReduceSum", ["c", "axis"], ["y"]),
        ],
        IMAGE,
        {"y": None},
        {
            **{"w1": weight("w1", 8, 3, 1, 1), "axis": AXIS},
            **{"scale": np.float32(0.05), "point": np.uint8(point)},
        },
    )
    assert kinds(model) == [kind]


GRAM = [node("Transpose", ["a"], ["t"], perm=[0, 2, 1]), node("MatMul", ["t", "a"], ["g"])]
PAIRS = {
    # A matrix with the same dim on both of its axes, and how it is made.
    "x x'": ([*GRAM, node("Identity", ["g"], ["m"])], "exact"),
    "x x' + w": ([*GRAM, node("Add", ["g", "w"], ["m"])], "exact"),
    "x x' + row": ([*GRAM, node("Add", ["g", "row"], ["m"])], "statistical"),
    "column + row": (
        [*GRAM, node("Add", ["column", "row"], ["cr"]), node("Add", ["g", "cr"], ["m"])],
        "statistical",
    ),
    "max(column, row)": (
        [*GRAM, node("Max", ["column", "row"], ["cr"]), node("Add", ["g", "cr"], ["m"])],
        "statistical",
    ),
}


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("product", [True, False])
def test_a_dim_on_two_axes_is_zero_on_both_or_not_at_all(case: str, product: bool) -> None:
    """A column plus a row is zero only where both are: a sum over one axis meets the other."""
    nodes, kind = PAIRS[case]
    end = [
        node("ReduceSum", ["m", "axis"], ["r"], keepdims=0),
        node("MatMul", ["r", "w2"], ["y"]),
    ]
    if product:  # the matrix is multiplied first, which says nothing of its other axis
        end = [
            node("MatMul", ["m", "w2"], ["r"]),
            node("ReduceSum", ["r", "axis"], ["y"], keepdims=0),
        ]
    model = make(
        [node("MatMul", ["x", "w1"], ["a"]), *nodes, *end],
        {"x": [2, 7, 5]},
        {"y": [2, 3]},
        {
            **{"w1": weight("w1", 5, 8), "w2": weight("w2", 8, 3), "w": weight("w", 8, 8)},
            **{"column": weight("column", 8, 1), "row": weight("row", 1, 8), "axis": AXIS},
        },
    )
    assert kinds(model) == [kind]
