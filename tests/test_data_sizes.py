"""Outputs whose sizes depend on what a model computes may have another size after pruning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

import onnxprune
from onnxprune.data_sizes import measurable, sized_by_data
from onnxprune.errors import CheckFailed
from onnxprune.runtime import find_inputs
from onnxprune.verify import verify
from tests.graphs import Array, make, node, run, weight


def detector() -> ModelProto:
    """x [N, 6] -> the scores above zero, of forty for each sample: as many as there are."""
    return make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["r", "w2"], ["scores"]),
            node("Greater", ["scores", "none"], ["high"]),
            node("NonZero", ["high"], ["places"]),
            node("Transpose", ["places"], ["rows"], perm=[1, 0]),
            node("GatherND", ["scores", "rows"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["found"]},
        {
            "w1": weight("w1", 6, 16),
            "w2": weight("w2", 16, 40),
            "none": np.zeros((), np.float32),
        },
    )


def test_how_many_are_found_may_change() -> None:
    model = detector()
    result = onnxprune.prune(model, ratio=0.5, benchmark=False)
    assert result.plan.kept
    feeds = {"x": weight("x", 5, 6)}
    (before,), (after,) = run(model, feeds), run(result.model, feeds)
    assert len(before) != len(after)  # else the test is none


def test_refitting_is_judged_by_the_scores() -> None:
    data = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    assert measurable(detector()) == ["scores"]
    options = {"calibration": data, "reconstruct": True, "benchmark": False, "round_to": 1}
    result = onnxprune.prune(detector(), ratio=0.5, **options)
    said = result.report.reconstruction
    assert said is not None and 0 < said["after"] < said["before"] / 2
    # And so are widths; the budget is met.
    result = onnxprune.prune(detector(), target="macs=0.5", **options)
    assert len(result.plan.kept["w1"][1]) == 8


def test_numbers_are_found_behind_conditions_and_bodies() -> None:
    empty = helper.make_empty_tensor_value_info
    some = helper.make_graph([node("NonZero", ["high"], ["a"])], "some", [], [empty("a")])
    none = helper.make_graph([node("NonZero", ["low"], ["b"])], "none", [], [empty("b")])
    model = make(
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("Greater", ["h", "zero"], ["high"]),
            node("Not", ["high"], ["low"]),
            node("ReduceMax", ["h"], ["most"], keepdims=0),
            node("Greater", ["most", "zero"], ["on"]),
            node("If", ["on"], ["y"], then_branch=some, else_branch=none),
            node("Identity", ["h"], ["z"]),
        ],
        {"x": ["N", 6]},
        {"z": ["N", 4], "y": None},  # type: ignore[dict-item]
        {"w": weight("w", 6, 4), "zero": np.zeros((), np.float32)},
    )
    assert measurable(model) == ["z", "most", "h"]


def _sized(nodes: list[object], **weights: Array) -> set[str]:
    given = {"w": weight("w", 6, 4), "one": np.array([1], np.int64), **weights}
    return sized_by_data(make(nodes, {"x": ["N", 6]}, {"y": None}, given))  # type: ignore[arg-type]


def test_sizes_that_follow_from_sizes_are_none_of_these() -> None:
    found = _sized(
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("Shape", ["h"], ["shape"]),
            node("ConstantOfShape", ["shape"], ["grid"]),
            node("NonZero", ["grid"], ["places"]),
            node("Slice", ["shape", "one", "one"], ["some"]),
            node("Expand", ["h", "shape"], ["wide"]),
            node("Reshape", ["wide", "shape"], ["y"]),
        ]
    )
    assert not found


def test_what_is_read_off_such_a_size_is_one_too() -> None:
    found = _sized(
        [
            node("NonZero", ["x"], ["places"]),
            node("Shape", ["places"], ["many"]),
            node("ConstantOfShape", ["many"], ["zeros"]),
            node("MatMul", ["x", "w"], ["y"]),
        ]
    )
    assert found == {"places", "zeros"}


def test_sizes_from_values() -> None:
    """A number that is computed says how long a range is; a constant one does not."""
    nodes = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Cast", ["most"], ["count"], to=TensorProto.INT64),
        node("Range", ["zero", "count", "step"], ["y"]),
        node("Range", ["zero", "step", "step"], ["same"]),
    ]
    found = _sized(nodes, zero=np.array(0, np.int64), step=np.array(1, np.int64))
    assert found == {"y"}


def test_bodies_are_looked_into() -> None:
    inside = helper.make_graph(
        [node("NonZero", ["x"], ["inner"])],
        "body",
        [],
        [helper.make_empty_tensor_value_info("inner")],
    )
    found = _sized(
        [
            node("If", ["on"], ["y"], then_branch=inside, else_branch=inside),
            node("MatMul", ["x", "w"], ["other"]),
        ],
        on=np.array(True),
    )
    assert "y" in found and "other" not in found


@pytest.mark.parametrize("name", ["rank", "type"])
def test_rank_and_type_are_still_checked(name: str) -> None:
    model, other = detector(), detector()
    last = node("Cast", ["found"], ["y"], to=TensorProto.DOUBLE)
    if name == "rank":
        last = node("Unsqueeze", ["found", "axis"], ["y"])
        other.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [0]))
    other.graph.node[-1].output[0] = "found"
    other.graph.node.append(last)
    for each in (model, other):  # nothing is declared, so that only a run can tell
        each.graph.output[0].ClearField("type")
    with pytest.raises(CheckFailed):
        verify(model, other, Path("."), find_inputs(model))
