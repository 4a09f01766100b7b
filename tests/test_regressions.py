"""What random graphs once got wrong (see `tests.fuzz`), where a model by hand says it best.

Others are kept as files, in `tests/fuzz/cases`.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

import onnxprune
from onnxprune.certify import last_bits_moved
from tests.graphs import Array, assert_same, constants, make, masked, node, run, weight


def _body(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [result])


def _feeds(batch: int) -> dict[str, Array]:
    return {"x": np.abs(weight("x", batch, 6))}


def test_sizes_said_in_a_branch_do_not_hold_outside() -> None:
    """The branch that is not taken is of a batch of two; a Shape elsewhere stays the run's."""
    model = make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Shape", ["h"], ["shape"]),
            node("Slice", ["shape", "zero", "one"], ["batch"]),
            node("Concat", ["batch", "rest"], ["target"], axis=0),
            node("Reshape", ["h", "target"], ["heads"]),
            node("ReduceSum", ["heads", "one"], ["sum"], keepdims=0),
            node("MatMul", ["sum", "w2"], ["y"]),
            node("ReduceSum", ["x"], ["total"], keepdims=0),
            node("Less", ["total", "none"], ["on"]),
            node(
                "If",
                ["on"],
                ["z"],
                then_branch=_body("then", [node("Gemm", ["x", "w3", "of_two"], ["a"])]),
                else_branch=_body("else", [node("MatMul", ["x", "w3"], ["b"])]),
            ),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 3], "z": ["N", 4]},
        {
            **{"w1": weight("w1", 6, 8), "w2": weight("w2", 4, 3), "w3": weight("w3", 6, 4)},
            "of_two": weight("of_two", 2, 4),
            **{"zero": np.array([0]), "one": np.array([1]), "rest": np.array([2, 4])},
            "none": np.float32(0),
        },
    )
    result = onnxprune.prune(
        model, ratio=0.5, round_to=1, benchmark=False, input_shapes={"x": [2, 6]}
    )
    assert result.plan.groups
    kept = result.plan.kept
    reference = masked(result.reference, kept)
    for batch in (2, 3):
        assert_same(reference, result.model, _feeds(batch))


def _resized() -> ModelProto:
    return make(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Resize", ["c", "", "scales"], ["y"], mode="nearest"),
        ],
        {"x": [1, 3, 4, 4]},
        {"y": [1, 2, 8, 8]},
        {"w": weight("w", 2, 3, 1, 1), "scales": np.array([1, 1, 2, 2], dtype=np.float32)},
    )


def test_last_bits_are_those_of_weights() -> None:
    """A scale of Resize, one bit below 2, is another size."""
    model = _resized()
    moved = last_bits_moved(model, {"w"}, np.random.default_rng(0))
    assert (constants(moved)["w"] != constants(model)["w"]).all()
    assert (constants(moved)["scales"] == constants(model)["scales"]).all()
    feeds = {"x": weight("x", 1, 3, 4, 4)}
    assert run(moved, feeds)[0].shape == (1, 2, 8, 8)
