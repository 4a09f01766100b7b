"""What exporters write: patterns met in the zoo, each on the smallest model that has it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

import onnxprune
from onnxprune.axes import leaves
from onnxprune.errors import NotPrunable
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.runtime import run, session
from onnxprune.strides import Count, count_of
from onnxprune.tables import built_in

from .graphs import make, weight

node = helper.make_node


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def sizes(tensor: str, *wanted: str | int) -> list[NodeProto]:
    """Nodes that compute the shape `{tensor}_shape` from numbers and products like `0*1*2`."""
    nodes = [node("Shape", [tensor], [f"{tensor}_sizes"])]
    for i, each in enumerate(wanted):
        factors = str(each).split("*") if isinstance(each, str) else []
        name = f"{tensor}_{i}"
        if not factors:
            nodes.append(node("Constant", [], [name], value_ints=[each]))
        for k, axis in enumerate(factors):
            part = f"{name}_{k}"
            nodes.append(node("Constant", [], [f"{part}_at"], value_ints=[int(axis)]))
            out = part if k or len(factors) > 1 else name
            nodes.append(node("Gather", [f"{tensor}_sizes", f"{part}_at"], [out], axis=0))
        if len(factors) == 2:
            nodes.append(node("Mul", [f"{name}_0", f"{name}_1"], [name]))
    parts = [f"{tensor}_{i}" for i in range(len(wanted))]
    return [*nodes, node("Concat", parts, [f"{tensor}_shape"], axis=0)]


def kept(model: ModelProto) -> dict[str, tuple[int, int]]:
    """Prune by half, with both certificates: what is left of each group."""
    report = onnxprune.prune(model, benchmark=False).report
    assert report.certificate is not None and report.certificate.ok and report.certificate.proves
    return {group.name: (group.size, group.kept) for group in report.groups}


def normalised_heads() -> ModelProto:
    """Batch and heads merged to one axis, of a size computed at run time; norms expanded to it."""
    return make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Reshape", ["h", "split"], ["four"]),
            node("Transpose", ["four"], ["t"], perm=[0, 2, 1, 3]),
            *sizes("t", "0*1", "2", 3),
            node("Reshape", ["t", "t_shape"], ["merged"]),
            *sizes("merged", "0", "1", 3),
            node("ReduceL2", ["merged"], ["norm"], axes=[-1], keepdims=1),
            node("Expand", ["norm", "merged_shape"], ["norms"]),
            node("Div", ["merged", "norms"], ["unit"]),
            node("Reshape", ["unit", "apart"], ["u"]),
            node("Transpose", ["u"], ["v"], perm=[0, 2, 1, 3]),
            node("Reshape", ["v", "together"], ["flat"]),
            node("MatMul", ["flat", "w2"], ["y"]),
        ],
        {"x": ["N", 5, 6]},
        {"y": ["N", 5, 4]},
        {
            **{"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4), "split": ints(0, 0, 4, 3)},
            **{"apart": ints(-1, 4, 5, 3), "together": ints(0, 0, -1)},
        },
    )


def rest_of_merged() -> ModelProto:
    """`[n, a*b, -1, 3]`: what -1 stands for does not depend on the sizes of the run time."""
    return make(
        [
            node("Reshape", ["x", "rows"], ["r"]),
            node("MatMul", ["r", "w1"], ["h"]),
            *sizes("r", "0", "1", -1, 3),
            node("Reshape", ["h", "r_shape"], ["heads"]),
            node("Softmax", ["heads"], ["p"], axis=1),
            *sizes("heads", "0", "1", -1),
            node("Reshape", ["p", "heads_shape"], ["flat"]),
            node("MatMul", ["flat", "w2"], ["y"]),
        ],
        {"x": ["N", "A", "B", 6]},
        {"y": ["N", "S", 4]},
        {"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4), "rows": ints(0, -1, 6)},
    )


def strided_view(batch: int | str = "N") -> ModelProto:
    """PyTorch's as_strided: a Gather from the flat tensor, at a Range for each axis."""
    weights = {
        **{"w1": weight("w1", 8, 3, 1, 1), "w2": weight("w2", 8, 4), "all": ints(-1)},
        **{"zero": np.int64(0), "one": np.int64(1), "eight": np.int64(8)},
        **{"first": ints(0), "behind": ints(1), "empty": np.zeros((1, 1), np.int64)},
        "channels": np.arange(8, dtype=np.int64)[None],
    }
    return make(
        [
            node("Conv", ["x", "w1"], ["c"]),
            node("GlobalAveragePool", ["c"], ["pooled"]),
            node("Reshape", ["pooled", "all"], ["flat"]),
            node("Shape", ["x"], ["sizes"]),
            node("Gather", ["sizes", "zero"], ["n"]),
            node("Range", ["zero", "n", "one"], ["rows"]),
            node("Mul", ["rows", "eight"], ["starts"]),
            node("Unsqueeze", ["starts", "behind"], ["column"]),
            node("Add", ["column", "channels"], ["sum"]),
            node("Add", ["sum", "empty"], ["index"]),
            node("Gather", ["flat", "index"], ["view"], axis=0),
            node("MatMul", ["view", "w2"], ["y"]),
        ],
        {"x": [batch, 3, 2, 2]},
        {"y": [batch, 4]},
        weights,
    )


def same_padding() -> ModelProto:
    """TensorFlow's SAME: how much is padded depends on sizes of the run time; channels are not."""
    weights = {
        **{"w1": weight("w1", 8, 3, 1, 1), "w2": weight("w2", 4, 8, 3, 3), "least": ints(0)},
        **{"at": ints(2), "stride": ints(2), "width": ints(3), "one": ints(1), "none": ints(0, 0)},
        "low": np.int64(0),
    }
    return make(
        [
            node("Conv", ["x", "w1"], ["c"]),
            node("Shape", ["c"], ["sizes"]),
            node("Gather", ["sizes", "at"], ["size"]),
            node("Sub", ["size", "one"], ["last"]),
            node("Div", ["last", "stride"], ["steps"]),
            node("Mul", ["steps", "stride"], ["reach"]),
            node("Add", ["reach", "width"], ["end"]),
            node("Sub", ["end", "size"], ["lacking"]),
            node("Clip", ["lacking", "low"], ["after"]),
            node("Concat", ["none", "none", "none", "after", "after"], ["pads"], axis=0),
            node("Pad", ["c", "pads"], ["padded"]),
            node("Conv", ["padded", "w2"], ["d"], strides=[2, 2]),
            node("GlobalAveragePool", ["d"], ["y"]),
        ],
        {"x": ["N", 3, "H", "H"]},
        {"y": ["N", 4, 1, 1]},
        weights,
    )


def experts() -> ModelProto:
    """A table of matrices, of which each sample gets its own by GatherND."""
    weights = {
        **{"up": weight("up", 3, 8, 6), "down": weight("down", 3, 4, 8), "last": ints(-1)},
    }
    return make(
        [
            node("ArgMax", ["x"], ["best"], axis=1, keepdims=1),
            node("Constant", [], ["three"], value_int=3),
            node("Mod", ["best", "three"], ["expert"]),
            node("GatherND", ["up", "expert"], ["u"]),
            node("GatherND", ["down", "expert"], ["d"]),
            node("Unsqueeze", ["x", "last"], ["column"]),
            node("MatMul", ["u", "column"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["d", "r"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4, 1]},
        weights,
    )


def picked_beside() -> ModelProto:
    """GatherElements along one axis; data and indices have the others in common."""
    return make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            *sizes("h", "0", "1", 8),
            node("Expand", ["places", "h_shape"], ["index"]),
            node("GatherElements", ["h", "index"], ["picked"], axis=1),
            node("MatMul", ["picked", "w2"], ["y"]),
        ],
        {"x": ["N", "S", 6]},
        {"y": ["N", "S", 4]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4), "places": np.zeros((1, 1, 1), int)},
    )


def branches() -> ModelProto:
    """An If whose condition is known; the other branch fits the original widths only."""
    then = helper.make_graph(
        [node("Relu", ["h"], ["then"])], "then", [], [onnx.ValueInfoProto(name="then")]
    )
    other = helper.make_graph(
        [node("Add", ["h", "eight"], ["else"])],
        "else",
        [],
        [onnx.ValueInfoProto(name="else")],
        [numpy_helper.from_array(weight("eight", 8), "eight")],
    )
    return make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Shape", ["h"], ["sizes"]),
            node("Size", ["sizes"], ["rank"]),
            node("Constant", [], ["two"], value_int=2),
            node("Equal", ["rank", "two"], ["flat"]),
            node("If", ["flat"], ["r"], then_branch=then, else_branch=other),
            node("MatMul", ["r", "w2"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4)},
    )


def pooled_steps() -> ModelProto:
    """Funnel's pool: channels stand where a pool has its second spatial axis, and are passed on."""
    return make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Unsqueeze", ["h", "one"], ["image"]),
            node("AveragePool", ["image"], ["less"], kernel_shape=[2, 1], strides=[2, 1]),
            node("Squeeze", ["less", "one"], ["s"]),
            node("MatMul", ["s", "w2"], ["y"]),
        ],
        {"x": ["N", 6, 6]},
        {"y": ["N", 3, 4]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4), "one": ints(1)},
    )


def repeated_heads() -> ModelProto:
    """Keys and values for several queries, repeated by Tile."""
    return make(
        [
            node("MatMul", ["x", "wq"], ["q"]),
            node("Reshape", ["q", "four"], ["qs"]),
            node("MatMul", ["x", "wk"], ["k"]),
            node("Reshape", ["k", "two"], ["ks"]),
            node("Tile", ["ks", "twice"], ["kk"]),
            node("Mul", ["qs", "kk"], ["m"]),
            node("Reshape", ["m", "flat"], ["f"]),
            node("MatMul", ["f", "w2"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {
            **{"wq": weight("wq", 6, 12), "wk": weight("wk", 6, 6), "w2": weight("w2", 12, 4)},
            **{"four": ints(-1, 4, 3), "two": ints(-1, 2, 3), "twice": ints(1, 2, 1)},
            "flat": ints(-1, 12),
        },
    )


def size_of_data() -> ModelProto:
    """Rows of zeros, as many as the data says, of a width that is known."""
    return make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("ArgMax", ["x"], ["best"], axis=1, keepdims=0),
            node("ReduceMax", ["best"], ["most"], keepdims=1),
            node("Concat", ["most", "width"], ["shape"], axis=0),
            node("ConstantOfShape", ["shape"], ["zeros"]),
            node("Concat", ["h", "zeros"], ["rows"], axis=0),
            node("MatMul", ["rows", "w2"], ["z"]),
            node("ReduceSum", ["z", "first"], ["y"], keepdims=1),
        ],
        {"x": ["N", 6]},
        {"y": [1, 4]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4), "width": ints(8), "first": ints(0)},
    )


def collected_runs() -> ModelProto:
    """How TorchScript writes tensor_split: a loop fills a sequence with runs of one axis."""
    body = helper.make_graph(
        [
            node("Gather", ["starts", "i"], ["start"], axis=0),
            node("Add", ["i", "one"], ["next"]),
            node("Gather", ["starts", "next"], ["end"], axis=0),
            node("Slice", ["h", "start", "end", "one"], ["run"]),
            node("SequenceInsert", ["before", "run"], ["after"]),
            node("Identity", ["go"], ["on"]),
        ],
        "runs",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [1]),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_sequence_value_info("before", onnx.TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_sequence_value_info("after", onnx.TensorProto.FLOAT, None),
        ],
    )
    return make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("SequenceEmpty", [], ["none"]),
            node("Loop", ["two", "yes", "none"], ["runs"], body=body),
            node("SequenceAt", ["runs", "at"], ["second"]),
            node("MatMul", ["second", "w2"], ["y"]),
        ],
        {"x": ["N", 5, 6]},
        {"y": ["N", "M", 4]},
        {
            **{"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4), "starts": ints(0, 1, 5)},
            **{"one": ints(1), "two": np.int64(2), "yes": np.bool_(True), "at": np.int64(1)},
        },
    )


def indexed_run() -> ModelProto:
    """SplitToSequence without keepdims, as TorchScript writes unbind."""
    return make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("SplitToSequence", ["h", "one"], ["all"], axis=1, keepdims=0),
            node("SequenceAt", ["all", "one"], ["second"]),
            node("MatMul", ["second", "w2"], ["y"]),
        ],
        {"x": ["N", 5, 6]},
        {"y": ["N", 4]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4), "one": np.int64(1)},
    )


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (normalised_heads, {"w1": (4, 2), "w1#2": (3, 3)}),
        (rest_of_merged, {"w1": (4, 2), "w1#2": (3, 3)}),
        (strided_view, {"w1": (8, 4)}),
        (same_padding, {"w1": (8, 4)}),
        (experts, {"up": (8, 4)}),
        (picked_beside, {"w1": (8, 4)}),
        (branches, {"w1": (8, 4)}),
        (pooled_steps, {"w1": (8, 4)}),
        (size_of_data, {"w1": (8, 4)}),
        (collected_runs, {"w1": (8, 4)}),
        (indexed_run, {"w1": (8, 4)}),
    ],
)
def test_it_is_pruned_and_certified(
    build: Callable[[], ModelProto], expected: dict[str, tuple[int, int]]
) -> None:
    assert kept(build()) == expected


def test_copies_made_by_tile_are_as_many_as_their_readers_have() -> None:
    found = kept(repeated_heads())
    assert {size for size, _ in found.values()} == {2, 3}


@pytest.mark.parametrize("batch", ["N", 5])
def test_a_view_with_strides_becomes_a_reshape(batch: int | str) -> None:
    result = onnxprune.prune(strided_view(batch), benchmark=False)
    kinds = [each.op_type for each in result.model.graph.node]
    assert "Range" not in kinds and kinds.count("Reshape") == 2


@pytest.mark.parametrize(
    ("name", "change"),
    [("eight", np.int64(7)), ("channels", np.arange(8, dtype=np.int64)[None, ::-1] + 0)],
)
def test_other_strides_are_not_followed(name: str, change: NDArray[np.int64]) -> None:
    """Rows that overlap, and channels that come in another order."""
    model = strided_view()
    (tensor,) = [each for each in model.graph.initializer if each.name == name]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change), name))
    assert onnxprune.inspect(model).groups == []


def test_how_constants_count() -> None:
    grid = np.arange(12, dtype=np.int64).reshape(3, 4)
    model = make(
        [node("Gather", ["x", "grid"], ["a"]), node("Gather", ["x", "odd"], ["b"])],
        {"x": [12]},
        {"a": [3, 4], "b": [3, 4]},
        {"grid": grid, "odd": grid**2},
    )
    network = infer(load(model), built_in())
    assert count_of(network, "grid") == Count(0, (4, 1))
    assert count_of(network, "odd") is None


def test_what_is_written_into_a_constant_is_a_constant() -> None:
    """A bias without its middle third, as PyTorch writes `bias[4:8].zero_()`."""
    bias = weight("bias", 12)
    made = make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Expand", ["zero", "four"], ["zeros"]),
            node("ScatterND", ["bias", "places", "zeros"], ["fixed"]),
            node("Add", ["h", "fixed"], ["a"]),
            node("Split", ["a"], ["q", "k", "v"], axis=-1),
            node("Mul", ["q", "k"], ["s"]),
            node("Mul", ["s", "v"], ["m"]),
            node("MatMul", ["m", "w2"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 3]},
        {
            **{"w1": weight("w1", 6, 12), "w2": weight("w2", 4, 3), "bias": bias},
            **{"zero": np.zeros(1, np.float32), "four": ints(4)},
            "places": ints(4, 5, 6, 7)[:, None],
        },
    )
    read = load(made)
    assert [each.op_type for each in read.proto.graph.node][:2] == ["MatMul", "Add"]
    assert {each.name for each in read.proto.graph.initializer} == {"w1", "w2", "bias"}
    assert (read.read("bias")[4:8] == 0).all() and (read.read("bias")[:4] == bias[:4]).all()
    assert kept(made) == {"w1": (4, 2)}


def test_a_constant_with_other_readers_keeps_its_value() -> None:
    bias = weight("bias", 4)
    made = make(
        [
            node("ScatterElements", ["bias", "places", "zeros"], ["fixed"]),
            node("Add", ["bias", "fixed"], ["both"]),
            node("Add", ["x", "both"], ["y"]),
        ],
        {"x": ["N", 4]},
        {"y": ["N", 4]},
        {"bias": bias, "places": ints(1), "zeros": np.zeros(1, np.float32)},
    )
    read = load(made)
    assert (read.read("bias") == bias).all()
    assert (read.read("fixed") == bias * [1, 0, 1, 1]).all()


def test_nothing_is_left_of_a_constant_that_is_written_into_twice() -> None:
    """ConViT's tables of positions were in the file three times over."""
    table = weight("table", 4)
    made = make(
        [
            node("ScatterElements", ["table", "first", "zeros"], ["once"]),
            node("ScatterElements", ["once", "second", "zeros"], ["twice"]),
            node("Add", ["x", "twice"], ["a"]),
            node("Add", ["a", "table"], ["y"]),
        ],
        {"x": ["N", 4]},
        {"y": ["N", 4]},
        {"table": table, "first": ints(1), "second": ints(2), "zeros": np.zeros(1, np.float32)},
    )
    read = load(made)
    assert {each.name for each in read.proto.graph.initializer} == {"table", "twice"}
    assert [each.op_type for each in read.proto.graph.node] == ["Add", "Add"]
    assert (read.read("twice") == table * [1, 0, 0, 1]).all()


def test_what_is_made_of_pinned_axes_is_pinned_for_their_reasons() -> None:
    made = make(
        [
            node("Concat", ["x", "z"], ["both"], axis=1),
            node("Slice", ["both", "start", "end", "axis"], ["part"]),
            node("MatMul", ["part", "w"], ["y"]),
        ],
        {"x": ["N", 6], "z": ["N", 3]},
        {"y": ["N", 4]},
        {"w": weight("w", 7, 4), "start": ints(2), "end": ints(9), "axis": ints(1)},
    )
    network = infer(load(made), built_in())
    reasons = {pin.reason for dim in leaves((network.axes["w"] or [])[0]) for pin in dim.pins}
    assert reasons == {"an axis of the model's input"}


def test_an_ill_conditioned_model_is_compared_as_far_as_rounding_lets_it() -> None:
    """A large number added and taken away again leaves few digits."""
    made = make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("MatMul", ["h", "w2"], ["s"]),
            node("Add", ["s", "large"], ["more"]),
            node("Sub", ["more", "large"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 500]},
        {
            **{"w1": weight("w1", 6, 64), "w2": weight("w2", 64, 500)},
            "large": np.full(1, 1e5, np.float32),
        },
    )
    certificate = onnxprune.prune(made, benchmark=False).report.certificate
    assert certificate is not None and certificate.ok and certificate.proves
    assert certificate.tolerance > 1e-4 and "ill-conditioned" in certificate.notes[-1]


def test_anchors_of_maps_of_unknown_size_stay() -> None:
    """Boxes of two maps laid end to end: `(h w 3)` of each, h and w being the run time's."""

    def head(name: str) -> list[NodeProto]:
        return [
            node("Conv", ["h", f"{name}.w"], [f"{name}.c"]),
            node("Reshape", [f"{name}.c", "split"], [f"{name}.s"]),
            node("Transpose", [f"{name}.s"], [f"{name}.t"], perm=[0, 3, 1, 2]),
            node("Reshape", [f"{name}.t", "merged"], [f"{name}.boxes"]),
        ]

    made = make(
        [
            node("Conv", ["x", "stem"], ["s"]),
            node("Relu", ["s"], ["h"]),
            *head("one"),
            *head("two"),
            node("Concat", ["one.boxes", "two.boxes"], ["y"], axis=1),
        ],
        {"x": [1, 3, "H", "W"]},
        {"y": [1, "M", 4]},
        {
            **{"stem": weight("stem", 8, 3, 1, 1), "split": ints(1, 3, 4, -1)},
            **{"one.w": weight("one.w", 12, 8, 1, 1), "two.w": weight("two.w", 12, 8, 1, 1)},
            "merged": ints(1, -1, 4),
        },
    )
    assert kept(made) == {"stem": (8, 4)}


def test_a_type_that_is_asked_of_a_tensor_does_not_pin_it() -> None:
    """torch without its optimizer: `x + alpha * y` has `CastLike(alpha, y)`."""
    made = make(
        [
            node("Gemm", ["x", "w1"], ["h"]),
            node("CastLike", ["alpha", "h"], ["a"]),
            node("Mul", ["h", "a"], ["s"]),
            node("Gemm", ["s", "w2"], ["y"]),
        ],
        {"x": ["N", 4]},
        {"y": ["N", 3]},
        {"w1": weight("w1", 4, 8), "w2": weight("w2", 8, 3), "alpha": np.array(2, np.int64)},
    )
    assert kept(made) == {"w1": (8, 4)}


def streams(begin: str, middle: int) -> ModelProto:
    """A stream and one of twice its length, end to end; the longer one is cut off, and folded.

    `[n, t + 2 t, 8]`, from position `begin` on, becomes `[n, middle, t, -1]`.
    """
    return make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Concat", ["x", "x"], ["twice"], axis=1),
            node("MatMul", ["twice", "w2"], ["h2"]),
            node("Concat", ["h", "h2"], ["all"], axis=1),
            node("LayerNormalization", ["all", "scale"], ["normal"], axis=-1),
            node("Add", ["normal", "all"], ["sum"]),
            *sizes("x", "0", middle, "1", -1),
            node("Gather", ["x_sizes", "two"], ["t2"]),
            node("Add", ["t2", "t2"], ["t4"]),
            node("Sub", ["t4", "t2"], ["t"]),
            node("Slice", ["sum", begin, "end", "one"], ["cut"]),
            node("Reshape", ["cut", "x_shape"], ["four"]),
            node("MatMul", ["four", "w3"], ["y"]),
        ],
        {"x": ["n", "t", 6]},
        {"y": None},  # type: ignore[dict-item]
        {
            **{"w1": weight("w1", 6, 8), "w2": weight("w2", 6, 8), "w3": weight("w3", 8, 3)},
            **{"scale": weight("scale", 8), "two": ints(1), "one": ints(1), "zero": ints(0)},
            "end": ints(np.iinfo(np.int64).max),
        },
    )


def test_a_stream_of_a_dynamic_length_is_cut_where_it_begins() -> None:
    """ProphetNet: the size that a Reshape leaves open is known, for 3 t - t is 2 t."""
    assert kept(streams("t", 2)) == {"w1": (8, 4)}
    assert kept(streams("zero", 3)) == {"w1": (8, 4)}
    # The two streams of twice its length are 2 t long, in which 4 t have no place.
    assert "w1" not in {group.name for group in onnxprune.inspect(streams("t", 4)).groups}


def test_a_token_before_a_sequence_is_cut_off_again() -> None:
    """A vision transformer on images of any size: a class token before them, then `x[:, 1:]`."""
    made = make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Shape", ["x"], ["n"], end=1),
            node("Concat", ["n", "one", "eight"], ["shape"], axis=0),
            node("Expand", ["token", "shape"], ["tokens"]),
            node("Concat", ["tokens", "h"], ["all"], axis=1),
            node("Slice", ["all", "one", "end", "one"], ["rest"]),
            node("Shape", ["x"], ["nt"], end=2),
            node("Concat", ["nt", "split"], ["four"], axis=0),
            node("Reshape", ["rest", "four"], ["heads"]),
            node("Softmax", ["heads"], ["s"], axis=2),
            node("Reshape", ["s", "merged"], ["back"]),
            node("MatMul", ["back", "w2"], ["y"]),
        ],
        {"x": ["n", "t", 6]},
        {"y": ["n", "t", 3]},
        {
            **{"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 3), "token": weight("token", 8)},
            **{"one": ints(1), "eight": ints(8), "end": ints(2**62)},
            **{"split": ints(2, -1), "merged": ints(0, 0, -1)},
        },
    )
    assert kept(made) == {"w1": (4, 2)}


def wrong_at(model: ModelProto, *sizes: dict[str, list[int]]) -> list[dict[str, list[int]]]:
    """Prune by half: at which sizes of its inputs the pruned model is not the masked original."""
    pruned = onnxprune.prune(model, benchmark=False).model
    whole, left = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in each.graph.initializer}
        for each in (model, pruned)
    )
    masked = ModelProto()
    masked.CopyFrom(model)
    for tensor in masked.graph.initializer:
        value = whole[tensor.name]
        if value.dtype == np.float32 and tensor.name in left:
            there = value * np.isin(value, left[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(there, tensor.name))
    found = []
    for each in sizes:
        feeds = {name: weight(name, *shape) for name, shape in each.items()}
        wanted, given = (run(session(m, optimize=False), feeds) for m in (masked, pruned))
        if not all(np.allclose(wanted[name], given[name], atol=1e-4) for name in wanted):
            found.append(each)
    return found


def branching(*nodes: NodeProto, **more: list[str | int]) -> ModelProto:
    """A layer whose results are negated where `condition` is false, and another."""

    def branch(name: str, negated: bool) -> onnx.GraphProto:
        inside = [node("Neg", ["h"], [f"{name}n"])] if negated else []
        inside.append(node("MatMul", [f"{name}n" if negated else "h", "w2"], [f"{name}y"]))
        out = helper.make_tensor_value_info(f"{name}y", onnx.TensorProto.FLOAT, None)
        return helper.make_graph(inside, name, [], [out])

    return make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Shape", ["x"], ["t"], start=1, end=2),
            *nodes,
            node("Squeeze", ["condition"], ["c"]),
            node("If", ["c"], ["y"], then_branch=branch("a", False), else_branch=branch("b", True)),
        ],
        {"x": ["n", "t", 6], **more},
        {"y": None},  # type: ignore[dict-item]
        {
            **{"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 3)},
            **{"one": ints(1), "two": ints(2), "five": ints(5), "three": ints(3)},
        },
    )


@pytest.mark.parametrize("kind", ["Equal", "Greater", "LessOrEqual"])
def test_a_size_may_be_that_of_what_is_broadcast_along_it(kind: str) -> None:
    """`[n, t, 6] + [n, s, 1]` is t long, or s where t is 1: its size is not compared with t."""
    made = branching(
        node("Add", ["x", "p"], ["z"]),
        node("Shape", ["z"], ["longer"], start=1, end=2),
        node(kind, ["longer", "t"], ["condition"]),
        p=["n", "s", 1],
    )
    assert not wrong_at(made, {"x": [2, 5, 6], "p": [2, 1, 1]}, {"x": [2, 1, 6], "p": [2, 5, 1]})


@pytest.mark.parametrize(("kind", "length"), [("INT8", 300), ("FLOAT16", 4097), ("BOOL", 5)])
def test_a_size_that_a_type_cannot_hold(kind: str, length: int) -> None:
    made = branching(
        node("Cast", ["t"], ["narrow"], to=getattr(onnx.TensorProto, kind)),
        node("Cast", ["narrow"], ["wide"], to=onnx.TensorProto.INT64),
        node("Equal", ["wide", "t"], ["condition"]),
    )
    assert not wrong_at(made, {"x": [1, 1, 6]}, {"x": [1, length, 6]})


def test_numbers_are_divided_as_what_they_were_cast_to() -> None:
    """`ceil(5.0 / 2.0)` is 3."""
    made = branching(
        node("Cast", ["five"], ["a"], to=onnx.TensorProto.FLOAT),
        node("Cast", ["two"], ["b"], to=onnx.TensorProto.FLOAT),
        node("Div", ["a", "b"], ["q"]),
        node("Ceil", ["q"], ["r"]),
        node("Cast", ["r"], ["i"], to=onnx.TensorProto.INT64),
        node("Equal", ["i", "three"], ["condition"]),
    )
    assert not wrong_at(made, {"x": [2, 5, 6]})


def summed(*nodes: NodeProto, **more: list[str | int]) -> ModelProto:
    """Numbers before eight channels; of both, the first four are taken."""
    return make(
        [
            *nodes,
            node("MatMul", ["x", "w1"], ["h"]),
            node("ReduceSum", ["new", "two"], ["numbers"], keepdims=1),
            node("ReduceMax", ["h"], ["most"], axes=[1], keepdims=1),
            node("Transpose", ["most"], ["channels"], perm=[0, 2, 1]),
            node("Concat", ["numbers", "channels"], ["all"], axis=1),
            node("Slice", ["all", "zero", "four", "one"], ["first"]),
            node("ReduceSum", ["first", "one"], ["y"]),
        ],
        {"x": ["n", "t", 6], **more},
        {"y": None, "present": ["n", "s", 6]},  # type: ignore[dict-item]
        {
            **{"w1": weight("w1", 6, 8), "zero": ints(0), "one": ints(1), "two": ints(2)},
            **{"four": ints(4), "end": ints(2**62)},
        },
    )


def test_a_sum_of_lengths_that_has_the_name_of_one() -> None:
    """Past and present both declared `s` long: what is new is not of size 0."""
    made = summed(
        node("Concat", ["past", "x"], ["present"], axis=1),
        node("Shape", ["past"], ["begin"], start=1, end=2),
        node("Slice", ["present", "begin", "end", "one"], ["new"]),
        past=["n", "s", 6],
    )
    with pytest.raises(NotPrunable):
        wrong_at(made, {"x": [2, 5, 6], "past": [2, 4, 6]})


def test_a_slice_that_seems_empty_need_not_be() -> None:
    made = summed(
        node("Add", ["x", "p"], ["present"]),
        node("Shape", ["x"], ["begin"], start=1, end=2),
        node("Slice", ["present", "begin", "end", "one"], ["new"]),
        p=["n", "s", 1],
    )
    with pytest.raises(NotPrunable):
        wrong_at(made, {"x": [2, 5, 6], "p": [2, 1, 1]}, {"x": [2, 1, 6], "p": [2, 3, 1]})


def test_lengths_that_add_up_without_end_are_no_longer_followed() -> None:
    """Each of a hundred Concats adds to the one before: an axis of a hundred runs helps no one."""
    chain = [node("Concat", [f"c{i}", "c0"], [f"c{i + 1}"], axis=1) for i in range(100)]
    made = make(
        [node("MatMul", ["x", "w1"], ["c0"]), *chain, node("MatMul", ["c100", "w2"], ["y"])],
        {"x": ["n", "t", 6]},
        {"y": None},  # type: ignore[dict-item]
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 3)},
    )
    network = infer(load(made), built_in())
    lengths = [len(list(leaves((network.axes[f"c{i}"] or [])[1]))) for i in range(101)]
    assert lengths[:4] == [1, 2, 3, 4] and max(lengths) <= 8
    assert kept(made) == {"w1": (8, 4)}
