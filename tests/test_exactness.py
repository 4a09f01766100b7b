"""Exact or statistical: what masking with zeros can stand for, and what it can't."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.axes import leaves
from onnxprune.exactness import exact_dims, maskable
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.tables import built_in, read_tables
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


@pytest.mark.parametrize(
    ("exponent", "kind"), [(2.0, "exact"), (0.5, "exact"), (0.0, "statistical")]
)
def test_powers_of_zero(exponent: float, kind: str) -> None:
    model = image(
        node("Abs", ["a"], ["m"]),
        node("Pow", ["m", "e"], ["b"]),
        e=np.float32(exponent),
    )
    model.graph.node[3].CopyFrom(node("ReduceSum", ["b", "axis"], ["y"]))
    assert kinds(model) == [kind]


def test_blocks_whose_scales_are_zero_are_zero() -> None:
    """A table of words [7, 64], in 4 bits and blocks of 16."""
    how = {"block_size": 16, "quantize_axis": 1, "gather_axis": 0, "bits": 4}
    model = make(
        [
            node("Cast", ["x"], ["i"], to=TensorProto.INT64),
            node("GatherBlockQuantized", ["t", "i", "s"], ["w"], domain="com.microsoft", **how),
            node("ReduceSum", ["w", "axis"], ["y"]),
        ],
        {"x": [3]},
        {"y": None},
        {
            "t": np.random.default_rng(0).integers(256, size=(7, 32), dtype=np.uint8),
            **{"s": np.abs(weight("s", 7, 4)), "axis": AXIS},
        },
        domains=CONTRIB,
    )
    assert kinds(model) == ["exact"]


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


# -- single facts, without a cut -----------------------------------------------------------------


def exact(model: ModelProto, rules: str = "") -> set[tuple[str, int]]:
    """The constants, and their axes, along which removing equals masking."""
    network = infer(load(model), {**built_in(), **read_tables(rules, "my.toml")})
    found = exact_dims(network)
    return {
        (name, i)
        for name in network.model.constants
        for i, axis in enumerate(network.axes_of(name) or ())
        if found.intersection(leaves(axis))
    }


def linear(*nodes: NodeProto, width: int = 8, **more: Any) -> ModelProto:
    """x [7, 5] -> MatMul w1 [5, width] -> a -> `nodes` -> b -> MatMul w2 [width, 3] -> y."""
    return make(
        [node("MatMul", ["x", "w1"], ["a"]), *nodes, node("MatMul", ["b", "w2"], ["y"])],
        MATRIX,
        {"y": [7, 3]},
        {"w1": weight("w1", 5, width), "w2": weight("w2", width, 3), "axis": AXIS, **more},
        domains={"my": 1},
    )


def test_what_may_be_masked() -> None:
    """Not what divides, behind a node that only moves it or not; and not for one good use alone."""
    model = linear(
        node("Transpose", ["moved"], ["m"]),
        node("Mul", ["a", "m"], ["c"]),
        node("Transpose", ["moved divisor"], ["d"]),
        node("Div", ["c", "d"], ["e"]),
        node("Div", ["e", "both"], ["f"]),
        node("Add", ["f", "both"], ["b"]),
        **{"moved": weight("moved", 8, 1), "moved divisor": weight("d", 8, 1)},
        **{"both": weight("both", 7, 8)},
    )
    assert maskable(infer(load(model), built_in())) == {"w1", "w2", "moved"}


def test_what_nothing_reads_says_nothing() -> None:
    model = linear(node("Relu", ["a"], ["b"]), node("Transpose", ["w1"], ["idle"]))
    assert maskable(infer(load(model), built_in())) == {"w1", "w2"}
    assert exact(model) == {("w1", 1), ("w2", 0)}


def branch(name: str, *nodes: NodeProto, **weights: Any) -> GraphProto:
    output = helper.make_tensor_value_info(f"{name} y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(value, each) for each, value in weights.items()]
    return helper.make_graph(list(nodes), name, [], [output], tensors)


def chosen(one: GraphProto, other: GraphProto, *nodes: NodeProto) -> ModelProto:
    model = linear(node("If", ["which"], ["c"], then_branch=one, else_branch=other), *nodes)
    model.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    return model


def test_zeros_are_not_followed_through_branches() -> None:
    bodies = [branch(name, node("Relu", ["a"], [f"{name} y"])) for name in ("one", "other")]
    assert exact(chosen(*bodies, node("Relu", ["c"], ["b"]))) == set()


def test_what_a_branch_gives_back_is_not_masked() -> None:
    """The model reads it under another name, in ways that this says nothing of."""
    bodies = [
        branch(name, node("Identity", [name], [f"{name} y"]), **{name: weight(name, 8)})
        for name in ("one", "other")
    ]
    model = chosen(*bodies, node("Div", ["a", "c"], ["b"]))
    assert maskable(infer(load(model), built_in())) == {"w1", "w2"}


def test_dims_that_cannot_be_pruned_are_neither() -> None:
    """Those of one index, and those that are pinned; two are enough."""
    one = linear(node("Add", ["a", "c"], ["b"]), c=weight("c", 1, 8))
    assert exact(one) == {("w1", 1), ("w2", 0), ("c", 1)}
    two = linear(node("Relu", ["a"], ["b"]), width=2)
    assert exact(two) == {("w1", 1), ("w2", 0)}


@pytest.mark.parametrize("op_type", ["Add", "Sum", "Max"])
@pytest.mark.parametrize("zero", [True, False])
def test_a_sum_is_zero_where_all_of_its_terms_are(op_type: str, zero: bool) -> None:
    term = node("MatMul", ["x", "w3"], ["c"]) if zero else node("Sigmoid", ["a"], ["c"])
    total = node("ReduceSum", ["b", "axis"], ["s"])
    model = linear(term, node(op_type, ["a", "c"], ["b"]), total, w3=weight("w3", 5, 8))
    model.graph.output.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, None))
    assert (("w1", 1) in exact(model)) == zero


@pytest.mark.parametrize("zero", [True, False])
def test_a_distance_sums_over_both_of_its_operands(zero: bool) -> None:
    """What is left of a removed channel is the other one's square."""
    other = node("Relu" if zero else "Sigmoid", ["d"], ["c"])
    model = make(
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("MatMul", ["x", "w2"], ["d"]),
            other,
            node("CDist", ["a", "c"], ["y"], domain="com.microsoft", metric="euclidean"),
        ],
        MATRIX,
        {"y": [7, 7]},
        {"w1": weight("w1", 5, 8), "w2": weight("w2", 5, 8)},
        domains=CONTRIB,
    )
    assert exact(model) == ({("w1", 1), ("w2", 1)} if zero else set())


def test_a_dim_on_two_axes_says_nothing_of_one_beside_it() -> None:
    """Of a matrix for each channel, the channels are zero where the factor that says so is."""
    model = make(
        [
            node("Conv", ["x", "w0"], ["h"]),
            node("MatMul", ["h", "w1"], ["a"]),
            node("Transpose", ["a"], ["t"], perm=[0, 1, 3, 2]),
            node("MatMul", ["t", "a"], ["g"]),
            node("Sigmoid", ["k"], ["e"]),
            node("Mul", ["g", "e"], ["m"]),
            node("ReduceSum", ["m", "axes"], ["s"], keepdims=0),
            node("MatMul", ["s", "w2"], ["y"]),
        ],
        {"x": [1, 3, 7, 5]},
        {"y": [1, 3]},
        {
            **{"w0": weight("w0", 4, 3, 1, 1), "w1": weight("w1", 5, 8)},
            **{"w2": weight("w2", 8, 3), "k": weight("k", 4, 1, 1)},
            "axes": np.array([1, 2]),
        },
    )
    assert {("w0", 0), ("k", 0)} <= exact(model)


def test_an_operand_that_is_missing_is_not_zero() -> None:
    """A rule of one's own, which names operands that a node may leave out."""
    rules = """
        ["my.Scale"]
        axes = "*x, *x?, *x? -> *x"
        zero = "0"
        nonzero = [1, 2]
    """
    other = node("MatMul", ["x", "w3"], ["c"])
    scaled = node("Scale", ["a", "c"], ["b"], domain="my")
    assert exact(linear(other, scaled, w3=weight("w3", 5, 8)), rules) == set()
    plain = node("Scale", ["a"], ["b"], domain="my")
    assert exact(linear(plain), rules) == {("w1", 1), ("w2", 0)}
