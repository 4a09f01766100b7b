"""What a benchmark reports, never how fast it was."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxprune.errors import UnsupportedModel, UsageError
from onnxprune.latency import _median_interval, benchmark


def matmul(width: int) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(np.ones((width, width), np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_one_model_alone() -> None:
    result = benchmark(matmul(8), rounds=10, seconds=0.1, input_shapes={"x": [5, 8]})
    assert result.b is result.speedup is result.interval is None
    assert 0 < result.a.min <= result.a.median <= result.a.p90
    assert (result.rounds, result.threads, result.shapes) == (10, 1, {"x": [5, 8]})


def test_two_models_are_paired() -> None:
    result = benchmark(matmul(8), matmul(8), rounds=24, seconds=0.5, threads=2)
    assert result.b is not None
    assert result.speedup is not None
    assert result.interval is not None
    assert result.interval[0] <= result.speedup <= result.interval[1]
    assert result.sessions == 1 or 6 <= result.sessions <= 12
    told = json.loads(json.dumps(result.to_dict()))
    assert told["threads"] == 2
    assert told["b"]["median"] > 0


def test_few_rounds_have_no_interval() -> None:
    assert benchmark(matmul(8), matmul(8), rounds=3, seconds=0.1).interval is None


def test_the_median_interval_covers_95_percent() -> None:
    assert _median_interval([1.0] * 5) is None
    assert _median_interval([3, 1, 2, 6, 5, 4]) == (1, 6)
    low, high = _median_interval(list(range(1, 101))) or (0, 0)
    assert (low, high) == (40, 61)  # the textbook's ranks for n = 100
    covered = sum(math.comb(100, k) for k in range(int(low), int(high))) / 2**100
    assert covered >= 0.95


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"rounds": 0}, {"seconds": 0.0}])
def test_numbers_that_are_not_positive_are_usage_errors(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        benchmark(matmul(8), **wrong)  # type: ignore[arg-type]


def test_models_of_different_inputs_are_refused() -> None:
    with pytest.raises(UnsupportedModel):
        benchmark(matmul(8), matmul(9), rounds=3, seconds=0.1)
