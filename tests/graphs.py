"""Small models made by hand, and ways to look into them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.model import constant_tensor, graphs

Array = NDArray[Any]
Shape = Sequence[int | str | None]
Kept = Mapping[str, Mapping[int, NDArray[np.int64]]]

node = helper.make_node


def weight(name: str, *shape: int, dtype: Any = np.float32) -> Array:
    """Normally distributed values that depend on the name alone."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return np.asarray(values, dtype=dtype)


def make(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    weights: Mapping[str, Array] | Sequence[TensorProto] = (),
    *,
    opset: int = 17,
    ir: int = 10,
    dtype: int = TensorProto.FLOAT,
    functions: Sequence[FunctionProto] = (),
    domains: Mapping[str, int] | None = None,
) -> ModelProto:
    """A model; its inputs and outputs are of type `dtype`."""
    if isinstance(weights, Mapping):
        weights = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()],
        list(weights),
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(name, version) for name, version in (domains or {}).items()]
    return helper.make_model(graph, ir_version=ir, opset_imports=opsets, functions=list(functions))


def perceptron(**changed: Any) -> ModelProto:
    """x [N, 6] -> MatMul w1 [6, 8], Add b1 [8], Relu, MatMul w2 [8, 4] -> y [N, 4]."""
    return make(
        [
            node("MatMul", ["x", "w1"], ["m"], name="first"),
            node("Add", ["m", "b1"], ["a"], name="bias"),
            node("Relu", ["a"], ["r"], name="relu"),
            node("MatMul", ["r", "w2"], ["y"], name="second"),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {"w1": weight("w1", 6, 8), "b1": weight("b1", 8), "w2": weight("w2", 8, 4)},
        **changed,
    )


def two_convs(channels: int = 8, **changed: Any) -> ModelProto:
    """x [N, 3, 8, 8] -> conv1 [c, 3, 3, 3] and b1, Relu, conv2 [4, c, 3, 3] and b2 -> y."""
    return make(
        [
            node("Conv", ["x", "w1", "b1"], ["c"], name="conv1", pads=[1] * 4),
            node("Relu", ["c"], ["r"], name="relu"),
            node("Conv", ["r", "w2", "b2"], ["y"], name="conv2", pads=[1] * 4),
        ],
        {"x": ["N", 3, 8, 8]},
        {"y": ["N", 4, 8, 8]},
        {
            "w1": weight("w1", channels, 3, 3, 3),
            "b1": weight("b1", channels),
            "w2": weight("w2", 4, channels, 3, 3),
            "b2": weight("b2", 4),
        },
        **changed,
    )


def constants(model: ModelProto) -> dict[str, Array]:
    """The value of every initializer and of every Constant node."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors(copy)}


def tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every constant of the model, to be changed in place; lists become tensors for that."""
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            yield tensor.name, tensor
        for each in graph.node:
            if each.op_type == "Constant":
                (attribute,) = each.attribute
                if attribute.name != "value":
                    value = helper.make_attribute("value", constant_tensor(each))
                    attribute.CopyFrom(value)
                yield each.output[0], attribute.t


def shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every constant."""
    return {name: value.shape for name, value in constants(model).items()}


def take(value: Array, kept: Mapping[int, NDArray[np.int64]]) -> Array:
    """`value` at the kept positions of each axis."""
    for axis, index in kept.items():
        value = np.take(value, index, axis=axis)
    return value


def masked(reference: ModelProto, kept: Kept, leave: Sequence[str] = ()) -> ModelProto:
    """`reference` with zeros where `kept` removes something, but in the constants `leave`."""
    model = ModelProto()
    model.CopyFrom(reference)
    for name, tensor in tensors(model):
        if name in kept and name not in leave:
            value = numpy_helper.to_array(tensor).copy()
            for axis, index in kept[name].items():
                gone = np.setdiff1d(np.arange(value.shape[axis]), index)
                value[(slice(None),) * axis + (gone,)] = 0
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model


def run(model: ModelProto | str, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs, with optimisations off, so that two models round alike."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model.SerializeToString() if isinstance(model, ModelProto) else model
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, dict(feeds))
    return outputs


def assert_same(
    a: ModelProto | str, b: ModelProto | str, feeds: Mapping[str, Array], rtol: float = 1e-5
) -> None:
    """Both models give the same outputs, relative to the largest value, and not just zeros."""
    for x, y in zip(run(a, feeds), run(b, feeds), strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        x, y = x.astype(np.float64), y.astype(np.float64)
        scale = np.abs(x).max()
        assert scale > 0
        assert np.abs(x - y).max() <= rtol * scale


def check(model: ModelProto) -> None:
    """ONNX's checker accepts the model, and its declared shapes agree with one another."""
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
