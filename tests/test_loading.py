"""Weights wherever they live, and everything in a file that pruning has no business with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.errors import BrokenModel, UnsupportedModel, UsageError
from onnxprune.loading import load
from tests.graphs import (
    assert_same,
    check,
    constants,
    make,
    masked,
    node,
    perceptron,
    run,
    shapes,
    take,
    two_convs,
    weight,
)

Array = NDArray[Any]
X = {"x": weight("x", 3, 6)}
IMAGE = {"x": weight("image", 2, 3, 8, 8)}


def prune(model: Any, **options: Any) -> onnxprune.Result:
    """Half of each group; the checks and both certificates are made."""
    result = onnxprune.prune(model, benchmark=False, **options)
    certificate = result.report.certificate
    assert certificate is not None and certificate.ok and certificate.proves
    return result


def exactly(result: onnxprune.Result, feeds: dict[str, Array], rtol: float = 1e-5) -> None:
    """The pruned model is the reference with the removed channels set to zero."""
    assert result.plan.kept
    assert_same(masked(result.reference, result.plan.kept), result.model, feeds, rtol)
    check(result.model)


# -- where weights live --------------------------------------------------------------------------


def constant(value: Array, name: str) -> list[NodeProto]:
    return [node("Constant", [], [name], value=numpy_helper.from_array(value))]


def floats(value: Array, name: str) -> list[NodeProto]:
    """The values as a list, and a Reshape to the shape that they have."""
    return [
        node("Constant", [], [name + "_flat"], value_floats=value.ravel().tolist()),
        node("Constant", [], [name + "_shape"], value_ints=list(value.shape)),
        node("Reshape", [name + "_flat", name + "_shape"], [name]),
    ]


def sparse(value: Array, name: str) -> list[NodeProto]:
    return [node("Constant", [], [name], sparse_value=sparse_tensor(value, ""))]


def transposed(value: Array, name: str) -> list[NodeProto]:
    return [
        *constant(value.T.copy(), name + "_t"),
        node("Transpose", [name + "_t"], [name], perm=list(range(value.ndim))[::-1]),
    ]


def reshaped(value: Array, name: str) -> list[NodeProto]:
    """One axis more than the operator takes."""
    return [
        *constant(value[..., None], name + "_0"),
        *constant(np.array(value.shape), name + "_shape"),
        node("Reshape", [name + "_0", name + "_shape"], [name]),
    ]


def cast(value: Array, name: str) -> list[NodeProto]:
    return [
        *constant(value.astype(np.float16), name + "_16"),
        node("Cast", [name + "_16"], [name], to=TensorProto.FLOAT),
    ]


def brain(value: Array, name: str) -> list[NodeProto]:
    return [
        *constant(value.astype(ml_dtypes.bfloat16), name + "_16"),
        node("Cast", [name + "_16"], [name], to=TensorProto.FLOAT),
    ]


def identity(value: Array, name: str) -> list[NodeProto]:
    return [
        *constant(value, name + "_0"),
        node("Identity", [name + "_0"], [name + "_1"]),
        node("Identity", [name + "_1"], [name]),
    ]


def chained(value: Array, name: str) -> list[NodeProto]:
    """Half precision, transposed, through an Identity, and cast in the end."""
    return [
        *constant(value.T.astype(np.float16), name + "_0"),
        node("Transpose", [name + "_0"], [name + "_1"]),
        node("Identity", [name + "_1"], [name + "_2"]),
        node("Cast", [name + "_2"], [name], to=TensorProto.FLOAT),
    ]


def per_tensor(value: Array, name: str) -> list[NodeProto]:
    return [
        *constant(np.round(value * 40).clip(-127, 127).astype(np.int8), name + "_q"),
        *constant(np.float32(0.025), name + "_scale"),
        *constant(np.int8(0), name + "_point"),
        node("DequantizeLinear", [name + "_q", name + "_scale", name + "_point"], [name]),
    ]


def per_channel(value: Array, name: str) -> list[NodeProto]:
    """A scale and no zero point for each index of the last axis."""
    scale = np.abs(value).max(axis=tuple(range(value.ndim - 1))) / 127
    return [
        *constant(np.round(value / scale).astype(np.int8), name + "_q"),
        *constant(scale.astype(np.float32), name + "_scale"),
        node(
            "DequantizeLinear", [name + "_q", name + "_scale"], [name], axis=max(value.ndim - 1, 0)
        ),
    ]


PLACES = [
    *(constant, floats, sparse, transposed, reshaped, cast, brain, identity, chained),
    *(per_tensor, per_channel),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("moved", [["w1"], ["b1"], ["w2"], ["w1", "b1", "w2"]], ids="+".join)
def test_weights_are_found_wherever_they_live(
    place: Callable[[Array, str], list[NodeProto]], moved: list[str]
) -> None:
    model = perceptron()
    values = constants(model)
    for name in moved:
        made = [n for each in moved if each == name for n in place(values[name], name)]
        for i, each in enumerate(made):
            model.graph.node.insert(i, each)
        kept = [t for t in model.graph.initializer if t.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
    result = prune(model)
    (group,) = result.plan.groups
    assert (group.size, len(group.kept)) == (8, 4)
    rtol = 1e-2 if place in (per_channel, per_tensor) else 1e-5
    # Scales are no weights: removing a weight leaves them alone.
    leave = [name for name in result.plan.kept if name.endswith("_scale")]
    assert_same(masked(result.reference, result.plan.kept, leave), result.model, X, rtol)
    assert result.report.parameters_left == pytest.approx(0.5, abs=0.03)
    check(result.model)


def test_a_constant_node_is_called_by_its_output() -> None:
    model = perceptron()
    values = constants(model)
    del model.graph.initializer[:]
    for name, value in values.items():
        model.graph.node.insert(0, constant(value, name)[0])
    result = prune(model)
    assert set(result.plan.kept) == {"w1", "b1", "w2"}
    assert not result.model.graph.initializer
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in model.graph.node]
    exactly(result, X)


def test_scalars_may_be_in_any_attribute_of_a_constant() -> None:
    """value_int, value_float, value_ints, value_string and value_strings beside what is pruned."""
    model = make(
        [
            node("Constant", [], ["low"], value_float=0.0),
            node("Constant", [], ["which"], value_int=0),
            node("Constant", [], ["shape"], value_ints=[0, -1]),
            node("Constant", [], ["word"], value_string="idle"),
            node("Constant", [], ["words"], value_strings=["idle", "too"]),
            node("MatMul", ["x", "w1"], ["m"]),
            node("Clip", ["m", "low"], ["c"]),
            node("Unsqueeze", ["c", "one"], ["u"]),
            node("Gather", ["u", "which"], ["g"], axis=1),
            node("Reshape", ["g", "shape"], ["r"]),
            node("MatMul", ["r", "w2"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4), "one": np.array([1])},
    )
    result = prune(model)
    assert shapes(result.model)["w1"] == (6, 4)
    exactly(result, X)
    kinds = {
        a.name for n in result.model.graph.node if n.op_type == "Constant" for a in n.attribute
    }
    assert kinds == {"value_float", "value_int", "value_ints", "value_string", "value_strings"}


def test_a_per_channel_scale_and_zero_point_are_cut_with_their_weight() -> None:
    rng = np.random.default_rng(0)
    model = make(
        [
            node("DequantizeLinear", ["q", "scale", "point"], ["w"], axis=0),
            node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "w2"], ["y"], pads=[1] * 4),
        ],
        {"x": ["N", 3, 8, 8]},
        {"y": ["N", 4, 8, 8]},
        {
            "q": rng.integers(-120, 120, (8, 3, 3, 3)).astype(np.int8),
            "scale": rng.uniform(0.001, 0.01, 8).astype(np.float32),
            "point": rng.integers(-5, 5, 8).astype(np.int8),
            "b": weight("b", 8),
            "w2": weight("w2", 4, 8, 3, 3),
        },
    )
    result = prune(model)
    kept = result.plan.kept
    for name in ("scale", "point", "b"):
        np.testing.assert_array_equal(kept[name][0], kept["q"][0])
    assert [shapes(result.model)[n] for n in ("q", "scale", "point")] == [(4, 3, 3, 3), (4,), (4,)]
    # Nothing that follows reads the removed channels of w2's input, so w2 alone says it all.
    assert_same(masked(result.reference, {"w2": kept["w2"]}), result.model, IMAGE)


# -- shared tensors ------------------------------------------------------------------------------


def shared_bias(*, behind_identity: bool = False) -> ModelProto:
    """Three convolutions; the first two have nothing in common but a bias of equal values."""
    second = "conv2.bias" if behind_identity else "conv1.bias"
    nodes = [
        node("Conv", ["x", "conv1.weight", "conv1.bias"], ["a"], pads=[1] * 4),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "conv2.weight", second], ["c"], pads=[1] * 4),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "conv3.weight"], ["y"], pads=[1] * 4),
    ]
    if behind_identity:
        nodes.insert(0, node("Identity", ["conv1.bias"], ["conv2.bias"]))
    return make(
        nodes,
        {"x": ["N", 3, 8, 8]},
        {"y": ["N", 4, 8, 8]},
        {
            "conv1.weight": weight("conv1", 8, 3, 3, 3),
            "conv1.bias": weight("bias", 8),
            "conv2.weight": weight("conv2", 8, 8, 3, 3),
            "conv3.weight": weight("conv3", 4, 8, 3, 3),
        },
    )


@pytest.mark.parametrize("behind_identity", [False, True])
def test_a_shared_bias_is_split_and_each_use_is_cut_for_itself(behind_identity: bool) -> None:
    model = shared_bias(behind_identity=behind_identity)
    result = prune(model)
    first, second = result.plan.groups
    assert first.kept != second.kept
    exactly(result, IMAGE)
    # Neither use is broken by the cut of the other: each convolution has its own half.
    biases = [t for t in result.model.graph.initializer if "bias" in t.name]
    assert [list(t.dims) for t in biases] == [[4], [4]]
    original = constants(model)["conv1.bias"]
    reader = {n.input[1]: n.input[2] for n in result.model.graph.node if len(n.input) == 3}
    for group, layer in ((first, "conv1.weight"), (second, "conv2.weight")):
        np.testing.assert_array_equal(constants(result.model)[reader[layer]], original[group.kept])
    assert_same(model, result.reference, IMAGE, rtol=0)


def test_a_parameter_behind_an_identity_gets_its_own_name_back() -> None:
    """PyTorch writes an equal bias as an Identity; its output has the name of the parameter."""
    result = prune(shared_bias(behind_identity=True))
    assert {"conv1.bias", "conv2.bias"} <= set(result.plan.to_state_dict_slices())
    assert not any(n.op_type == "Identity" for n in result.reference.graph.node)
    assert result.plan.copies == {"conv2.bias": "conv1.bias"}


def test_a_shared_vector_that_loses_nothing_is_written_once() -> None:
    model = two_convs()
    model.graph.node.append(node("Conv", ["r", "w3", "b2"], ["z"], pads=[1] * 4))
    model.graph.initializer.append(numpy_helper.from_array(weight("w3", 4, 8, 3, 3), "w3"))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, ["N", 4, 8, 8]))
    result = prune(model)
    assert [t.name for t in result.model.graph.initializer] == ["w1", "b1", "w2", "b2", "w3"]
    exactly(result, IMAGE)


def test_a_shared_vector_that_is_an_output_keeps_its_name() -> None:
    model = shared_bias()
    model.graph.output.append(helper.make_tensor_value_info("conv1.bias", 1, [8]))
    result = prune(model)
    np.testing.assert_array_equal(run(result.model, IMAGE)[1], constants(model)["conv1.bias"])


def test_a_tied_matrix_stays_one_tensor() -> None:
    """The embedding is the head, transposed: one matrix, cut once, along its hidden axis."""
    model = make(
        [
            node("Gather", ["table", "ids"], ["e"]),
            node("MatMul", ["e", "up"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["r", "down"], ["d"]),
            node("Add", ["e", "d"], ["s"]),
            node("Transpose", ["table"], ["head"], perm=[1, 0]),
            node("MatMul", ["s", "head"], ["y"]),
        ],
        {"ids": ["N", "T"]},
        {"y": ["N", "T", 32]},
        {
            "table": weight("table", 32, 12),
            "up": weight("up", 12, 16),
            "down": weight("down", 16, 12),
        },
    )
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    result = prune(model)
    assert shapes(result.model) == {"table": (32, 6), "up": (6, 8), "down": (8, 6)}
    np.testing.assert_array_equal(result.plan.kept["table"][1], result.plan.kept["down"][1])
    exactly(result, {"ids": np.arange(10).reshape(2, 5)})


def test_a_convolution_used_at_several_scales_stays_one() -> None:
    model = two_convs()
    model.graph.node.append(node("MaxPool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2]))
    for i, op in enumerate((("Conv", "w1", "b1"), ("Relu",), ("Conv", "w2", "b2"))):
        source = ("half", "small0", "small1")[i]
        pads = {"pads": [1] * 4} if op[0] == "Conv" else {}
        model.graph.node.append(node(op[0], [source, *op[1:]], [f"small{i}"], **pads))
    model.graph.output.append(helper.make_tensor_value_info("small2", 1, ["N", 4, 4, 4]))
    result = prune(model)
    assert shapes(result.model)["w1"] == (4, 3, 3, 3)
    assert len([t for t in result.model.graph.initializer if t.dims[0:1] == [4]]) >= 3
    exactly(result, IMAGE)


# -- initializers that are inputs, sparse ones ---------------------------------------------------


def as_inputs(model: ModelProto) -> ModelProto:
    """Before IR 4, every initializer is listed as an input as well."""
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return model


@pytest.mark.parametrize(("ir", "opset"), [(3, 8), (3, 7), (10, 17)])
@pytest.mark.parametrize("shared", [False, True])
def test_initializers_may_be_graph_inputs(ir: int, opset: int, shared: bool) -> None:
    model = as_inputs(shared_bias() if shared else two_convs())
    model.ir_version, model.opset_import[0].version = ir, opset
    check(model)
    result = prune(model)
    check(result.model)
    assert (result.model.ir_version, result.model.opset_import[0].version) == (ir, opset)
    listed = {v.name: v.type.tensor_type for v in result.model.graph.input}
    for tensor in result.model.graph.initializer:
        assert tensor.name in listed
        assert [d.dim_value for d in listed[tensor.name].shape.dim] == list(tensor.dims)
    assert [
        i.name for i in ort.InferenceSession(result.model.SerializeToString()).get_inputs()
    ] == ["x"]
    assert_same(masked(result.reference, result.plan.kept), result.model, IMAGE)


def sparse_tensor(value: Array, name: str, *, flat: bool = True) -> onnx.SparseTensorProto:
    """Every third element is dropped, so that the dense form differs from a list of values."""
    at = np.flatnonzero(np.arange(value.size) % 3)
    where = at if flat else np.stack(np.unravel_index(at, value.shape), axis=1)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(value.ravel()[at], name),
        numpy_helper.from_array(where.astype(np.int64), name + "_at"),
        list(value.shape),
    )


@pytest.mark.parametrize("flat", [True, False], ids=["offsets", "coordinates"])
def test_sparse_initializers_are_cut_like_others(flat: bool) -> None:
    model = perceptron()
    values = constants(model)
    del model.graph.initializer[:]
    for name, value in values.items():
        model.graph.sparse_initializer.append(sparse_tensor(value, name, flat=flat))
    before = run(model, X)[0]
    result = prune(model)
    np.testing.assert_array_equal(run(result.reference, X)[0], before)
    assert shapes(result.model) == {"w1": (6, 4), "b1": (4,), "w2": (4, 4)}
    exactly(result, X)


# -- external data -------------------------------------------------------------------------------


def save_external(model: ModelProto, path: Path, *, location: str = "w.bin", **how: Any) -> Path:
    copy = ModelProto()
    copy.CopyFrom(model)
    onnx.save_model(
        copy, path, save_as_external_data=True, location=location, size_threshold=0, **how
    )
    return path


def wide() -> ModelProto:
    """Weights large enough (above a kilobyte) that they leave the file when they are cut."""
    return two_convs(64)


def test_external_weights_stay_external(tmp_path: Path) -> None:
    path = save_external(wide(), tmp_path / "model.onnx")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    output = tmp_path / "pruned.onnx"
    result = prune(path)
    result.save(output)
    assert {p.name for p in tmp_path.iterdir()} == {
        *("model.onnx", "w.bin", "pruned.onnx", "pruned.onnx.data")
    }
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())
    onnx.checker.check_model(str(output), full_check=True)
    written = onnx.load(output, load_external_data=False)
    far = {t.name for t in written.graph.initializer if t.external_data}
    assert {"w1", "w2"} <= far
    assert output.stat().st_size < 2048
    assert_same(str(output), result.model, IMAGE, rtol=0)
    assert shapes(onnx.load(output))["w1"] == (32, 3, 3, 3)
    exactly(result, IMAGE)


def test_inline_weights_stay_inline(tmp_path: Path) -> None:
    onnx.save(wide(), tmp_path / "model.onnx")
    prune(tmp_path / "model.onnx").save(tmp_path / "pruned.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "pruned.onnx"}


def test_external_weights_in_folders_below_and_in_several_files(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    path = save_external(
        wide(), tmp_path / "model.onnx", location="", all_tensors_to_one_file=False
    )
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        (tmp_path / tensor.name).rename(tmp_path / "weights" / tensor.name)
        del tensor.external_data[:]
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", f"weights/{tensor.name}"
    onnx.save(model, path)
    result = prune(path)
    other = tmp_path / "elsewhere"
    other.mkdir()
    result.save(other / "pruned.onnx")
    assert {p.name for p in other.iterdir()} == {"pruned.onnx", "pruned.onnx.data"}
    assert_same(str(other / "pruned.onnx"), result.model, IMAGE, rtol=0)


def test_a_relative_path_and_a_working_directory_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "cwd").mkdir()
    save_external(wide(), tmp_path / "models" / "model.onnx")
    monkeypatch.chdir(tmp_path / "cwd")
    result = prune("../models/model.onnx")
    result.save("pruned.onnx")
    assert {p.name for p in Path().iterdir()} == {"pruned.onnx", "pruned.onnx.data"}
    assert_same("pruned.onnx", result.model, IMAGE, rtol=0)
    monkeypatch.chdir(tmp_path / "models")
    assert_same(prune("model.onnx").model, result.model, IMAGE, rtol=0)


def test_a_model_in_memory_finds_its_external_data_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_external(wide(), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    result = prune(proto)
    assert all(t.HasField("raw_data") for t in result.model.graph.initializer)
    exactly(result, IMAGE)


def test_external_tensors_of_constant_nodes(tmp_path: Path) -> None:
    model = wide()
    values = constants(model)
    del model.graph.initializer[:]
    for name, value in values.items():
        model.graph.node.insert(0, constant(value, name)[0])
        model.graph.node[0].attribute[0].t.name = name
    path = save_external(model, tmp_path / "model.onnx", convert_attribute=True)
    assert (tmp_path / "w.bin").exists()
    result = prune(path)
    result.save(tmp_path / "pruned.onnx")
    exactly(result, IMAGE)
    assert_same(str(tmp_path / "pruned.onnx"), result.model, IMAGE, rtol=0)


def test_permute_brings_external_weights_in(tmp_path: Path) -> None:
    path = save_external(wide(), tmp_path / "model.onnx")
    twin = onnxprune.permute(path)
    assert_same(wide(), twin, IMAGE)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "gone.bin"}, "is missing"),
        ({"location": "w.bin", "offset": "999999"}, "does not hold"),
        ({"location": "w.bin", "offset": "-1"}, "does not hold"),
        ({"location": "w.bin", "offset": "many"}, "does not hold"),
        ({"location": "w.bin", "length": "3"}, "does not hold"),
        ({"location": "/etc/passwd"}, "leaves the model's folder"),
        ({"location": "../model.onnx"}, "leaves the model's folder"),
        ({"location": "link/passwd"}, "leaves the model's folder"),
        ({"location": ""}, "leaves the model's folder"),
        ({}, "leaves the model's folder"),
    ],
)
def test_external_data_that_is_not_there_or_not_allowed(
    tmp_path: Path, entries: dict[str, str], words: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc")
    path = save_external(wide(), tmp_path / "in" / "model.onnx")
    model = onnx.load(path, load_external_data=False)
    del model.graph.initializer[0].external_data[:]
    for key, value in entries.items():
        entry = model.graph.initializer[0].external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BrokenModel, match=words) as caught:
        onnxprune.prune(path)
    assert "'w1'" in str(caught.value)


# -- functions, bodies, order --------------------------------------------------------------------


def test_local_functions_are_inlined() -> None:
    layer = helper.make_function(
        "own",
        "Layer",
        ["x", "w"],
        ["y"],
        [node("MatMul", ["x", "w"], ["t"]), node("Relu", ["t"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    model = make(
        [
            node("Layer", ["x", "w1"], ["a"], domain="own", name="one"),
            node("Layer", ["a", "w2"], ["b"], domain="own", name="two"),
            node("MatMul", ["b", "w3"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 8), "w3": weight("w3", 8, 4)},
        functions=[layer],
        domains={"own": 1},
    )
    result = prune(model)
    assert not result.model.functions and not result.reference.functions
    assert shapes(result.model) == {"w1": (6, 4), "w2": (4, 4), "w3": (4, 4)}
    assert_same(model, result.reference, X, rtol=0)
    exactly(result, X)


def test_names_in_bodies_may_clash() -> None:
    """Both branches, and the graph itself, have a tensor `t` and a weight `w` of their own."""

    def branch(scale: float) -> onnx.GraphProto:
        return helper.make_graph(
            [node("MatMul", ["r", "w"], ["t"]), node("Relu", ["t"], ["out"])],
            "branch",
            [],
            [helper.make_tensor_value_info("out", 1, ["N", 4])],
            [numpy_helper.from_array(weight("w", 8, 4) * np.float32(scale), "w")],
        )

    model = make(
        [
            node("MatMul", ["x", "w1"], ["t0"]),
            node("Relu", ["t0"], ["r"]),
            node("ReduceSum", ["x"], ["sum"], keepdims=0),
            node("Greater", ["sum", "zero"], ["c"]),
            node("If", ["c"], ["y"], then_branch=branch(1), else_branch=branch(-2)),
            node("MatMul", ["r", "w2"], ["z"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4], "z": ["N", 4]},
        {
            "w1": weight("w1", 6, 8),
            "w2": weight("w2", 8, 4),
            "zero": np.zeros((), np.float32),
        },
    )
    assert_same(model, onnxprune.permute(model), X)
    result = prune(model)
    assert_same(model, result.reference, X, rtol=0)
    # The branches are followed, too: their weights have lost the channels that they don't get.
    assert sorted(shapes(result.model).values()) == [(), (4, 4), (4, 4), (4, 4), (6, 4)]
    check(result.model)


def test_an_outer_name_that_a_body_hides_is_told_apart() -> None:
    """The body's own `w` is not the graph's `w`, which the second layer reads."""
    inner = helper.make_graph(
        [node("Add", ["x", "w"], ["out"])],
        "body",
        [],
        [helper.make_tensor_value_info("out", 1, ["N", 6])],
        [numpy_helper.from_array(weight("inner", 6), "w")],
    )
    model = perceptron()
    for tensor in model.graph.initializer:
        tensor.name = "w" if tensor.name == "b1" else tensor.name
    model.graph.node[1].input[1] = "w"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.insert(0, node("If", ["yes"], ["i"], then_branch=inner, else_branch=inner))
    model.graph.node[1].input[0] = "i"
    model.ir_version = 10
    result = prune(model)
    assert result.plan.kept["w"][0].size == 4
    assert_same(model, result.reference, X, rtol=0)
    exactly(result, X)


def test_nodes_in_any_order() -> None:
    model = perceptron()
    nodes = list(model.graph.node)
    model.graph.ClearField("node")
    model.graph.node.extend(reversed(nodes))
    result = prune(model)
    assert [n.name for n in result.model.graph.node] == [n.name for n in nodes]
    exactly(result, X)


def test_a_cycle_is_named() -> None:
    model = perceptron()
    model.graph.node[0].input[0] = "r"
    with pytest.raises(BrokenModel, match="'first' is part of a cycle"):
        onnxprune.prune(model)


def test_a_blocked_layout_is_refused_with_what_to_do() -> None:
    model = two_convs(domains={"com.microsoft.nchwc": 1})
    model.graph.node[0].domain = "com.microsoft.nchwc"
    with pytest.raises(UnsupportedModel, match=r"'conv1'.*without layout optimisation"):
        onnxprune.prune(model)


# -- dynamic dims --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["N", None], ids=["named", "unnamed"])
def test_dynamic_dims_stay_dynamic(batch: str | None) -> None:
    """The channel count stands hard-coded in the chain that computes a Reshape's target."""
    model = make(
        [
            node("Conv", ["x", "w1", "b1"], ["c"], pads=[1] * 4),
            node("Relu", ["c"], ["r"]),
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "zero"], ["n"]),
            node("Gather", ["shape", "two"], ["h"]),
            node("Unsqueeze", ["n", "first"], ["n1"]),
            node("Unsqueeze", ["h", "first"], ["h1"]),
            node("Concat", ["n1", "channels", "h1", "rest"], ["target"], axis=0),
            node("Reshape", ["r", "target"], ["p"]),
            node("Conv", ["p", "w2"], ["y"], pads=[1] * 4),
        ],
        {"x": [batch, 3, None, 8]},
        {"y": [batch, 4, None, 8]},
        {
            "w1": weight("w1", 8, 3, 3, 3),
            "b1": weight("b1", 8),
            "w2": weight("w2", 4, 8, 3, 3),
            "zero": np.array(0),
            "two": np.array(2),
            "first": np.array([0]),
            "channels": np.array([8]),
            "rest": np.array([-1]),
        },
    )
    result = prune(model)
    assert shapes(result.model)["w1"] == (4, 3, 3, 3)
    for a, b in zip(
        [*model.graph.input, *model.graph.output],
        [*result.model.graph.input, *result.model.graph.output],
        strict=True,
    ):
        assert a == b
    kept = {name: axes for name, axes in result.plan.kept.items() if name.startswith(("w", "b"))}
    for n, h in ((1, 8), (3, 8), (2, 5)):
        feeds = {"x": weight("image", n, 3, h, 8)}
        assert_same(masked(result.reference, kept), result.model, feeds)


def test_a_size_read_from_a_pruned_axis_follows_or_is_frozen() -> None:
    """Shape of a hidden tensor: its channel count is a Reshape's target, and divides the data."""
    model = make(
        [
            node("MatMul", ["x", "w1"], ["m"]),
            node("Relu", ["m"], ["r"]),
            node("Shape", ["r"], ["shape"]),
            node("Gather", ["shape", "minus"], ["c"]),
            node("Cast", ["c"], ["cf"], to=TensorProto.FLOAT),
            node("Sqrt", ["cf"], ["root"]),
            node("Div", ["r", "root"], ["d"]),
            node("Reshape", ["d", "shape"], ["s"]),
            node("MatMul", ["s", "w2"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4), "minus": np.array(-1)},
    )
    result = prune(model)
    assert shapes(result.model)["w1"] == (6, 4)
    exactly(result, X)
    exactly(result, {"x": weight("more", 7, 6)})


# -- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "code", "rtol"),
    [(np.float16, TensorProto.FLOAT16, 1e-2), (np.float64, TensorProto.DOUBLE, 1e-12)],
)
def test_weights_keep_their_type(dtype: Any, code: int, rtol: float) -> None:
    model = perceptron(dtype=code)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    result = prune(model)
    assert {t.data_type for t in result.model.graph.initializer} == {code}
    for name, value in constants(result.model).items():
        expected = take(constants(model)[name], result.plan.kept[name])
        np.testing.assert_array_equal(value, expected)
    exactly(result, {"x": X["x"].astype(dtype)}, rtol)


def test_bfloat16_weights_keep_their_type() -> None:
    model = perceptron()
    values = constants(model)
    del model.graph.initializer[:]
    for i, (name, value) in enumerate(values.items()):
        tensor = numpy_helper.from_array(value.astype(ml_dtypes.bfloat16), name + "_16")
        model.graph.initializer.append(tensor)
        model.graph.node.insert(i, node("Cast", [name + "_16"], [name], to=TensorProto.FLOAT))
    result = prune(model)
    assert {t.data_type for t in result.model.graph.initializer} == {TensorProto.BFLOAT16}
    exactly(result, X)


def test_weights_may_be_in_typed_fields_instead_of_bytes() -> None:
    """`float_data` and `int32_data` (which holds float16 as bit patterns) are read as well."""
    model = perceptron()
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, 1, value.shape, value.ravel().tolist()))
        assert not tensor.raw_data
    exactly(prune(model), X)


@pytest.mark.parametrize("field", ["float_data", "raw_data"])
def test_a_tensor_with_too_few_values_is_broken(field: str) -> None:
    model = perceptron()
    tensor = model.graph.initializer[0]
    if field == "raw_data":
        tensor.raw_data = tensor.raw_data[:-4]
    else:
        value = numpy_helper.to_array(tensor).ravel().tolist()
        tensor.ClearField("raw_data")
        tensor.float_data.extend(value[:-1])
    with pytest.raises(BrokenModel, match="'w1'"):
        onnxprune.prune(model)


# -- what is none of pruning's business ----------------------------------------------------------


def annotated() -> ModelProto:
    model = two_convs()
    model.producer_name, model.producer_version = "some exporter", "1.2"
    model.domain, model.model_version, model.doc_string = "org.example", 7, "a model"
    graph = model.graph
    graph.name, graph.doc_string = "net", "a graph"
    for owner, key in ((model, "model"), (graph, "graph"), (graph.node[1], "relu")):
        entry = owner.metadata_props.add()
        entry.key, entry.value = "of", key
    graph.node[0].doc_string = "the first layer"
    tensor = graph.initializer[0]
    tensor.doc_string = "its weight"
    entry = tensor.metadata_props.add()
    entry.key, entry.value = "of", "w1"
    info = helper.make_tensor_value_info("r", 1, ["N", 8, 8, 8])
    info.doc_string = "hidden"
    graph.value_info.append(info)
    graph.input[0].doc_string, graph.output[0].doc_string = "the image", "the result"
    annotation = graph.quantization_annotation.add()
    annotation.tensor_name = "r"
    entry = annotation.quant_parameter_tensor_names.add()
    entry.key, entry.value = "SCALE_TENSOR", "idle"
    graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "idle"))
    graph.initializer.append(numpy_helper.from_array(weight("idle", 3, 3), "idle too"))
    model.opset_import.append(helper.make_opsetid("org.example", 3))
    return model


@pytest.mark.parametrize("from_file", [False, True])
def test_everything_else_is_still_there(tmp_path: Path, from_file: bool) -> None:
    model = annotated()
    if from_file:
        onnx.save(model, tmp_path / "model.onnx")
        prune(tmp_path / "model.onnx").save(tmp_path / "pruned.onnx")
        pruned = onnx.load(tmp_path / "pruned.onnx")
    else:
        pruned = prune(model).model
    expected = ModelProto()
    expected.CopyFrom(model)
    # The weights are smaller, and so is one declared shape. All else is equal.
    for a, b in zip(expected.graph.initializer, pruned.graph.initializer, strict=True):
        if a.dims != b.dims:
            del a.dims[:]
            a.dims.extend(b.dims)
            a.raw_data = b.raw_data
    expected.graph.value_info[0].type.tensor_type.shape.dim[1].dim_value = 4
    added = [entry for entry in pruned.metadata_props if entry.key.startswith("onnxprune.")]
    assert added and not any(e.key.startswith("onnxprune.") for e in expected.metadata_props)
    expected.metadata_props.extend(added)
    assert pruned == expected


def test_declared_shapes_inside_the_model_follow_or_stay_true() -> None:
    model = onnx.shape_inference.infer_shapes(two_convs())
    pruned = prune(model).model
    inner = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in pruned.graph.value_info
    }
    assert inner == {"c": [0, 4, 8, 8], "r": [0, 4, 8, 8]}
    check(pruned)


def test_a_model_in_memory_is_not_changed() -> None:
    model = shared_bias(behind_identity=True)
    before = model.SerializeToString(deterministic=True)
    prune(model)
    onnxprune.plan(model)
    onnxprune.permute(model)
    onnxprune.inspect(model)
    onnxprune.compare(model, model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_result_s_models_are_the_caller_s_own() -> None:
    result = prune(two_convs())
    bytes_before = result.model.SerializeToString(deterministic=True)
    result.reference.graph.ClearField("node")
    assert result.reference.graph.node
    assert result.model.SerializeToString(deterministic=True) == bytes_before


def test_a_graphsurgeon_graph_and_paths_of_both_kinds(tmp_path: Path) -> None:
    model = two_convs()
    expected = prune(model)
    graph = gs.import_onnx(model)
    nodes = len(graph.nodes)
    from_graph = prune(graph)
    assert len(graph.nodes) == nodes
    assert from_graph.plan.groups == expected.plan.groups
    assert_same(expected.model, from_graph.model, IMAGE, rtol=0)
    onnx.save(model, tmp_path / "model.onnx")
    for path in (tmp_path / "model.onnx", str(tmp_path / "model.onnx")):
        assert prune(path).plan.groups == expected.plan.groups


@pytest.mark.parametrize("thing", [None, 3, b"bytes", {"a": 1}])
def test_anything_else_is_a_usage_error(thing: Any) -> None:
    with pytest.raises(UsageError, match=type(thing).__name__):
        load(thing)
