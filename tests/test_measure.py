"""Counts against arithmetic done by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.errors import UsageError
from onnxprune.measure import Size, count
from onnxprune.runtime import find_inputs
from onnxprune.shape_inference import infer_shapes
from tests.conftest import corpus_models

F, I64 = TensorProto.FLOAT, TensorProto.INT64
Dims = list[int | str]
MS = "com.microsoft"
node = helper.make_node


def model(
    nodes: list[NodeProto], inputs: dict[str, Dims], *outputs: str, **weights: np.ndarray
) -> ModelProto:
    """Outputs are declared without shapes: whatever is counted has been inferred."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, F, dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info(name, F, None) for name in outputs or ("y",)],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def w(*dims: int, dtype: type = np.float32) -> np.ndarray:
    return np.ones(dims, dtype)


ARITHMETIC = [
    pytest.param(
        model(
            [node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4, strides=[2, 2])],
            {"x": ["n", 3, 8, 8]},
            w=w(16, 3, 3, 3),
            b=w(16),
        ),
        (16 * 4 * 4) * (3 * 9),
        16 * 27 + 16,
        id="conv",
    ),
    pytest.param(
        model(
            [node("Conv", ["x", "w"], ["y"], group=4)], {"x": [1, 8, 5, 5]}, w=w(12, 2, 3, 3)
        ),
        (12 * 3 * 3) * (2 * 9),
        12 * 2 * 9,
        id="grouped conv",
    ),
    pytest.param(
        model(
            [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
            {"x": [1, 6, 4, 4]},
            w=w(6, 5, 2, 2),
        ),
        (6 * 4 * 4) * (5 * 4),
        6 * 5 * 4,
        id="transposed conv",
    ),
    pytest.param(
        model([node("Gemm", ["x", "w", "b"], ["y"], transB=1)], {"x": [2, 7]}, w=w(5, 7), b=w(5)),
        2 * 7 * 5,
        40,
        id="gemm",
    ),
    pytest.param(
        model([node("Gemm", ["x", "w"], ["y"], transA=1)], {"x": [7, 2]}, w=w(7, 5)),
        2 * 7 * 5,
        35,
        id="gemm, transposed input",
    ),
    pytest.param(
        model([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 3, 4]}, w=w(4, 5)),
        2 * 3 * 4 * 5,
        20,
        id="matmul",
    ),
    pytest.param(
        model([node("MatMul", ["x", "k"], ["y"])], {"x": [2, 3, 4, 8], "k": [2, 3, 8, 6]}),
        2 * 3 * 4 * 6 * 8,
        0,
        id="scores",
    ),
    pytest.param(
        model(
            [node("Einsum", ["x", "w"], ["y"], equation="bsd,dhk->bhsk")],
            {"x": [2, 3, 4]},
            w=w(4, 5, 6),
        ),
        2 * 3 * 4 * 5 * 6,
        120,
        id="einsum",
    ),
    pytest.param(
        model(
            [node("Einsum", ["x", "k"], ["y"], equation="...i,...i")], {"x": [2, 3], "k": [2, 3]}
        ),
        6,
        0,
        id="einsum, ellipsis and no arrow",
    ),
    pytest.param(
        model([node("Einsum", ["x", "k"], ["y"], equation="i,j->ij")], {"x": [2], "k": [3]}),
        0,
        0,
        id="einsum that contracts nothing",
    ),
    *(
        pytest.param(
            model(
                [node(op, ["x", "w", "r"], ["y"], hidden_size=6)],
                {"x": [5, 2, 3]},
                w=w(1, gates * 6, 3),
                r=w(1, gates * 6, 6),
            ),
            5 * 2 * gates * 6 * (3 + 6),
            gates * 6 * 9,
            id=op,
        )
        for op, gates in [("LSTM", 4), ("GRU", 3), ("RNN", 1)]
    ),
    pytest.param(
        model(
            [
                node("FusedConv", ["x", "w"], ["h"], domain="com.microsoft", activation="Relu"),
                node("Conv", ["h", "v"], ["y"]),
            ],
            {"x": [1, 3, 6, 6]},
            w=w(4, 3, 3, 3),
            v=w(2, 4, 1, 1),
        ),
        4 * 16 * 27 + 2 * 16 * 4,
        4 * 27 + 8,
        id="fused conv",
    ),
    pytest.param(
        model(
            [
                node("FusedGemm", ["x", "w"], ["h"], domain="com.microsoft", activation="Relu"),
                node("FusedMatMul", ["h", "v"], ["z"], domain="com.microsoft", transB=1),
                node("FastGelu", ["z"], ["g"], domain="com.microsoft"),
                node("FusedMatMul", ["g", "v"], ["y"], domain="com.microsoft"),
            ],
            {"x": [2, 3]},
            w=w(3, 4),
            v=w(5, 4),
        ),
        2 * 3 * 4 + 2 * 4 * 5 + 2 * 5 * 4,
        12 + 20,
        id="fused gemm and matmul",
    ),
    pytest.param(
        model(
            [
                node("Attention", ["x", "w", "b"], ["a"], domain="com.microsoft", num_heads=2),
                node("MatMul", ["a", "o"], ["y"]),
            ],
            {"x": [1, 5, 8]},
            w=w(8, 12),  # pruned: 3 × 4 from a stream of 8
            b=w(12),
            o=w(4, 8),
        ),
        5 * 8 * 12 + 2 * 5 * 5 * 4 + 5 * 4 * 8,
        8 * 12 + 12 + 32,
        id="ORT's attention",
    ),
    pytest.param(
        model(
            [node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain=MS, num_heads=2)],
            {"q": [1, 5, 8], "k": [1, 7, 8], "v": [1, 7, 8]},
        ),
        2 * 5 * 7 * 8,
        0,
        id="ORT's multi-head attention",
    ),
    pytest.param(
        model(
            [node("GroupQueryAttention", ["q", "k", "v", "", "", "n", "t"], ["y"], domain=MS,
                  num_heads=4, kv_num_heads=2)],
            {"q": [1, 5, 8], "k": [1, 5, 4], "v": [1, 5, 4], "n": [1], "t": []},
        ),
        2 * 5 * 5 * 8,
        0,
        id="ORT's grouped-query attention",
    ),
    pytest.param(
        model(
            [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"])],
            {"x": ["n", 2, 3]},
            w=w(6, 400),
        ),
        6 * 400,  # a weight too large to be kept for shape inference
        2400,
        id="large weight",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("m", "macs", "parameters"), ARITHMETIC)
def test_counts_are_those_of_the_arithmetic(m: ModelProto, macs: int, parameters: int) -> None:
    assert count(m) == Size(parameters, macs, m.ByteSize(), [])


def test_dynamic_dims_are_one_or_as_given() -> None:
    m = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["b", "s", 4]}, w=w(4, 5))
    assert count(m).macs == 20
    assert count(m, {"x": [2, 3, 4]}).macs == 120
    with pytest.raises(UsageError):
        count(m, {"x": [2, 3, 5]})


def test_parameters_are_floats_wherever_they_live_and_no_shapes() -> None:
    inner = helper.make_graph(
        [
            node("Constant", [], ["c"], value=numpy_helper.from_array(w(4))),
            node("Add", ["x", "c"], ["t"]),
        ],
        "t", [], [helper.make_tensor_value_info("t", F, [4])],
    )  # fmt: skip
    other = helper.make_graph(
        [node("Identity", ["x"], ["e"])], "e", [], [helper.make_tensor_value_info("e", F, [4])]
    )
    m = model(
        [
            node("Constant", [], ["two"], value_floats=[1.0, 2.0]),
            node("Constant", [], ["shape"], value_ints=[4]),
            node("Reshape", ["x0", "shape"], ["x"]),
            node("If", ["flag"], ["y"], then_branch=inner, else_branch=other),
        ],
        {"x0": [2, 2]},
        flag=np.array(True),
        scalar=np.array(1.0, np.float32),
        half=w(3, 3, dtype=np.float16),
        table=w(7, dtype=np.int64),
    )
    assert count(m).parameters == 4 + 2 + 9


def test_quantised_weights_are_parameters_and_zero_points_are_none() -> None:
    m = model(
        [
            node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
            node("MatMul", ["x", "w"], ["y"]),
        ],
        {"x": [1, 4]},
        q=w(4, 5, dtype=np.int8),
        s=np.array(0.1, np.float32),
        z=np.array(0, np.int8),
    )
    size = count(m)
    assert (size.parameters, size.macs) == (20, 20)


def test_a_conv_of_integers() -> None:
    m = model(
        [node("ConvInteger", ["x", "w"], ["y"])],
        {"x": [1, 2, 4, 4]},
        w=w(3, 2, 3, 3, dtype=np.uint8),
    )
    for v in m.graph.input:
        v.type.tensor_type.elem_type = TensorProto.UINT8
    m.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    assert count(m).macs == 3 * 2 * 2 * 18


def test_what_can_not_be_counted_is_listed() -> None:
    m = model(
        [node("NonZero", ["x"], ["i"]), node("Cast", ["i"], ["f"], to=F),
         node("MatMul", ["w", "f"], ["y"], name="after")],
        {"x": [2, 3]}, w=w(4, 2),
    )  # fmt: skip
    assert count(m).uncounted == ["MatMul after"]
    assert count(m).macs is None


def test_shape_arithmetic_is_followed_where_inference_stops() -> None:
    # Half the channels padded on each side, as exporters write it: through ConstantOfShape.
    zero = numpy_helper.from_array(np.zeros(1, np.int64))
    nodes = [
        node("ConstantOfShape", ["four"], ["zeros"], value=zero),
        node("Concat", ["pads", "zeros"], ["all"], axis=0),
        node("Reshape", ["all", "pairs"], ["table"]),
        node("Slice", ["table", "last", "before", "first", "back"], ["turned"]),
        node("Transpose", ["turned"], ["across"], perm=[1, 0]),
        node("Reshape", ["across", "flat"], ["widths"]),
        node("Pad", ["x", "widths"], ["wide"]),
        node("Conv", ["wide", "w"], ["y"]),
    ]  # fmt: skip
    ints = {
        "four": [4], "pads": [0, 0, 0, 0], "pairs": [-1, 2], "last": [-1], "before": [-9],
        "first": [0], "back": [-1], "flat": [-1],
    }  # fmt: skip
    m = model(
        nodes, {"x": [1, 4, 3, 3]}, w=w(2, 4, 1, 1), **{k: np.array(v) for k, v in ints.items()}
    )
    assert count(m).macs == 2 * 9 * 4


def layers_that_wait(count: int) -> ModelProto:
    """In each layer, a Reshape to a size that inference does not compute, of the one before."""
    nodes, x = [], "x"
    for i in range(count):
        nodes += [
            node("Shape", [x], [f"s{i}"]),
            node("Div", [f"s{i}", "one"], [f"d{i}"]),
            node("Reshape", [x, f"d{i}"], [f"r{i}"]),
            node("MatMul", [f"r{i}", "w"], [f"h{i}"], name=f"layer{i}"),
        ]
        x = f"h{i}"
    nodes.append(node("Relu", [x], ["y"]))
    return model(nodes, {"x": ["n", 4]}, w=w(4, 4), one=np.array([1]))


def test_shapes_of_many_layers_that_wait_for_each_other() -> None:
    deep = layers_that_wait(150)
    assert count(deep, {"x": [3, 4]}).macs == 150 * 3 * 16


def test_layers_that_wait_for_each_other_are_looked_at_a_few_times_each(monkeypatch) -> None:
    seen = []

    def counted(given: ModelProto) -> ModelProto:
        seen.append(len(given.graph.node))
        return infer_shapes(given)

    monkeypatch.setattr("onnxprune.shapes.infer_shapes", counted)
    costs = []
    for layers in (100, 200, 400):
        seen.clear()
        count(layers_that_wait(layers))
        costs.append(sum(seen))
    assert costs[2] < 2.2 * costs[1] < 5 * costs[0]


def test_siblings_may_use_one_name_for_two_shapes() -> None:
    def branch(width: int) -> onnx.GraphProto:
        return helper.make_graph(
            [node("MatMul", ["x", "w"], ["h"]), node("ReduceSum", ["h"], ["r"], keepdims=0)],
            "b", [], [helper.make_tensor_value_info("r", F, [])],
            [numpy_helper.from_array(w(4, width), "w")],
        )  # fmt: skip

    m = model(
        [node("If", ["c"], ["y"], then_branch=branch(3), else_branch=branch(5))],
        {"x": [1, 4]},
        c=np.array(True),
    )
    assert count(m).macs == 4 * 3 + 4 * 5


def test_local_functions_are_looked_into() -> None:
    m = model([node("F", ["x", "w"], ["y"], domain="own")], {"x": [2, 4]}, w=w(4, 5))
    body = [node("MatMul", ["a", "b"], ["c"])]
    opset = helper.make_opsetid("", 17)
    m.functions.append(helper.make_function("own", "F", ["a", "b"], ["c"], body, [opset]))
    m.opset_import.append(helper.make_opsetid("own", 1))
    assert count(m).macs == 2 * 4 * 5


def test_bytes_include_external_data(tmp_path: Path) -> None:
    m = model([node("MatMul", ["x", "w"], ["y"])], {"x": [1, 40]}, w=w(40, 50))
    path = tmp_path / "m.onnx"
    onnx.save(m, path, save_as_external_data=True, location="m.data", size_threshold=0)
    size = count(path)
    assert size.bytes == path.stat().st_size + (tmp_path / "m.data").stat().st_size
    assert (size.parameters, size.macs) == (2000, 2000)
    bare = onnx.load(path, load_external_data=False)
    assert count(bare).bytes == size.bytes


@pytest.mark.parametrize("path", corpus_models())
def test_every_real_model_is_counted(path: Path) -> None:
    if path.stem == "sr_espcn_subpixel_qonnx":
        assert count(path).uncounted  # its weights pass an operator of an unknown domain
        return
    size = count(path, find_inputs(path).shapes)
    assert size.uncounted == []
    assert size.macs is not None
    assert size.macs > 0
    assert size.parameters > 0
    assert size.bytes >= path.stat().st_size
