"""Masks: the right weights are zero, all others as they were, and sizes too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.cli import main
from onnxprune.sparsity import pattern_of
from tests.graphs import constants, make, node, perceptron, run, two_convs, weight


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(two_convs(), path)
    return path


def test_masked_channels_compute_what_the_pruned_model_does() -> None:
    model, x = two_convs(), {"x": weight("image", 2, 3, 8, 8)}
    options = {"ratio": 0.5, "round_to": 1, "lossless": False}
    pruned = onnxprune.prune(model, benchmark=False, **options)
    found = onnxprune.mask(model, ratio=0.5, round_to=1)
    assert found.plan is not None and found.plan.kept.keys() == pruned.plan.kept.keys()
    assert constants(found.model)["w1"].shape == constants(model)["w1"].shape
    np.testing.assert_allclose(run(found.model, x)[0], run(pruned.model, x)[0], atol=1e-5)
    kept = found.plan.kept["w1"][0]
    gone = np.setdiff1d(np.arange(8), kept)
    assert not constants(found.model)["w1"][gone].any()
    assert (constants(found.model)["w1"][kept] == constants(model)["w1"][kept]).all()
    assert {each.name: each.sparsity for each in found.report.tensors}["w1"] == 0.5


def test_two_of_four_along_the_inputs() -> None:
    model = two_convs()
    found = onnxprune.mask(model, structure="2:4")
    before, after = constants(model), constants(found.model)
    groups = np.moveaxis(after["w2"], 1, -1).reshape(-1, 4)
    was = np.moveaxis(before["w2"], 1, -1).reshape(-1, 4)
    assert (np.count_nonzero(groups, axis=1) == 2).all()
    assert (np.sort(abs(groups), axis=1)[:, 2:] == np.sort(abs(was), axis=1)[:, 2:]).all()
    # Three image channels are no multiple of four.
    assert "multiple of 4" in found.report.left["w1"]
    assert (before["w1"] == after["w1"]).all()


def test_two_of_four_in_a_matrix_product() -> None:
    found = constants(onnxprune.mask(perceptron(), structure="2:4", include="second").model)
    assert (np.count_nonzero(found["w2"].T.reshape(-1, 4), axis=1) == 2).all()  # w2 [in 8, out 4]
    assert found["w1"].all()


def test_transposed_gemm() -> None:
    nodes = [node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    given = {"w": weight("w", 3, 8), "b": weight("b", 3)}
    model = make(nodes, {"x": [2, 8]}, {"y": [2, 3]}, given)
    found = constants(onnxprune.mask(model, structure="1:4").model)
    assert (np.count_nonzero(found["w"].reshape(-1, 4), axis=1) == 1).all()
    assert (found["b"] == given["b"]).all()


@pytest.mark.parametrize("scope", ["local", "global"])
def test_unstructured_keeps_the_largest(scope: str) -> None:
    model = two_convs()
    found = onnxprune.mask(model, structure="unstructured", ratio=0.75, scope=scope)
    before, after = constants(model), constants(found.model)
    assert found.report.sparsity == pytest.approx(0.75, abs=0.005)
    parts = [["w1"], ["w2"]] if scope == "local" else [["w1", "w2"]]
    for names in parts:
        was = np.concatenate([before[name].ravel() for name in names])
        now = np.concatenate([after[name].ravel() for name in names])
        assert abs(was[now != 0]).min() >= abs(was[now == 0]).max()
        assert np.count_nonzero(now == 0) == round(0.75 * now.size)


def test_blocks_go_as_a_whole() -> None:
    found = constants(onnxprune.mask(perceptron(), structure="block:4x1", ratio=0.5).model)
    tiles = found["w1"].T.reshape(2, 4, 6)  # 4 outputs x 1 input
    assert set(np.count_nonzero(tiles, axis=1).ravel()) == {0, 4}
    assert np.count_nonzero(found["w1"]) == found["w1"].size / 2


def test_blocks_at_the_edge_are_smaller() -> None:
    found = constants(onnxprune.mask(perceptron(), structure="block:3x4", ratio=0.5).model)
    matrix = found["w1"].T  # [8, 6]
    for i in range(0, 8, 3):
        for j in range(0, 6, 4):
            tile = matrix[i : i + 3, j : j + 4]
            assert tile.all() or not tile.any()


def quantised() -> onnx.ModelProto:
    codes = np.random.default_rng(0).integers(1, 255, (4, 8, 1, 1)).astype(np.uint8)
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
        node("Conv", ["x", "w"], ["y"]),
    ]
    return make(
        nodes,
        {"x": [1, 8, 2, 2]},
        {"y": [1, 4, 2, 2]},
        {
            "q": codes,
            "s": np.full(4, 0.1, np.float32),
            "z": np.array([100, 120, 130, 140], np.uint8),
        },
    )


@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
def test_quantised_codes_become_their_zero_points(structure: str) -> None:
    model = quantised()
    found = onnxprune.mask(model, structure=structure)
    codes, was = constants(found.model)["q"], constants(model)["q"]
    points = np.array([100, 120, 130, 140]).reshape(4, 1, 1, 1)
    changed = codes != was
    assert changed.any() and (codes == points)[changed].all()
    assert codes.dtype == np.uint8
    assert found.report.tensors[0].sparsity >= 0.5


def test_codes_of_masked_channels_become_their_zero_points() -> None:
    model = quantised()
    model.graph.node[1].output[0] = "c"
    model.graph.node.append(node("Conv", ["c", "w2"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(weight("w2", 4, 4, 1, 1), "w2"))
    found = onnxprune.mask(model, ratio=0.5, round_to=1)
    assert found.plan is not None
    gone = np.setdiff1d(np.arange(4), found.plan.kept["q"][0])
    points = np.array([100, 120, 130, 140]).reshape(4, 1, 1, 1)
    same = (constants(found.model)["q"] == points).all(axis=(1, 2, 3))
    assert gone.size == 2 and np.flatnonzero(same).tolist() == gone.tolist()


def test_a_shared_weight_summed_over_two_axes_is_left() -> None:
    nodes = [
        node("Gemm", ["x", "w"], ["a"]),
        node("Gemm", ["a", "w"], ["y"], transB=1),
    ]
    model = make(nodes, {"x": [2, 8]}, {"y": [2, 8]}, {"w": weight("w", 8, 8)})
    with pytest.raises(onnxprune.NotPrunable, match="different axes"):
        onnxprune.mask(model, structure="2:4")


def test_embeddings_are_no_matrix_products() -> None:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [3])
    model = make([node("Gather", ["w", "ids"], ["y"])], {}, {"y": [3, 8]}, {"w": weight("w", 9, 8)})
    model.graph.input.append(ids)
    with pytest.raises(onnxprune.NotPrunable):
        onnxprune.mask(model, structure="unstructured")


@pytest.mark.parametrize(
    "options",
    [
        {"structure": "4:2"},
        {"structure": "block:0x4"},
        {"structure": "rows"},
        {"structure": "2:4", "ratio": 0.5},
        {"structure": "unstructured", "target": "macs=0.5"},
        {"structure": "unstructured", "round_to": 8},
        {"structure": "unstructured", "criterion": "fpgm"},
        {"structure": "unstructured", "include": "nothing"},
        {"structure": "unstructured", "scope": "isomorphic"},
        {"structure": "unstructured", "ratio": 1.5},
        {"lossless": True},
    ],
)
def test_what_can_not_be(options: dict[str, object]) -> None:
    with pytest.raises(onnxprune.UsageError):
        onnxprune.mask(two_convs(), **options)  # type: ignore[arg-type]


def test_patterns_are_written_as_read() -> None:
    for text in ("channels", "unstructured", "2:4", "block:4x1"):
        assert pattern_of(text).text == text


def test_the_command(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = invoke("mask", model, "-o", out, "--structure", "2:4", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["sparsity"] == 0.5 and found["output"] == str(out)
    assert [each["name"] for each in found["tensors"]] == ["w2"]
    result = invoke("mask", model, "-o", out, "--round-to", "1", "--force")
    assert result.exit_code == 0 and "no speed on its own" in result.stderr
    assert invoke("mask", model, "-o", model, "--force").exit_code == 2
