"""DepGraph's four kinds of dependency (its figure 2), each on the smallest model that has it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

import onnxprune

Weights = dict[str, tuple[int, ...]]


def model(
    nodes: list[onnx.NodeProto], weights: Weights, x: list[int], y: list[int | str]
) -> ModelProto:
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *x])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", *y])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def conv(x: str, weight: str, y: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, weight], [y], name=f"/{y}")


def coupled(made: ModelProto) -> list[set[tuple[str, int]]]:
    """The groups, as sets of (weight, axis)."""
    return [
        {(tensor, axis) for tensor, axis, _ in group.members}
        for group in onnxprune.inspect(made).groups
    ]


def dependencies(made: ModelProto) -> list[set[str]]:
    return [set(group.dependencies) for group in onnxprune.inspect(made).groups]


def basic() -> ModelProto:
    return model(
        [conv("x", "w1", "h"), helper.make_node("Relu", ["h"], ["r"]), conv("r", "w2", "y")],
        {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1)},
        [3, 4, 4],
        [5, 4, 4],
    )


def residual() -> ModelProto:
    return model(
        [
            conv("x", "w1", "a"),
            conv("a", "w2", "b"),
            helper.make_node("Add", ["a", "b"], ["s"]),
            conv("s", "w3", "y"),
        ],
        {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w3": (5, 8, 1, 1)},
        [3, 4, 4],
        [5, 4, 4],
    )


def concatenation() -> ModelProto:
    return model(
        [
            conv("x", "w1", "a"),
            conv("x", "w2", "b"),
            helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
            conv("c", "w3", "y"),
        ],
        {"w1": (8, 3, 1, 1), "w2": (6, 3, 1, 1), "w3": (5, 14, 1, 1)},
        [3, 4, 4],
        [5, 4, 4],
    )


def reduction() -> ModelProto:
    """Flatten: each channel becomes a run of features, which the linear layer reduces."""
    return model(
        [
            conv("x", "w1", "h"),
            helper.make_node("Flatten", ["h"], ["f"]),
            helper.make_node("Gemm", ["f", "w2"], ["y"], transB=1),
        ],
        {"w1": (8, 3, 1, 1), "w2": (5, 8 * 16)},
        [3, 4, 4],
        [5],
    )


def test_basic_dependency() -> None:
    assert coupled(basic()) == [{("w1", 0), ("w2", 1)}]
    assert dependencies(basic()) == [{"basic"}]


def test_residual_dependency() -> None:
    assert coupled(residual()) == [{("w1", 0), ("w2", 1), ("w2", 0), ("w3", 1)}]
    assert dependencies(residual()) == [{"basic", "residual"}]


def test_concatenation_dependency() -> None:
    assert coupled(concatenation()) == [{("w1", 0), ("w3", 1)}, {("w2", 0), ("w3", 1)}]
    assert dependencies(concatenation()) == [{"basic", "concatenation"}] * 2
    kept = onnxprune.prune(concatenation(), benchmark=False).plan.kept
    first, second = kept["w1"][0], kept["w2"][0]
    assert kept["w3"][1].tolist() == [*first, *(second + 8)], "the runs keep their places"


def test_reduction_dependency() -> None:
    assert coupled(reduction()) == [{("w1", 0), ("w2", 1)}]
    assert dependencies(reduction()) == [{"basic", "reduction"}]
    kept = onnxprune.prune(reduction(), benchmark=False).plan.kept
    blocks = kept["w1"][0][:, None] * 16 + np.arange(16)
    assert (kept["w2"][1] == blocks.ravel()).all(), "a channel takes its whole run of features"


@pytest.mark.parametrize("build", [basic, residual, concatenation, reduction])
def test_each_is_pruned_exactly(build: Callable[[], ModelProto]) -> None:
    report = onnxprune.prune(build(), benchmark=False).report
    assert report.certificate is not None and report.certificate.ok and report.certificate.proves
    assert all(group.kind == "exact" and group.kept * 2 == group.size for group in report.groups)


def test_grouping_matrix() -> None:
    """G[i, j] = 1 where layers i and j are coupled (DepGraph, section 3.1)."""
    found = onnxprune.inspect(concatenation())
    assert found.layers == ["w1", "w3", "w2"]
    assert found.matrix().astype(int).tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
