from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxprune.errors import BrokenModel, UnsupportedModel, UsageError
from onnxprune.runtime import cores, find_inputs, input_specs, make_inputs, run, session
from tests.conftest import corpus_models

F, I64 = TensorProto.FLOAT, TensorProto.INT64


def model(
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    **weights: np.ndarray,
) -> ModelProto:
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def value(name: str, dims: list[int | str | None] | None, kind: int = F) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def relu(dims: list[int | str | None]) -> ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])], [value("x", dims)], [value("y", dims)])


def embedding(rows: int = 5) -> ModelProto:
    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=I64),
        helper.make_node("Unsqueeze", ["wide", "zero"], ["more"]),
        helper.make_node("Gather", ["table", "more"], ["y"]),
    ]
    table = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    ids = value("ids", ["batch", "sequence"], TensorProto.INT32)
    y = value("y", [1, "batch", "sequence", 3])
    return model(nodes, [ids], [y], table=table, zero=np.array([0]))


def test_specs_leave_out_initializers_and_name_what_is_dynamic() -> None:
    m = model(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [value("x", ["n", 3, None]), value("w", [3, 1])],
        [value("y", ["n", 3, None])],
        w=np.ones((3, 1), np.float32),
    )
    m.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -1  # as Paddle writes it
    (spec,) = input_specs(m)
    assert (spec.name, spec.dtype, spec.dims) == ("x", np.float32, ("n", 3, None))
    assert [spec.free(axis) for axis in range(3)] == ["n", None, "x[2]"]


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.COMPLEX64])
def test_types_that_no_values_are_made_up_for_are_refused(kind: int) -> None:
    m = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", [2], kind)],
        [value("y", [2], kind)],
    )
    with pytest.raises(UnsupportedModel, match="'x'"):
        input_specs(m)


def test_inputs_are_the_same_for_the_same_seed_and_differ_for_another() -> None:
    first, again, other = (make_inputs(relu([2, "n"]), dynamic=4, seed=s)["x"] for s in (1, 1, 2))
    assert first.shape == (2, 4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_symbol_has_one_size_and_sums_of_symbols_add_up() -> None:
    dims: list[list[int | str | None]] = [["b", "past"], ["b", "now"], ["b", "past + now"]]
    m = model(
        [helper.make_node("Concat", ["x0", "x1", "x2"], ["y"], axis=1)],
        [value(f"x{i}", d) for i, d in enumerate(dims)],
        [value("y", ["b", None])],
    )
    feeds = make_inputs(m, {"x0": [2, 3]}, dynamic=5)
    assert [x.shape for x in feeds.values()] == [(2, 3), (2, 5), (2, 8)]


@pytest.mark.parametrize(
    "shapes", [{"z": [1, 2]}, {"x": [1]}, {"x": [1, 3]}, {"x": [0, 2]}, {"x": [-1, 2]}]
)
def test_shapes_that_contradict_the_model_are_usage_errors(shapes: dict[str, list[int]]) -> None:
    with pytest.raises(UsageError):
        make_inputs(relu(["n", 2]), shapes)


def test_indices_stay_within_the_table_that_they_reach() -> None:
    ids = make_inputs(embedding(), {"ids": [20, 20]})["ids"]
    assert ids.dtype == np.int32
    assert set(np.unique(ids)) == set(range(5))


def test_masks_are_ones_and_bytes_use_their_range() -> None:
    m = model(
        [helper.make_node("Identity", [f"x{i}"], [f"y{i}"]) for i in range(2)],
        [],
        [value("y0", [50], TensorProto.UINT8), value("y1", [4], I64)],
    )
    m.graph.input.extend([value("x0", [50], TensorProto.UINT8), value("attention_mask", [4], I64)])
    feeds = make_inputs(m)
    assert feeds["x0"].max() > 127
    assert feeds["attention_mask"].tolist() == [1, 1, 1, 1]


def test_find_inputs_runs_two_sizes_of_every_dynamic_dim() -> None:
    found = find_inputs(embedding())
    first, second = found.sizes
    assert len(found.feeds) == 2
    assert all(first[key] != second[key] for key in ("batch", "sequence"))
    assert found.fixed == []
    assert found.shapes == {"ids": [first["batch"], first["sequence"]]}
    assert "sequence = 64 (also 32)" in found.describe()


def test_find_inputs_climbs_the_ladder_until_a_size_runs() -> None:
    # Slices 600 samples and reshapes them to a fixed size: only inputs of 600 and more run.
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axis"], ["cut"]),
        helper.make_node("Reshape", ["cut", "shape"], ["y"]),
    ]
    weights = {"from": np.array([0]), "to": np.array([600]), "axis": np.array([1])}
    m = model(
        nodes, [value("x", [1, "t"])], [value("y", [20, 30])], shape=np.array([20, 30]), **weights
    )
    found = find_inputs(m)
    assert found.sizes[0] == {"t": 1024}
    assert found.sizes[1]["t"] >= 600


def test_find_inputs_says_what_stays_fixed() -> None:
    m = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [value("x", ["n", 6])],
        [value("y", [2, 3])],
        shape=np.array([2, 3]),
    )
    found = find_inputs(m)
    assert (found.sizes, found.fixed) == ([{"n": 1}], ["n"])


def test_find_inputs_tries_a_sampling_rate() -> None:
    branch = [
        helper.make_graph([helper.make_node("Identity", ["x"], ["t"])], "t", [], [value("t", [2])]),
        # An index out of range: the branch for any other rate fails.
        helper.make_graph(
            [
                helper.make_node("Constant", [], ["nine"], value_ints=[9, 9]),
                helper.make_node("Gather", ["x", "nine"], ["e"]),
            ],
            "e",
            [],
            [value("e", [2])],
        ),
    ]
    nodes = [
        helper.make_node("Equal", ["rate", "known"], ["is"]),
        helper.make_node("If", ["is"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    m = model(
        nodes, [value("x", [2]), value("rate", [], I64)], [value("y", [2])], known=np.array(16000)
    )
    found = find_inputs(m)
    assert found.scalar == 16000
    assert found.feeds[0]["rate"] == 16000


def test_a_failure_at_every_size_is_one_clear_line() -> None:
    m = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [value("x", ["n", 2])],
        [value("y", [7, 11])],
        shape=np.array([7, 11]),
    )
    with pytest.raises(UnsupportedModel, match="input-shapes") as error:
        find_inputs(m)
    assert "\n" not in str(error.value)


def test_an_unknown_domain_is_unsupported_and_names_the_operator() -> None:
    m = model(
        [helper.make_node("Odd", ["x"], ["y"], domain="my.own")],
        [value("x", [2])],
        [value("y", [2])],
    )
    m.opset_import.append(helper.make_opsetid("my.own", 1))
    with pytest.raises(UnsupportedModel, match=r"my\.own:Odd"):
        session(m, optimize=False)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x0a"])
def test_files_that_are_not_models_are_broken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(BrokenModel, match=r"x\.onnx"):
        input_specs(path)


def test_missing_files_and_folders_are_broken(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(BrokenModel):
            input_specs(path)


def test_external_data_is_found_by_path_and_by_folder(tmp_path: Path) -> None:
    w = np.arange(400, dtype=np.float32).reshape(20, 20)
    m = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", ["n", 20])],
        [value("y", ["n", 20])], w=w,
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(m, path, save_as_external_data=True, location="m.data", size_threshold=0)
    feeds = {"x": np.ones((1, 20), np.float32)}
    bare = onnx.load(path, load_external_data=False)
    for live in (
        session(path, optimize=True),
        session(bare, optimize=False, base_dir=tmp_path),
    ):
        assert np.allclose(run(live, feeds)["y"], w.sum(0))
    assert len(find_inputs(path).feeds) == 2
    (tmp_path / "m.data").unlink()
    with pytest.raises(BrokenModel):
        session(path, optimize=False)


def test_bfloat16_goes_in_and_comes_out() -> None:
    bf16 = TensorProto.BFLOAT16
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=F),
        helper.make_node("Neg", ["wide"], ["neg"]),
        helper.make_node("Cast", ["neg"], ["y"], to=bf16),
    ]
    m = model(nodes, [value("x", [3], bf16)], [value("y", [3], bf16)])
    x = make_inputs(m)["x"]
    y = run(session(m, optimize=False), {"x": x})["y"]
    assert y.dtype == ml_dtypes.bfloat16
    assert np.array_equal(y.astype(np.float32), -x.astype(np.float32))


def test_sequences_and_maps_come_out_flat() -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node(
            "ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_strings=["a", "b"]
        ),
    ]
    zipped = helper.make_value_info(
        "z",
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(F, []))
        ),
    )
    m = model(
        nodes, [value("x", [3, 2])], [helper.make_tensor_sequence_value_info("s", F, None), zipped]
    )
    m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    x = make_inputs(m)["x"]
    out = run(session(m, optimize=False), {"x": x})
    assert list(out) == ["s[0]", "s[1]", "z[a]", "z[b]"]
    assert np.array_equal(out["z[b]"], x[:, 1])


@pytest.mark.parametrize("path", corpus_models())
def test_every_real_model_runs_or_is_refused(path: Path) -> None:
    if path.stem == "sr_espcn_subpixel_qonnx":
        with pytest.raises(UnsupportedModel, match=r"onnx\.brevitas:Quant"):
            find_inputs(path)
        return
    found = find_inputs(path)
    assert found.fixed == []
    outputs = run(session(path, optimize=False), found.feeds[-1])
    assert all(np.isfinite(x).all() for x in outputs.values() if x.dtype.kind == "f")


@pytest.mark.parametrize(
    ("said", "found"), [("1", 1), ("1000", None), ("", None), ("0", None), ("two", None)]
)
def test_cores_are_those_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, said: str, found: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cores() == (found or allowed)
