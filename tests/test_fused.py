"""Models of fused and quantised operators, as onnxruntime's optimizer writes them, end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxprune

MS = "com.microsoft"
WIDTH, HEADS, SHARED, SIZE, INNER, WORDS = 64, 4, 2, 16, 96, 50


class Net:
    """A graph in the making: nodes, and weights drawn at random."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.rng = np.random.default_rng(0)

    def draw(self, name: str, *shape: int) -> str:
        value = self.rng.normal(size=shape) / np.sqrt(shape[0] if len(shape) > 1 else 4)
        return self.constant(name, value.astype(np.float32))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op_type: str, inputs: list[str], outputs: int = 1, **attrs: Any) -> str:
        made = [f"{op_type}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, made, name=made[0], **attrs))
        return made[0]

    def linear(self, name: str, x: str, rows: int, columns: int) -> str:
        product = self.node("MatMul", [x, self.draw(f"{name}.weight", rows, columns)])
        return self.node("Add", [product, self.draw(f"{name}.bias", columns)])

    def model(self, inputs: list[Any], y: str, opset: int = 17) -> ModelProto:
        self.nodes.append(helper.make_node("Identity", [y], ["y"], name="y"))
        output = onnx.ValueInfoProto(name="y")
        graph = helper.make_graph(self.nodes, "fused", inputs, [output], self.weights)
        imports = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def standard() -> ModelProto:
    """Grouped queries in ai.onnx's Attention of opset 23, with its rotary embedding."""
    net = Net()
    q = net.linear("q", "x", WIDTH, HEADS * SIZE)
    k = net.linear("k", "x", WIDTH, SHARED * SIZE)
    v = net.linear("v", "x", WIDTH, SHARED * SIZE)
    angles = np.outer(np.arange(32), 0.7 ** np.arange(SIZE // 2)).astype(np.float32)
    tables = [net.constant("cos", np.cos(angles)), net.constant("sin", np.sin(angles))]
    places = net.constant("places", np.arange(7, dtype=np.int64)[None].repeat(2, 0))
    q = net.node("RotaryEmbedding", [q, *tables, places], num_heads=HEADS)
    k = net.node("RotaryEmbedding", [k, *tables, places], num_heads=SHARED)
    heads = {"q_num_heads": HEADS, "kv_num_heads": SHARED}
    x = net.node("Attention", [q, k, v], is_causal=1, **heads)
    x = net.linear("out", x, HEADS * SIZE, WIDTH)
    x = net.node("RMSNormalization", [x, net.draw("norm", WIDTH)])
    gate, up = net.linear("gate", x, WIDTH, INNER), net.linear("up", x, WIDTH, INNER)
    x = net.node("Mul", [net.node("Sigmoid", [gate]), up])
    x = net.linear("down", x, INNER, WIDTH)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 7, WIDTH])
    return net.model([given], net.linear("head", x, WIDTH, 10), opset=23)


def bert() -> ModelProto:
    """What onnxruntime's transformer optimizer makes of BERT."""
    net = Net()
    tables = [net.draw("words", WORDS, WIDTH), net.draw("places", 16, WIDTH)]
    norm = [net.draw("norm0", WIDTH), net.draw("beta0", WIDTH)]
    x = net.node("EmbedLayerNormalization", ["ids", "", *tables, "", *norm], 2, domain=MS)
    weights = net.draw("qkv", WIDTH, 3 * HEADS * SIZE), net.draw("qkv.bias", 3 * HEADS * SIZE)
    a = net.node("Attention", [x, *weights], num_heads=HEADS, domain=MS)
    a = net.node("MatMul", [a, net.draw("out", HEADS * SIZE, WIDTH)])
    norm = [net.draw("norm1", WIDTH), net.draw("beta1", WIDTH), net.draw("out.bias", WIDTH)]
    x = net.node("SkipLayerNormalization", [a, x, *norm], domain=MS)
    h = net.node("MatMul", [x, net.draw("up", WIDTH, INNER)])
    h = net.node("BiasGelu", [h, net.draw("up.bias", INNER)], domain=MS)
    h = net.node("MatMul", [h, net.draw("down", INNER, WIDTH)])
    norm = [net.draw("norm2", WIDTH), net.draw("beta2", WIDTH), net.draw("down.bias", WIDTH)]
    x = net.node("SkipLayerNormalization", [h, x, *norm], domain=MS)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", 7])
    return net.model([ids], net.linear("head", x, WIDTH, 10))


def cross() -> ModelProto:
    """MultiHeadAttention from one sequence to another, with the bias of its projections."""
    net = Net()
    wide, narrow = HEADS * SIZE, HEADS * 12
    q = net.node("MatMul", ["x", net.draw("q", WIDTH, wide)])
    k = net.node("MatMul", ["z", net.draw("k", WIDTH, wide)])
    v = net.node("MatMul", ["z", net.draw("v", WIDTH, narrow)])
    bias = net.draw("bias", 2 * wide + narrow)
    x = net.node("MultiHeadAttention", [q, k, v, bias], num_heads=HEADS, domain=MS)
    x = net.linear("head", x, narrow, 10)
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, size, WIDTH])
        for name, size in (("x", 5), ("z", 9))
    ]
    return net.model(given, x)


def packed(net: Net, name: str, x: str, rows: int, columns: int) -> str:
    """A matrix of 4 bits in blocks of 16."""
    codes = net.rng.integers(0, 256, (columns, rows // 16, 8)).astype(np.uint8)
    scales = (0.3 + net.rng.random((columns, rows // 16))).astype(np.float32) / 64
    operands = [net.constant(f"{name}.codes", codes), net.constant(f"{name}.scales", scales)]
    sizes = {"K": rows, "N": columns, "bits": 4, "block_size": 16}
    return net.node("MatMulNBits", [x, *operands], domain=MS, **sizes)


def decoder() -> ModelProto:
    """A decoder as onnxruntime-genai builds it: 4 bits, grouped queries, rotary tables."""
    net = Net()
    width, size = 64, 32
    table = net.rng.integers(0, 256, (WORDS, width // 2)).astype(np.uint8)
    scales = (0.3 + net.rng.random((WORDS, width // 16))).astype(np.float32) / 8
    operands = [net.constant("words", table), "ids", net.constant("words.scales", scales)]
    blocks = {"bits": 4, "block_size": 16, "quantize_axis": 1, "gather_axis": 0, "domain": MS}
    x = net.node("GatherBlockQuantized", operands, **blocks)
    n = net.node("SimplifiedLayerNormalization", [x, net.draw("norm0", width)], axis=-1)
    q = packed(net, "q", n, width, HEADS * size)
    k = packed(net, "k", n, width, SHARED * size)
    v = packed(net, "v", n, width, SHARED * size)
    angles = np.outer(np.arange(32), 0.7 ** np.arange(size // 2)).astype(np.float32)
    tables = [net.constant("cos", np.cos(angles)), net.constant("sin", np.sin(angles))]
    ends = [
        net.constant("last", np.array([6, 6], np.int32)),
        net.constant("total", np.array(7, np.int32)),
    ]
    more = {"num_heads": HEADS, "kv_num_heads": SHARED, "do_rotary": 1, "domain": MS}
    a = net.node("GroupQueryAttention", [q, k, v, "", "", *ends, *tables], 3, **more)
    a = packed(net, "out", a, HEADS * size, width)
    norm = "SkipSimplifiedLayerNormalization"
    x = net.node(norm, [a, x, net.draw("norm1", width)], domain=MS)
    gate, up = packed(net, "gate", x, width, INNER), packed(net, "up", x, width, INNER)
    x = packed(net, "down", net.node("Mul", [net.node("Sigmoid", [gate]), up]), INNER, width)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [2, 7])
    return net.model([ids], packed(net, "head", x, width, 10))


def quantised() -> ModelProto:
    """Convolutions in the QOperator format, with a residual, a concat and a pool."""
    net = Net()

    def scale(name: str, value: float, point: int, dtype: Any = np.uint8) -> list[str]:
        return [
            net.constant(f"{name}.scale", np.array(value, np.float32)),
            net.constant(f"{name}.point", np.array(point, dtype)),
        ]

    def conv(name: str, x: str, ends: list[str], rows: int, columns: int, out: list[str]) -> str:
        codes = net.rng.integers(-60, 61, (columns, rows, 3, 3)).astype(np.int8)
        scales = (0.5 + net.rng.random(columns)).astype(np.float32) / 300
        weight = [
            net.constant(f"{name}.weight", codes),
            net.constant(f"{name}.scales", scales),
            net.constant(f"{name}.points", np.zeros(columns, np.int8)),
        ]
        bias = net.constant(f"{name}.bias", net.rng.integers(-99, 99, columns).astype(np.int32))
        return net.node("QLinearConv", [x, *ends, *weight, *out, bias], pads=[1, 1, 1, 1])

    one, two, three = (scale(name, 0.05, 100 + i) for i, name in enumerate("abc"))
    x = net.node("QuantizeLinear", ["x", *one])
    a = conv("a", x, one, 3, 16, two)
    b = conv("b", a, two, 16, 16, three)
    s = net.node("QLinearAdd", [a, *two, b, *three, *one], domain=MS)
    c = conv("c", s, one, 16, 8, two)
    s = net.node("QLinearConcat", [*three, s, *one, c, *two], axis=1, domain=MS)
    s = net.node("QLinearGlobalAveragePool", [s, *three, *one], domain=MS)
    s = net.node("Flatten", [s])
    codes = net.rng.integers(-60, 61, (10, 24)).astype(np.int8)
    weight = [net.constant("fc.weight", codes), *scale("fc", 0.01, 0, np.int8)]
    y = net.node("QGemm", [s, *one, *weight], transB=1, domain=MS)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 8])
    return net.model([given], y)


MODELS = {each.__name__: each for each in (standard, bert, cross, decoder, quantised)}


@pytest.mark.parametrize("name", MODELS)
def test_fused_models_are_pruned_and_certified(name: str) -> None:
    result = onnxprune.prune(MODELS[name](), ratio=0.5, round_to=1, benchmark=False)
    certificate = result.report.certificate
    assert certificate is not None and certificate.ok and certificate.proves
    report = result.report
    assert report.parameters_left is not None and report.free_widths_allow is not None
    assert abs(report.parameters_left - report.free_widths_allow) < 0.03
    assert report.parameters_left < 0.5


def attributes(model: ModelProto, op_type: str) -> dict[str, Any]:
    (node,) = [node for node in model.graph.node if node.op_type == op_type]
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def test_a_scale_that_came_from_the_head_size_is_written() -> None:
    """Half of a head's channels: the scores keep the scale of before."""
    for name in ("standard", "bert", "cross"):
        model = MODELS[name]()
        op_type = "MultiHeadAttention" if name == "cross" else "Attention"
        assert "scale" not in attributes(model, op_type)
        pruned = onnxprune.prune(model, only=["head-dim"], verify=False, benchmark=False)
        assert attributes(pruned.model, op_type)["scale"] == pytest.approx(SIZE**-0.5)
        heads = onnxprune.prune(model, only=["heads"], verify=False, benchmark=False)
        assert "scale" not in attributes(heads.model, op_type)


def test_heads_and_their_sizes_are_written() -> None:
    pruned = onnxprune.prune(standard(), only=["heads"], verify=False, benchmark=False).model
    found = attributes(pruned, "Attention")
    assert found["kv_num_heads"] == SHARED // 2
    assert found["q_num_heads"] == HEADS // 4  # both factors are heads: of groups, and in one
    pruned = onnxprune.prune(bert(), only=["head-dim"], verify=False, benchmark=False).model
    assert attributes(pruned, "Attention")["qkv_hidden_sizes"] == [HEADS * SIZE // 2] * 3


def test_packed_blocks_are_removed_whole() -> None:
    result = onnxprune.prune(decoder(), only=["ffn"], benchmark=False)
    assert result.report.certificate is not None and result.report.certificate.ok
    shapes = {tensor.name: list(tensor.dims) for tensor in result.model.graph.initializer}
    assert shapes["gate.codes"] == [INNER // 2, 4, 8]
    assert shapes["down.codes"][1:] == [INNER // 32, 8]
    assert shapes["gate.scales"] == [INNER // 2, 4]
