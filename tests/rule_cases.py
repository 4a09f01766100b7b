"""Cases made by hand: operators of which the onnx package's own cases are too small, or missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.equivariance import Case, graph_case, one, with_constants

Array = NDArray[Any]

MS = "com.microsoft"
F, I64 = np.float32, np.int64


def draw(*shape: int, seed: int = 0) -> Array:
    """Random float32 values, none of them near zero."""
    rng = np.random.default_rng([seed, *shape])
    value = rng.uniform(0.2, 1.2, shape) * rng.choice([-1, 1], shape)
    return np.asarray(value, dtype=F)


def positive(*shape: int) -> Array:
    return np.abs(draw(*shape))


def ints(*values: int) -> Array:
    return np.array(values, dtype=I64)


def codes(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Array:
    """Random quantised values."""
    info = np.iinfo(dtype)
    rng = np.random.default_rng([seed, *shape])
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def scalar(value: float, dtype: Any = F) -> Array:
    return np.array(value, dtype=dtype)


#: Cases of each operator, by generators that are given its name.
_MADE: dict[str, list[Callable[[str], Iterator[Case]]]] = {}


def cases_of(
    *names: str,
) -> Callable[[Callable[[str], Iterator[Case]]], Callable[[str], Iterator[Case]]]:
    """Cases of these operators, beside others: a generator that is given the operator's name."""

    def register(make: Callable[[str], Iterator[Case]]) -> Callable[[str], Iterator[Case]]:
        for name in names:
            _MADE.setdefault(name, []).append(make)
        return make

    return register


def made(name: str) -> Iterator[Case]:
    """The cases of an operator that are made by hand."""
    for make in _MADE.get(name, ()):
        yield from make(name)


@cases_of("Conv")
def _conv(_: str) -> Iterator[Case]:
    x = draw(2, 8, 7, 7)
    yield one("Conv", x, draw(6, 8, 3, 3), draw(6), opset=11)
    yield one("Conv", x, draw(6, 8, 3, 3), opset=7, pads=[1, 1, 1, 1], strides=[2, 2])
    yield one("Conv", x, draw(6, 4, 3, 3), draw(6), group=2)
    yield one("Conv", x, draw(12, 2, 1, 1), draw(12), group=4, opset=22)
    yield one("Conv", x, draw(8, 1, 3, 3), draw(8), group=8)
    yield one("Conv", x, draw(16, 1, 3, 3), group=8, dilations=[2, 2])
    yield one("Conv", draw(2, 6, 11), draw(4, 6, 3), draw(4), auto_pad="SAME_UPPER")
    yield one("Conv", draw(1, 4, 5, 5, 5), draw(6, 2, 3, 3, 3), draw(6), group=2)


@cases_of("com.microsoft.FusedConv")
def _fused_conv(_: str) -> Iterator[Case]:
    x, w, b = draw(2, 8, 7, 7), draw(6, 4, 3, 3), draw(6)
    yield one("FusedConv", x, w, b, group=2, activation="Relu", domain=MS)
    yield one("FusedConv", x, w, b, draw(2, 6, 5, 5), group=2, activation="Relu", domain=MS)
    yield one("FusedConv", x, w, activation="Tanh", group=2, domain=MS)


@cases_of("ConvTranspose")
def _conv_transpose(_: str) -> Iterator[Case]:
    x = draw(2, 8, 5, 5)
    yield one("ConvTranspose", x, draw(8, 6, 3, 3), draw(6), opset=7)
    yield one("ConvTranspose", x, draw(8, 3, 3, 3), draw(6), group=2, strides=[2, 2])
    yield one("ConvTranspose", x, draw(8, 1, 3, 3), draw(8), group=8, opset=11)
    yield one("ConvTranspose", x, draw(8, 2, 3, 3), group=8, output_padding=[1, 1], strides=[2, 2])


@cases_of("MatMul")
def _matmul(_: str) -> Iterator[Case]:
    yield one("MatMul", draw(5, 6), draw(6, 7), opset=9)
    yield one("MatMul", draw(2, 3, 5, 6), draw(2, 3, 6, 7))
    yield one("MatMul", draw(2, 3, 5, 6), draw(6, 7))
    yield one("MatMul", draw(5, 6), draw(3, 6, 7))
    yield one("MatMul", draw(2, 1, 5, 6), draw(4, 6, 7))
    yield one("MatMul", draw(6), draw(6, 7))
    yield one("MatMul", draw(3, 5, 6), draw(6))
    yield one("MatMul", draw(6), draw(3, 6, 7))
    yield one("MatMul", draw(6), draw(6, seed=1))
    gram = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    yield graph_case("x times its transpose", gram, {"x": draw(2, 5, 6)}, ["y"])


@cases_of("Gemm", "com.microsoft.FusedGemm")
def _gemm(name: str) -> Iterator[Case]:
    fused = {"domain": MS, "activation": "Relu"} if name.startswith(MS) else {}
    op_type = name.rpartition(".")[2]
    for trans_a, trans_b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        a, b = draw(5, 6), draw(6, 7)
        a, b = (a.T.copy() if trans_a else a), (b.T.copy() if trans_b else b)
        for c in (draw(7), draw(5, 1), draw(1, 7), draw(5, 7), draw()):
            yield one(op_type, a, b, c, transA=trans_a, transB=trans_b, alpha=0.5, **fused)
    yield one(op_type, draw(5, 6), draw(6, 7), opset=13, **fused)
    yield one(op_type, draw(5, 6), draw(6, 7), draw(7), opset=7, **fused)


@cases_of("Einsum")
def _einsum(_: str) -> Iterator[Case]:
    for equation, *shapes in (
        ("ij,jk->ik", (4, 5), (5, 6)),
        ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5)),
        ("bij,bjk", (2, 4, 5), (2, 5, 6)),
        ("ij->ji", (4, 5)),
        ("ij->i", (4, 5)),
        ("ij->", (4, 5)),
        ("ii->i", (4, 4)),
        ("i,j->ij", (4,), (5,)),
        ("ij,ij->", (4, 5), (4, 5)),
        ("...ij,...jk->...ik", (2, 4, 5), (2, 5, 6)),
        ("...ij,jk->...ik", (2, 3, 4, 5), (5, 6)),
        ("i...->...i", (3, 4, 5)),
        (" b t d , d k -> b t k ", (2, 3, 4), (4, 5)),
    ):
        yield one("Einsum", *map(lambda s: draw(*s), shapes), equation=equation)


@cases_of("BatchNormalization")
def _batch_norm(_: str) -> Iterator[Case]:
    c = draw(6), draw(6, seed=1), draw(6, seed=2), positive(6)
    yield one("BatchNormalization", draw(4, 6), *c, opset=9)
    yield one("BatchNormalization", draw(2, 6, 5, 5), *c, opset=7)
    yield one("BatchNormalization", draw(2, 6, 5), *c, opset=14)
    yield one("BatchNormalization", draw(2, 6, 3, 5, 5), *c, opset=15)
    yield one("BatchNormalization", draw(4, 6, 5), *c, opset=15, training_mode=1, outputs=3)


@cases_of("InstanceNormalization")
def _instance_norm(_: str) -> Iterator[Case]:
    yield one("InstanceNormalization", draw(2, 6, 5, 4), draw(6), draw(6, seed=1), opset=7)
    yield one("InstanceNormalization", draw(2, 6, 5), draw(6), draw(6, seed=1))


@cases_of("GroupNormalization")
def _group_norm(_: str) -> Iterator[Case]:
    x = draw(2, 12, 4, 5)
    yield one("GroupNormalization", x, draw(12), draw(12, seed=1), num_groups=3, opset=21)
    yield one("GroupNormalization", x, draw(3), draw(3, seed=1), num_groups=3, opset=18)
    yield one("GroupNormalization", x, draw(12), draw(12, seed=1), num_groups=12, opset=21)


@cases_of("LayerNormalization")
def _layer_norm(_: str) -> Iterator[Case]:
    x = draw(2, 5, 8)
    yield one("LayerNormalization", x, draw(8), draw(8, seed=1))
    yield one("LayerNormalization", x, draw(5, 8), axis=1, outputs=3)
    yield one("LayerNormalization", x, draw(8), draw(8, seed=1), axis=-1, outputs=3)


@cases_of("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(name: str) -> Iterator[Case]:
    opset = 23 if name == "RMSNormalization" else 17
    yield one(name, draw(2, 5, 8), draw(8), opset=opset, axis=-1)
    yield one(name, draw(2, 5, 8), draw(8), opset=opset)


@cases_of("com.microsoft.SkipLayerNormalization")
def _skip_layer_norm(_: str) -> Iterator[Case]:
    x, skip = draw(2, 5, 8), draw(2, 5, 8, seed=1)
    name = "SkipLayerNormalization"
    yield one(name, x, skip, draw(8), draw(8, seed=1), draw(8, seed=2), domain=MS)
    yield one(name, x, skip, draw(8), domain=MS)
    yield one(name, x, draw(1, 5, 8), draw(8), draw(8, seed=1), domain=MS)
    case = one(name, x, skip, draw(8), draw(8, seed=1), domain=MS, outputs=4)
    yield _without(case, 1, 2)


@cases_of("com.microsoft.SkipSimplifiedLayerNormalization")
def _skip_rms_norm(_: str) -> Iterator[Case]:
    x, skip = draw(2, 5, 8), draw(2, 5, 8, seed=1)
    yield one("SkipSimplifiedLayerNormalization", x, skip, draw(8), draw(8, seed=1), domain=MS)
    case = one("SkipSimplifiedLayerNormalization", x, skip, draw(8), domain=MS, outputs=4)
    yield _without(case, 1, 2)


def _without(case: Case, *outputs: int) -> Case:
    """The case without some of its node's outputs."""
    node = case.model.graph.node[0]
    gone = [node.output[i] for i in outputs]
    for i in outputs:
        node.output[i] = ""
    kept = [value for value in case.model.graph.output if value.name not in gone]
    del case.model.graph.output[:]
    case.model.graph.output.extend(kept)
    return case


@cases_of("LRN")
def _lrn(_: str) -> Iterator[Case]:
    yield one("LRN", draw(2, 6, 5, 5), size=3)


@cases_of("LpNormalization")
def _lp_norm(_: str) -> Iterator[Case]:
    for p in (1, 2):
        yield one("LpNormalization", draw(2, 6, 5), axis=1, p=p)
    yield one("LpNormalization", draw(2, 6, 5))


@cases_of("MeanVarianceNormalization")
def _mvn(_: str) -> Iterator[Case]:
    yield one("MeanVarianceNormalization", draw(3, 6, 5, 4), opset=13)
    yield one("MeanVarianceNormalization", draw(3, 6, 5, 4), axes=[2, 3], opset=9)


@cases_of("Softmax", "LogSoftmax", "Hardmax")
def _softmax(name: str) -> Iterator[Case]:
    for opset, axis in ((7, 1), (7, 2), (11, 1), (11, -1), (13, 1), (13, -1)):
        yield one(name, draw(2, 6, 5, 4), opset=opset, axis=axis)
    yield one(name, draw(2, 6, 5), opset=11)
    yield one(name, draw(2, 6, 5), opset=13)


@cases_of("LSTM", "GRU", "RNN")
def _recurrent(name: str) -> Iterator[Case]:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[name]
    t, b, i, h = 5, 3, 6, 4

    def layer(directions: int, extra: int, opset: int = 14, **attrs: Any) -> Case:
        d = directions
        operands: list[Array | None] = [
            draw(t, b, i),
            draw(d, gates * h, i),
            draw(d, gates * h, h),
            draw(d, 2 * gates * h) if extra > 0 else None,
            np.array([5, 3, 4], dtype=np.int32) if extra > 1 else None,
            draw(d, b, h) if extra > 2 else None,
        ]
        if name == "LSTM":
            operands.append(draw(d, b, h, seed=1) if extra > 2 else None)
            operands.append(draw(d, 3 * h) if extra > 3 else None)
        while operands[-1] is None:
            operands.pop()
        outputs = 3 if name == "LSTM" else 2
        return one(name, *operands, opset=opset, outputs=outputs, hidden_size=h, **attrs)

    for direction, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
        for extra in (0, 1, 3):
            yield layer(d, extra, direction=direction)
    yield layer(1, 4, opset=7)
    yield layer(2, 2, opset=22, direction="bidirectional", clip=0.5)
    if name == "GRU":
        yield layer(2, 3, direction="bidirectional", linear_before_reset=1)
    if name == "LSTM":
        yield layer(1, 3, activations=["Sigmoid", "Sigmoid", "Tanh"])
    if name == "RNN":
        yield layer(1, 3, activations=["Relu"])


@cases_of("Reshape")
def _reshape(_: str) -> Iterator[Case]:
    for shape, target in (
        ((2, 12, 4, 4), (2, 3, 4, 16)),
        ((2, 12, 4, 4), (2, -1)),
        ((2, 12, 4, 4), (0, 0, -1)),
        ((2, 5, 12), (2, 5, 3, 4)),
        ((2, 5, 3, 4), (0, 0, 12)),
        ((2, 5, 3, 4), (10, -1)),
        ((2, 6, 4), (2, 8, 3)),
        ((2, 6, 4), (2, 4, 6)),
        ((6, 4), (24,)),
        ((24,), (2, 3, 4)),
        ((2, 1, 6), (2, 6, 1, 1)),
        ((2, 8, 6), (2, 2, 4, 6)),
        ((2, 8, 6), (4, 4, 6)),
    ):
        for opset in (7, 14):
            yield one("Reshape", draw(*shape), ints(*target), opset=opset)
    # Channel shuffle.
    nodes = [
        helper.make_node("Reshape", ["x", "to"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["b", "back"], ["y"]),
    ]
    feeds = {"x": draw(2, 12, 5), "to": ints(2, 3, 4, 5), "back": ints(2, 12, 5)}
    yield graph_case("shuffle", nodes, feeds, ["y"])
    # A target that is computed, with a hard-coded channel count inside.
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "i0"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
    ]
    feeds = {"x": draw(2, 12, 5), "i0": ints(0), "rest": ints(3, 4, 5)}
    yield graph_case("a target that is computed", nodes, feeds, ["y"])
    # Batch times heads in one axis, as attention has it.
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "i0"], ["n"]),
        helper.make_node("Mul", ["n", "heads"], ["m"]),
        helper.make_node("Concat", ["m", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
    ]
    feeds = {"x": draw(2, 3, 5, 4), "i0": ints(0), "heads": ints(3), "rest": ints(5, -1)}
    yield graph_case("batch times heads", nodes, feeds, ["y"])


@cases_of("Flatten")
def _flatten(_: str) -> Iterator[Case]:
    for axis in range(5):
        yield one("Flatten", draw(2, 3, 4, 5), axis=axis, opset=9)
    yield one("Flatten", draw(2, 3, 4, 5), axis=-1, opset=13)


@cases_of("Transpose")
def _transpose(_: str) -> Iterator[Case]:
    yield one("Transpose", draw(2, 3, 4, 5), perm=[0, 2, 3, 1])
    yield one("Transpose", draw(2, 3, 4))


@cases_of("Squeeze", "Unsqueeze")
def _squeeze(name: str) -> Iterator[Case]:
    x = draw(3, 1, 4, 1)
    for axes in ([1], [1, 3], [-1]):
        yield one(name, x, opset=11 if axes[0] < 0 else 7, axes=axes)
        yield one(name, x, ints(*axes), opset=13)
    if name == "Squeeze":
        yield one(name, x, opset=7)
        yield one(name, x, opset=13)


@cases_of("Expand")
def _expand(_: str) -> Iterator[Case]:
    for shape, target in (((3, 1), (2, 3, 6)), ((3, 1), (3, 4)), ((1, 4), (3, 1)), ((4,), (1,))):
        yield one("Expand", draw(*shape), ints(*target), opset=8)


@cases_of("Tile")
def _tile(_: str) -> Iterator[Case]:
    yield one("Tile", draw(2, 3, 4), ints(1, 2, 3))
    yield one("Tile", draw(2, 3, 4), ints(1, 1, 1), opset=7)


@cases_of("Concat")
def _concat(_: str) -> Iterator[Case]:
    yield one("Concat", draw(2, 3, 4), draw(2, 5, 4), draw(2, 2, 4), axis=1, opset=7)
    yield one("Concat", draw(2, 3, 4), draw(2, 3, 6), axis=-1)
    twice = [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)]
    yield graph_case("with itself", twice, {"x": draw(2, 3, 4)}, ["y"])
    rotate = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Concat", ["c", "a"], ["r"], axis=1),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    yield graph_case("rotate half", rotate, {"x": draw(2, 8, 3)}, ["y"], opset=13)


@cases_of("Split")
def _split(_: str) -> Iterator[Case]:
    x = draw(2, 8, 3)
    yield one("Split", x, axis=1, outputs=2, opset=7)
    yield one("Split", x, axis=1, split=[3, 5], outputs=2, opset=7)
    yield one("Split", x, axis=-2, split=[3, 4, 1], outputs=3, opset=11)
    yield one("Split", x, ints(3, 5), axis=1, outputs=2, opset=13)
    yield one("Split", x, axis=1, outputs=4, opset=13)
    yield one("Split", x, axis=1, outputs=3, num_outputs=3, opset=18)
    yield one("Split", x, axis=1, outputs=2, num_outputs=2, opset=18)
    yield one("Split", x, ints(5, 3), axis=1, outputs=2, opset=18)
    shared = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        helper.make_node("Mul", ["a", "b"], ["y"]),
    ]
    yield graph_case("gated", shared, {"x": x}, ["y"], opset=13)


@cases_of("Slice")
def _slice(_: str) -> Iterator[Case]:
    x = draw(3, 8, 6)
    for start, end, axes in (
        ([1], [5], [1]),
        ([0, 1], [2, 4], [1, 2]),
        ([-5], [-1], [1]),
        ([2], [2**31 - 1], [1]),
        ([0], [2**63 - 1], [1]),
        ([-3], [2**63 - 1], [-2]),
        ([0], [100], [2]),
        ([3], [3], [1]),
        ([-100], [3], [1]),
    ):
        yield one("Slice", x, starts=start, ends=end, axes=axes, opset=7)
        yield one("Slice", x, ints(*start), ints(*end), ints(*axes), opset=10)
    yield one("Slice", x, ints(0, 2), ints(2, 7), opset=13)
    yield one("Slice", x, ints(0), ints(8), ints(1), ints(2), opset=13)
    yield one("Slice", x, ints(-1), ints(-(2**63)), ints(1), ints(-1), opset=13)
    narrow = np.array([1], np.int32), np.array([6], np.int32), np.array([1], np.int32)
    yield one("Slice", x, *narrow, opset=11)


@cases_of("Pad")
def _pad(_: str) -> Iterator[Case]:
    x = draw(2, 6, 5)
    yield one("Pad", x, pads=[0, 0, 1, 0, 0, 2], opset=7)
    yield one("Pad", x, pads=[0, 2, 0, 0, 1, 0], mode="constant", value=1.5, opset=7)
    yield one("Pad", x, ints(0, 2, 0, 0, 0, 0), opset=11)
    yield one("Pad", x, ints(0, 2, 0, 0, 1, 0), scalar(1.5), opset=13)
    yield one("Pad", x, ints(0, 1, 1, 0, 1, 1), mode="reflect", opset=13)
    yield one("Pad", x, ints(0, -1, 0, 0, -2, 0), opset=13)
    yield one("Pad", x, ints(2, 1), None, ints(1), opset=18)
    yield one("Pad", x, ints(1, 1), None, ints(-1), mode="edge", opset=19)


@cases_of("Gather")
def _gather(_: str) -> Iterator[Case]:
    x = draw(7, 6, 5)
    yield one("Gather", x, ints(3, 0, 5), opset=7)
    yield one("Gather", x, np.array([[3, 0], [2, 2]], I64), axis=1)
    yield one("Gather", x, np.array(-1, I64), axis=-1, opset=13)


@cases_of("GatherElements")
def _gather_elements(_: str) -> Iterator[Case]:
    yield one("GatherElements", draw(4, 5), np.array([[1, 0, 2, 1, 3]], I64), axis=0)


@cases_of("GatherND")
def _gather_nd(_: str) -> Iterator[Case]:
    yield one("GatherND", draw(4, 5, 6), np.array([[1], [3]], I64), opset=12)
    yield one("GatherND", draw(2, 5, 6), np.array([[1], [3]], I64), batch_dims=1, opset=13)


@cases_of("ScatterND")
def _scatter_nd(_: str) -> Iterator[Case]:
    index = np.array([[1], [3]], I64)
    yield one("ScatterND", draw(4, 5, 6), index, draw(2, 5, 6), opset=13)
    index = np.array([[1, 0], [3, 2], [0, 4]], I64)
    yield one("ScatterND", draw(4, 5, 6), index, draw(3, 6), opset=16, reduction="add")


@cases_of("Resize")
def _resize(_: str) -> Iterator[Case]:
    x = draw(2, 6, 5, 4)
    scales = np.array([1, 1, 2, 2], F)
    empty = np.array([], F)
    yield one("Resize", x, scales, opset=10, mode="nearest")
    yield one("Resize", x, empty, scales, opset=11, mode="linear")
    yield one("Resize", x, empty, empty, ints(2, 6, 10, 8), opset=11)
    yield one("Resize", x, None, scales, opset=13, mode="cubic")
    yield one("Resize", x, None, None, ints(2, 6, 7, 9), opset=13, mode="linear")
    yield one("Resize", x, None, scales[2:], opset=18, axes=[2, 3])
    yield one("Resize", x, None, None, ints(7, 9), opset=19, axes=[2, 3])
    yield one("Resize", x, None, None, ints(2, 12, 7, 9), opset=13)
    yield one("Resize", x, None, np.array([1, 2, 2, 2], F), opset=13)


@cases_of("Upsample")
def _upsample(_: str) -> Iterator[Case]:
    x = draw(2, 6, 5, 4)
    yield one("Upsample", x, scales=[1.0, 1.0, 2.0, 2.0], mode="nearest", opset=7)
    yield one("Upsample", x, np.array([1, 1, 2, 2], F), mode="linear", opset=9)


@cases_of("DepthToSpace")
def _depth_to_space(_: str) -> Iterator[Case]:
    x = draw(2, 12, 3, 4)
    yield one("DepthToSpace", x, blocksize=2, opset=7)
    yield one("DepthToSpace", x, blocksize=2, mode="DCR", opset=11)
    yield one("DepthToSpace", x, blocksize=2, mode="CRD", opset=13)


@cases_of("SpaceToDepth")
def _space_to_depth(_: str) -> Iterator[Case]:
    yield one("SpaceToDepth", draw(2, 3, 4, 6), blocksize=2, opset=7)


@cases_of("QuantizeLinear", "com.microsoft.QuantizeLinear")
def _quantize(name: str) -> Iterator[Case]:
    domain, _, op_type = name.rpartition(".")
    x, scale, zero = draw(2, 6, 5), positive(6) / 20, codes(6)
    yield one(op_type, x, scale, zero, axis=1, domain=domain)
    yield one(op_type, x, scalar(0.05), scalar(7, np.uint8), domain=domain)
    yield one(op_type, draw(6, 5), scale, zero, axis=0, domain=domain)
    if not domain:
        yield one(op_type, x, scalar(0.05), scalar(7, np.uint8), opset=10)
        yield one(op_type, x, scale, axis=-2, opset=13)
        yield one(op_type, draw(6, 8), positive(6, 2) / 20, axis=1, block_size=4, opset=21)


@cases_of("DequantizeLinear", "com.microsoft.DequantizeLinear")
def _dequantize(name: str) -> Iterator[Case]:
    domain, _, op_type = name.rpartition(".")
    x, scale, zero = codes(2, 6, 5), positive(6), codes(6, seed=1)
    yield one(op_type, x, scale, zero, axis=1, domain=domain)
    yield one(op_type, x, scalar(0.05), scalar(7, np.uint8), domain=domain)
    yield one(
        op_type, codes(6, 5, dtype=np.int8), scale, zero.astype(np.int8), axis=0, domain=domain
    )
    if not domain:
        yield one(op_type, x, scalar(0.05), opset=10)
        yield one(op_type, x, scale, axis=-2, opset=13)
        yield one(op_type, codes(6, 8), positive(6, 2), axis=1, block_size=4, opset=21)


@cases_of("QLinearConv")
def _qlinear_conv(name: str) -> Iterator[Case]:
    x, w = codes(2, 8, 6, 6), codes(6, 4, 3, 3, dtype=np.int8)
    head = x, scalar(0.02), scalar(128, np.uint8)
    end = scalar(0.3), scalar(128, np.uint8)
    bias = np.arange(1, 7, dtype=np.int32) * 1000
    zero = np.zeros(6, np.int8)
    yield one(name, *head, w, positive(6) / 50, zero, *end, bias, group=2)
    yield one(name, *head, w, scalar(0.01), scalar(0, np.int8), *end, group=2)
    w = codes(8, 1, 3, 3, dtype=np.int8)
    yield one(name, *head, w, positive(8) / 50, np.zeros(8, np.int8), *end, group=8)
    w = codes(6, 8, 3, 3, dtype=np.int8)
    yield one(name, *head, w, positive(6) / 50, zero, *end, bias, opset=10)


@cases_of("ConvInteger")
def _conv_integer(name: str) -> Iterator[Case]:
    x, w = codes(2, 8, 6, 6), codes(6, 4, 3, 3)
    yield one(name, x, w, scalar(128, np.uint8), scalar(120, np.uint8), group=2)
    yield one(name, x, codes(6, 8, 3, 3), scalar(128, np.uint8), opset=10)
    yield one(name, x, codes(8, 1, 3, 3), group=8)


@cases_of("MatMulInteger")
def _matmul_integer(name: str) -> Iterator[Case]:
    a, b = codes(5, 6), codes(6, 7)
    yield one(name, a, b, scalar(7, np.uint8), scalar(9, np.uint8))
    yield one(name, a, b)
    yield one(name, a, b, scalar(7, np.uint8), codes(7))
    yield one(name, codes(2, 5, 6), b, np.array([7], np.uint8), opset=10)


@cases_of("QLinearMatMul")
def _qlinear_matmul(name: str) -> Iterator[Case]:
    head = codes(5, 6), scalar(0.02), scalar(128, np.uint8)
    end = scalar(0.3), scalar(128, np.uint8)
    yield one(name, *head, codes(6, 7), scalar(0.02), scalar(128, np.uint8), *end)
    w = codes(6, 7, dtype=np.int8)
    yield one(name, *head, w, positive(7) / 50, np.zeros(7, np.int8), *end)


@cases_of("ai.onnx.ml.Scaler", "ai.onnx.ml.Normalizer")
def _features(name: str) -> Iterator[Case]:
    domain, _, op_type = name.rpartition(".")
    more = {"offset": [0.5] * 4, "scale": [2.0] * 4} if op_type == "Scaler" else {"norm": "L2"}
    yield one(op_type, draw(3, 4), domain=domain, **more)


@cases_of("DynamicQuantizeLinear")
def _dynamic_quantize(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 6), outputs=3)


@cases_of(
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceL1",
    "ReduceL2",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceLogSumExp",
    "ReduceProd",
    "ReduceLogSum",
)
def _reduce(name: str) -> Iterator[Case]:
    x = positive(3, 6, 5) if name == "ReduceLogSum" else draw(3, 6, 5)
    for keep in (0, 1):
        yield one(name, x, axes=[1], keepdims=keep, opset=7 if keep else 11)
        yield one(name, x, ints(-1, 0), keepdims=keep, opset=18)
    yield one(name, x, opset=7)
    yield one(name, x, ints(), noop_with_empty_axes=1, opset=18)
    if name == "ReduceSum":
        yield one(name, x, ints(1), opset=13)


@cases_of("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _pool(name: str) -> Iterator[Case]:
    more = {} if name.startswith("Global") else {"kernel_shape": [3, 3], "strides": [2, 2]}
    yield one(name, draw(2, 6, 7, 8), opset=7, **more)
    if more:
        yield one(name, draw(2, 6, 7, 8), opset=11, pads=[1, 1, 1, 1], **more)
    if name == "MaxPool":
        yield one(name, draw(2, 6, 7, 8), outputs=2, **more)


@cases_of("MaxRoiPool")
def _max_roi_pool(name: str) -> Iterator[Case]:
    rois = np.array([[0, 0, 0, 5, 5], [1, 2, 2, 6, 6], [0, 1, 0, 4, 6]], F)
    yield one(name, draw(2, 6, 8, 8), rois, pooled_shape=[2, 2])


@cases_of("RoiAlign")
def _roi_align(name: str) -> Iterator[Case]:
    rois = np.array([[0, 0, 5, 5], [2, 2, 6, 6], [1, 0, 4, 6]], F)
    for opset in (10, 16):
        yield one(name, draw(2, 6, 8, 8), rois, ints(0, 1, 0), opset=opset, output_height=2)


@cases_of("ArgMax", "ArgMin")
def _arg(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 6, 5), axis=1, keepdims=0, opset=7)
    yield one(name, draw(3, 6, 5), axis=-1, opset=13)


@cases_of("TopK")
def _top_k(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 6, 5), axis=1, k=2, outputs=2, opset=7)
    yield one(name, draw(3, 6, 5), ints(2), outputs=2, opset=11)


@cases_of("CumSum")
def _cum_sum(name: str) -> Iterator[Case]:
    for axis in (0, -1):
        yield one(name, draw(3, 6, 5), np.array(axis, np.int32), opset=14)


@cases_of("Trilu")
def _trilu(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 4, 5, 5), np.array(1, I64))
    yield one(name, draw(3, 5, 6), upper=0)


@cases_of("GridSample")
def _grid_sample(name: str) -> Iterator[Case]:
    for opset in (16, 20):
        yield one(name, draw(2, 6, 5, 5), draw(2, 3, 4, 2), opset=opset)


@cases_of("OneHot")
def _one_hot(name: str) -> Iterator[Case]:
    yield one(name, ints(1, 0, 3), np.array(5, I64), np.array([0, 1], F), axis=-1)


@cases_of("ConstantOfShape")
def _constant_of_shape(name: str) -> Iterator[Case]:
    yield one(name, ints(3, 4, 5), opset=9)
    added = [
        helper.make_node("ConstantOfShape", ["s"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["y"]),
    ]
    yield graph_case("added to", added, {"x": draw(3, 4), "s": ints(3, 4)}, ["y"])


@cases_of("Shape")
def _shape(_: str) -> Iterator[Case]:
    # A size that is computed with keeps its value.
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["f"], ["total"], keepdims=0),
        helper.make_node("Mul", ["x", "total"], ["y"]),
    ]
    yield graph_case("sizes as data", nodes, {"x": draw(3, 4)}, ["y"])
    yield one("Shape", draw(3, 4), opset=7)


@cases_of("Cast", "CastLike")
def _cast(name: str) -> Iterator[Case]:
    if name == "Cast":
        yield one(name, draw(3, 4), to=TensorProto.FLOAT16, opset=9)
        yield one(name, draw(3, 4) * 9, to=TensorProto.INT32)
    else:
        yield one(name, draw(3, 4) * 9, codes(1, dtype=np.int8))
        yield one(name, draw(3, 4) * 9, codes(2, 5, dtype=np.int8))


@cases_of("Dropout")
def _dropout(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 4), ratio=0.5, opset=7)
    yield one(name, draw(3, 4), scalar(0.5), outputs=2, opset=12)
    yield one(name, draw(3, 4), scalar(0.5), scalar(True, np.bool_), opset=13, seed=3)


@cases_of("Clip")
def _clip(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 4), min=-0.5, max=0.5, opset=7)
    yield one(name, draw(3, 4), min=0.1, opset=7)
    yield one(name, draw(3, 4), scalar(0.1), scalar(0.6), opset=11)
    yield one(name, draw(3, 4), scalar(0.0), scalar(6.0), opset=13)
    yield one(name, draw(3, 4), None, scalar(-0.1), opset=13)


@cases_of("Add", "Sub", "Mul", "Div", "PRelu")
def _binary(name: str) -> Iterator[Case]:
    x = draw(2, 6, 4, 5)
    yield one(name, x, draw(6, 1, 1), opset=9)
    yield one(name, x, draw(1, 6, 1, 1))
    yield one(name, x, draw(5))
    yield one(name, x, draw(1))
    yield one(name, x, x + F(3), opset=7)
    if name != "PRelu":
        yield one(name, draw(6, 1), draw(2, 1, 5))
        yield one(name, draw(4, 5), draw(3, 1, 5))
        yield one(name, draw(), draw(3, 5))


@cases_of("Pow")
def _pow(name: str) -> Iterator[Case]:
    for exponent in (scalar(2), scalar(0), np.array([1, 2, 3], F), scalar(-1)):
        yield one(name, draw(4, 3), exponent, opset=13)


@cases_of("Sum", "Max", "Min", "Mean")
def _variadic(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 4), draw(4), draw(3, 1), opset=8)
    yield one(name, draw(3, 4), draw(3, 4, seed=1))
    yield one(name, draw(3, 4))


@cases_of("RandomNormalLike", "RandomUniformLike")
def _random_like(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 4))


@cases_of("Where")
def _where(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 4) > 0, draw(4), draw(3, 1), opset=9)
    yield one(name, draw(3, 4) > 0, draw(3, 4), draw(3, 4, seed=1), opset=9)


@cases_of("com.microsoft.Gelu", "com.microsoft.QuickGelu")
def _gelu(name: str) -> Iterator[Case]:
    yield one(name.rpartition(".")[2], draw(3, 4), domain=MS)


@cases_of("com.microsoft.BiasGelu", "com.microsoft.FastGelu")
def _bias_gelu(name: str) -> Iterator[Case]:
    yield one(name.rpartition(".")[2], draw(2, 3, 4), draw(4), domain=MS)
    if name.endswith("FastGelu"):
        yield one("FastGelu", draw(2, 3, 4), domain=MS)


@cases_of("If")
def _if(_: str) -> Iterator[Case]:
    def branch(op_type: str) -> onnx.GraphProto:
        node = helper.make_node(op_type, ["x", "w"], [op_type])
        return helper.make_graph([node], op_type, [], [onnx.ValueInfoProto(name=op_type)])

    node = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("Add"), else_branch=branch("Mul")
    )
    for c in (True, False):
        feeds = {"c": scalar(c, np.bool_), "x": draw(3, 4), "w": draw(4)}
        yield graph_case(f"If {c}", [node], feeds, ["y"])


@cases_of("Loop")
def _loop(_: str) -> Iterator[Case]:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["h2"]),
            helper.make_node("Relu", ["h2"], ["each"]),
            helper.make_node("Identity", ["go"], ["go2"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [2, 4]),
        ],
        [
            helper.make_tensor_value_info("go2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h2", TensorProto.FLOAT, [2, 4]),
            helper.make_tensor_value_info("each", TensorProto.FLOAT, [2, 4]),
        ],
    )
    node = helper.make_node("Loop", ["n", "c", "h0"], ["h9", "all"], body=body)
    feeds = {"n": scalar(3, I64), "c": scalar(True, np.bool_), "h0": draw(2, 4)}
    feeds |= {"w": draw(4, 4), "b": draw(4)}
    yield graph_case("a recurrent layer", [node], feeds, ["h9", "all"])


@cases_of("Scan")
def _scan(_: str) -> Iterator[Case]:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("Add", ["m", "h"], ["h2"]),
            helper.make_node("Tanh", ["h2"], ["each"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [2, 4]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6]),
        ],
        [
            helper.make_tensor_value_info("h2", TensorProto.FLOAT, [2, 4]),
            helper.make_tensor_value_info("each", TensorProto.FLOAT, [2, 4]),
        ],
    )
    for axes in ({}, {"scan_input_axes": [1], "scan_output_axes": [1]}):
        node = helper.make_node(
            "Scan", ["h0", "xs"], ["h9", "all"], body=body, num_scan_inputs=1, **axes
        )
        xs = draw(2, 5, 6) if axes else draw(5, 2, 6)
        feeds = {"h0": draw(2, 4), "xs": xs, "w": draw(6, 4)}
        yield graph_case(f"a recurrent layer {axes}", [node], feeds, ["h9", "all"])


# -- attention -----------------------------------------------------------------------------------


@cases_of("Attention")
def _attention(name: str) -> Iterator[Case]:
    q, k, v = draw(2, 6, 3, 8), draw(2, 3, 5, 8), draw(2, 3, 5, 10)
    yield one(name, q, k, v, opset=23)
    yield one(name, q, k, v, draw(3, 5), opset=24, softcap=2.0)
    yield one(name, q, k, v, draw(2, 6, 3, 5), opset=23, scale=0.3)
    yield one(name, q, k, v, draw(1, 1, 3, 5), opset=24)
    past = draw(2, 3, 4, 8), draw(2, 3, 4, 10)
    yield one(name, q, k, v, None, *past, outputs=3, opset=23)
    flat = draw(2, 3, 48), draw(2, 5, 24), draw(2, 5, 30)
    heads = {"q_num_heads": 6, "kv_num_heads": 3}
    yield one(name, *flat, opset=23, **heads)
    yield one(name, *flat, None, *past, outputs=3, opset=24, is_causal=1, **heads)
    yield one(name, *flat, None, *past, outputs=4, opset=23, **heads)
    heads = {"q_num_heads": 4, "kv_num_heads": 4}
    yield one(name, draw(1, 3, 32), draw(1, 3, 32), draw(1, 3, 32), opset=23, **heads)
    heads = {"q_num_heads": 4, "kv_num_heads": 1}
    yield one(name, draw(1, 3, 32), draw(1, 3, 8), draw(1, 3, 8), opset=24, **heads)


@cases_of("com.microsoft.Attention")
def _fused_attention(_: str) -> Iterator[Case]:
    x, w, b = draw(2, 5, 12), draw(12, 72), draw(72)
    more = {"domain": MS, "num_heads": 3}
    yield one("Attention", x, w, b, **more)
    yield one("Attention", x, w, b, scale=0.2, unidirectional=1, **more)
    sizes = [24, 24, 30]
    yield one("Attention", x, draw(12, 78), draw(78), qkv_hidden_sizes=sizes, **more)
    yield one("Attention", x, w, b, np.array([5, 3], np.int32), **more)
    yield one("Attention", x, w, b, None, None, draw(2, 3, 5, 5), **more)
    yield one("Attention", x, w, b, None, None, draw(1, 1, 5, 5), **more)
    yield one("Attention", x, w, b, None, draw(2, 2, 3, 4, 8), outputs=2, **more)


@cases_of("com.microsoft.QAttention")
def _quantised_attention(_: str) -> Iterator[Case]:
    x, w, b = codes(2, 5, 16), codes(16, 72), draw(72)
    scales = scalar(0.02), scalar(0.01)
    points = scalar(128, np.uint8), scalar(120, np.uint8)
    more = {"domain": MS, "num_heads": 3}
    yield one("QAttention", x, w, b, *scales, None, *points, **more)
    by_column = scalar(0.02), positive(72) / 50
    w = codes(16, 72, dtype=np.int8)
    points = scalar(128, np.uint8), np.zeros(72, np.int8)
    yield one("QAttention", x, w, b, *by_column, None, *points, **more)


@cases_of("com.microsoft.MultiHeadAttention")
def _multi_head_attention(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    q, k, v = draw(2, 3, 24), draw(2, 5, 24), draw(2, 5, 30)
    more = {"domain": MS, "num_heads": 3}
    yield one(name, q, k, v, **more)
    yield one(name, q, k, v, draw(78), scale=0.3, **more)
    yield one(name, q, k, v, None, np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], np.int32), **more)
    yield one(name, q, k, v, None, None, draw(2, 3, 3, 5), **more)
    yield one(name, q, k, v, None, None, draw(1, 1, 3, 5), **more)
    yield one(name, q, draw(2, 3, 5, 8), draw(2, 3, 5, 8), draw(72), **more)
    own = draw(2, 3, 24), draw(2, 3, 24, seed=1), draw(2, 3, 24, seed=2)
    past = draw(2, 3, 4, 8), draw(2, 3, 4, 8, seed=1)
    yield one(name, *own, None, None, None, *past, outputs=3, **more)
    yield one(name, *own, None, None, None, *past, outputs=3, unidirectional=1, **more)


@cases_of("com.microsoft.MultiHeadAttention")
def _packed_multi_head_attention(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    yield one(name, draw(2, 4, 3, 3, 8), num_heads=3, domain=MS)
    yield one(name, draw(2, 4, 24), draw(2, 5, 3, 2, 8), num_heads=3, domain=MS)


@cases_of("com.microsoft.PackedAttention", "com.microsoft.PackedMultiHeadAttention")
def _packed_attention(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    tokens = np.array([[0, 1, 2], [3, 4, 5]], np.int32), np.array([0, 2, 5], np.int32)
    more = {"domain": MS, "num_heads": 3}
    if name == "PackedAttention":
        yield one(name, draw(5, 12), draw(12, 72), draw(72), *tokens, **more)
        return
    qkv = draw(5, 24), draw(5, 24, seed=1), draw(5, 30)
    yield one(name, *qkv, draw(78), *tokens, **more)
    yield one(name, draw(5, 3, 3, 8), None, None, None, *tokens, **more)


@cases_of("com.microsoft.GroupQueryAttention")
def _group_query_attention(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    more = {"domain": MS, "num_heads": 6, "kv_num_heads": 3}
    q, k, v = draw(2, 5, 192), draw(2, 5, 96), draw(2, 5, 96, seed=1)
    ends = np.array([4, 3], np.int32), scalar(5, np.int32)
    past = draw(2, 3, 8, 32), draw(2, 3, 8, 32, seed=1)
    tables = draw(8, 16), draw(8, 16, seed=1)
    yield one(name, q, k, v, *past, *ends, outputs=3, **more)
    yield one(name, q, k, v, None, None, *ends, outputs=3, **more)
    yield one(name, q, k, v, None, None, *ends, scale=0.1, **more)
    turning = {"outputs": 3, "do_rotary": 1, **more}
    yield one(name, q, k, v, *past, *ends, *tables, **turning)
    yield one(name, q, k, v, *past, *ends, *tables, rotary_interleaved=1, **turning)
    part = draw(8, 8), draw(8, 8, seed=1)
    q, k, v = draw(2, 5, 288), draw(2, 5, 144), draw(2, 5, 144, seed=1)
    wide = draw(2, 3, 8, 48), draw(2, 3, 8, 48, seed=1)
    yield one(name, q, k, v, *wide, *ends, *part, **turning)
    q, k, v = draw(2, 5, 192), draw(2, 5, 96), draw(2, 5, 96, seed=1)
    yield one(name, q, k, v, *past, *ends, *part, **turning)
    packed = draw(2, 5, 384)
    yield one(name, packed, None, None, *past, *ends, *tables, **turning)
    yield one(name, packed, None, None, *past, *ends, outputs=3, **more)
    bias = draw(2, 6, 5, 5)
    yield one(name, q, k, v, *past, *ends, None, None, None, bias, draw(6), outputs=3, **more)


@cases_of("com.microsoft.LinearAttention")
def _linear_attention(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    q, k, v, state = draw(2, 5, 48), draw(2, 5, 24), draw(2, 5, 30), draw(2, 3, 8, 10)
    gate, rate = -positive(2, 5, 3), positive(2, 5, 3) / 2
    more = {"domain": MS, "q_num_heads": 6, "kv_num_heads": 3, "outputs": 2}
    k = k / 8
    yield one(name, q, k, v, update_rule="linear", **more)
    yield one(name, q, k, v, state, update_rule="linear", scale=0.3, **more)
    yield one(name, q, k, v, state, gate, update_rule="gated", **more)
    yield one(name, q, k, v, state, -positive(2, 5, 24), update_rule="gated", **more)
    yield one(name, q, k, v, None, None, rate, update_rule="delta", **more)
    yield one(name, q, k, v, state, gate, rate, **more)
    yield one(name, q, k, v, state, gate, positive(2, 5, 1) / 2, **more)
    more |= {"q_num_heads": 3, "kv_num_heads": 6}
    wide = draw(2, 5, 24), draw(2, 5, 48) / 8, draw(2, 5, 60)
    yield one(name, *wide, update_rule="linear", **more)


@cases_of("com.microsoft.LinearAttentionGate")
def _linear_attention_gate(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    a = draw(2, 5, 6), draw(6), draw(6, seed=1)
    yield one(name, *a, domain=MS)
    yield one(name, *a, draw(2, 5, 6, seed=1), domain=MS, outputs=2)


@cases_of("RotaryEmbedding")
def _rotary(name: str) -> Iterator[Case]:
    tables = draw(2, 5, 4), draw(2, 5, 4, seed=1)
    places = np.array([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]], I64)
    by_place = draw(7, 4), draw(7, 4, seed=1), places
    for more in ({}, {"interleaved": 1}):
        yield one(name, draw(2, 3, 5, 8), *tables, opset=23, **more)
        yield one(name, draw(2, 3, 5, 8), *by_place, opset=23, **more)
        yield one(name, draw(2, 5, 24), *by_place, opset=23, num_heads=3, **more)
        more = more | {"rotary_embedding_dim": 8, "num_heads": 3}
        yield one(name, draw(2, 3, 5, 12), *by_place, opset=23, **more)
        yield one(name, draw(2, 5, 36), *by_place, opset=23, **more)


@cases_of("com.microsoft.RotaryEmbedding")
def _contrib_rotary(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    places = np.array([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]], I64)
    tables = places, draw(7, 4), draw(7, 4, seed=1)
    for more in ({"domain": MS}, {"domain": MS, "interleaved": 1}):
        yield one(name, draw(2, 3, 5, 8), *tables, **more)
        yield one(name, draw(2, 5, 24), *tables, **more)
        yield one(name, draw(2, 5, 24), *tables, num_heads=3, **more)
        yield one(name, draw(2, 5, 24), ints(1), *tables[1:], **more)
        more = more | {"rotary_embedding_dim": 8, "num_heads": 3}
        yield one(name, draw(2, 3, 5, 12), *tables, **more)
        yield one(name, draw(2, 5, 36), *tables, **more)


@cases_of("com.microsoft.MRotaryEmbedding")
def _multimodal_rotary(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    places = np.array([[[0, 1, 2]], [[1, 1, 2]], [[0, 3, 3]]], I64)
    tables = places, draw(7, 9), draw(7, 9, seed=1)
    more: dict[str, Any] = {"domain": MS, "mrope_section": [2, 4, 3]}
    yield one(name, draw(1, 3, 3, 18), *tables, **more)
    yield one(name, draw(1, 3, 54), *tables, num_heads=3, **more)
    yield one(name, draw(1, 3, 54), *tables, num_heads=3, interleaved=1, **more)
    yield one(name, draw(1, 3, 3, 18), *tables, mrope_layout=1, **more | {"mrope_section": [3] * 3})


@cases_of("com.microsoft.MoE")
def _mixture_of_experts(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    x, router = draw(5, 8), draw(5, 4)
    layers = draw(4, 12, 8), draw(4, 12), draw(4, 8, 6), draw(4, 8)
    more = {"swiglu_fusion": 1, "activation_type": "swiglu", "k": 2}
    yield one(name, x, router, *layers, domain=MS, **more)
    layers = draw(4, 6, 8), draw(4, 6), draw(4, 8, 6), draw(4, 8)
    yield one(name, x, router, *layers, domain=MS, activation_type="relu", k=2)


@cases_of("com.microsoft.MoE")
def _halves_of_experts(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    layers = draw(4, 12, 8), draw(4, 12), draw(4, 8, 6), draw(4, 8)
    more = {"swiglu_fusion": 2, "activation_type": "swiglu", "k": 2}
    yield one(name, draw(5, 8), draw(5, 4), *layers, domain=MS, **more)
    layers = draw(4, 6, 8), draw(4, 6), draw(4, 8, 6), draw(4, 8), draw(4, 6, 8), draw(4, 6)
    yield one(name, draw(5, 8), draw(5, 4), *layers, domain=MS, activation_type="silu", k=2)


@cases_of("com.microsoft.EmbedLayerNormalization")
def _embed_layer_norm(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    words = np.array([[1, 0, 3], [5, 2, 2]], np.int32)
    kinds = np.array([[0, 0, 1], [0, 1, 1]], np.int32)
    tables = draw(7, 8), draw(4, 8)
    end = draw(8), draw(8, seed=1)
    yield one(name, words, kinds, *tables, draw(2, 8), *end, domain=MS, outputs=2)
    yield one(name, words, None, *tables, None, *end, domain=MS, outputs=2)
    yield one(name, words, kinds, *tables, draw(2, 8), *end, words, domain=MS, outputs=3)
    places = np.array([[0, 1, 2], [2, 1, 0]], np.int32)
    operands = words, kinds, *tables, draw(2, 8), *end, words, places
    yield one(name, *operands, domain=MS, outputs=3)


@cases_of("com.microsoft.QEmbedLayerNormalization")
def _quantised_embed_layer_norm(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    words = np.array([[1, 0, 3], [5, 2, 2]], np.int32)
    kinds = np.array([[0, 0, 1], [0, 1, 1]], np.int32)
    end = codes(8), codes(8, seed=1)
    scales, points = [scalar(0.02)] * 5, [scalar(120, np.uint8)] * 5
    tables = codes(7, 8), codes(4, 8), codes(2, 8)
    yield one(name, words, kinds, *tables, *end, None, *scales, *points, domain=MS, outputs=2)
    operands = words, kinds, *tables, *end, words, *scales, *points
    yield one(name, *operands, domain=MS, outputs=2)
    scales[2] = points[2] = None
    operands = words, None, *tables[:2], None, *end, None, *scales, *points
    yield one(name, *operands, domain=MS, outputs=2)


@cases_of("com.microsoft.GemmaRotaryEmbedding")
def _gemma_rotary(name: str) -> Iterator[Case]:
    heads = [draw(2, 3, 5, 8, seed=i) for i in range(4)]
    yield one(name.rpartition(".")[2], draw(2, 5, 8), *heads, domain=MS, outputs=2)


@cases_of("com.microsoft.TorchEmbedding")
def _torch_embedding(name: str) -> Iterator[Case]:
    yield one(name.rpartition(".")[2], draw(7, 6), ints(3, 0, 5), domain=MS)


@cases_of("com.microsoft.RemovePadding", "com.microsoft.RestorePadding")
def _padding(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    if name == "RemovePadding":
        yield one(name, draw(2, 3, 8), np.array([2, 3], np.int32), domain=MS, outputs=4)
    else:
        offsets = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
        yield one(name, draw(5, 8), offsets, domain=MS)


@cases_of("com.microsoft.RelativePositionBias")
def _relative_position_bias(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    yield one(name, draw(32, 6), ints(5), ints(7), max_distance=20, domain=MS)


@cases_of("com.microsoft.GatedRelativePositionBias")
def _gated_relative_position_bias(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    x = draw(2, 5, 24), draw(24), draw(1, 3, 5, 7), draw(8, 6), draw(6), draw(1, 3, 1, 1)
    yield one(name, *x, num_heads=3, domain=MS)


@cases_of("LinearAttention")
def _standard_linear_attention(name: str) -> Iterator[Case]:
    q, k, v, state = draw(2, 5, 48), draw(2, 5, 24), draw(2, 5, 30), draw(2, 3, 8, 10)
    more = {"opset": 27, "q_num_heads": 6, "kv_num_heads": 3, "outputs": 2}
    yield one(name, q, k, v, state, update_rule="linear", **more)


# -- matrix products and convolutions of onnxruntime's own ---------------------------------------


@cases_of("com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul")
def _fused_matmul(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    for trans_a, trans_b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        a, b = draw(2, 3, 5, 6), draw(2, 3, 6, 7)
        a, b = (a.swapaxes(2, 3) if trans_a else a), (b.swapaxes(2, 3) if trans_b else b)
        more = {"transA": trans_a, "transB": trans_b, "domain": MS, "alpha": 0.5}
        yield one(name, a.copy(), b.copy(), **more)
        yield one(name, a[0, 0].copy(), b[0, 0].copy(), **more)
    if name == "FusedMatMul":
        a, b = draw(5, 2, 3, 6), draw(6, 2, 3, 7)
        yield one(name, a, b, transBatchA=1, transBatchB=1, domain=MS)
        yield one(name, a, draw(2, 3, 7, 6), transBatchA=1, transB=1, domain=MS)
        yield one(name, draw(6, 2, 3, 5), b, transBatchA=1, transBatchB=1, transA=1, domain=MS)


@cases_of("com.microsoft.FusedMatMulActivation", "com.microsoft.GemmFastGelu")
def _matmul_and_more(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    if name == "GemmFastGelu":
        yield one(name, draw(2, 5, 6), draw(6, 7), draw(7), domain=MS)
    else:
        yield one(name, draw(2, 5, 6), draw(7, 6), transB=1, activation="Relu", domain=MS)
        yield one(name, draw(2, 5, 6), draw(6, 7), activation="Softmax", domain=MS)


@cases_of("DeformConv")
def _deform_conv(name: str) -> Iterator[Case]:
    x, w, b = draw(2, 8, 7, 7), draw(6, 4, 3, 3), draw(6)
    yield one(name, x, w, draw(2, 18, 5, 5), b, group=2, opset=19)
    yield one(name, x, w, draw(2, 18, 5, 5), b, draw(2, 9, 5, 5), group=2, opset=22)
    offset = draw(2, 36, 5, 5)
    yield one(name, x, draw(6, 8, 3, 3), offset, offset_group=2, opset=19)


@cases_of("com.microsoft.CausalConvWithState")
def _causal_conv(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    x, w, b = draw(2, 6, 7), draw(6, 1, 3), draw(6)
    yield one(name, x, w, b, domain=MS, outputs=2)
    yield one(name, x, w, b, domain=MS)
    yield one(name, x, w, b, draw(2, 6, 2), domain=MS, outputs=2, activation="silu")
    yield one(name, x, w, None, draw(2, 6, 4), domain=MS, outputs=2, dilation=2)
    yield one(name, draw(2, 7, 6), w, b, draw(2, 2, 6), domain=MS, outputs=2, channels_last=1)


@cases_of("CausalConvWithState", "com.microsoft.CausalConvWithState")
def _other_causal_conv(name: str) -> Iterator[Case]:
    x, w, b = draw(2, 6, 7), draw(6, 1, 3), draw(6)
    if name == "CausalConvWithState":
        yield one(name, x, w, b, opset=27, outputs=2)
        yield one(name, x, w, b, opset=27)
    else:
        more = {"domain": MS, "outputs": 2, "state_window": 2}
        yield one(name.rpartition(".")[2], x, w, b, draw(2, 2, 6, 2), **more)


@cases_of("com.microsoft.NhwcConv", "com.microsoft.NhwcFusedConv")
def _channels_last_conv(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    yield one(name, draw(2, 7, 6, 8), draw(6, 4, 3, 3), draw(6), group=2, domain=MS)
    yield one(name, draw(2, 7, 7, 8), draw(8, 1, 3, 3), group=8, domain=MS)
    if name == "NhwcFusedConv":
        x, z = draw(2, 7, 6, 8), draw(2, 5, 4, 6)
        yield one(name, x, draw(6, 4, 3, 3), draw(6), z, group=2, domain=MS)
        yield one(name, x, draw(6, 4, 3, 3), None, z, group=2, domain=MS)


@cases_of("com.microsoft.ConvTransposeWithDynamicPads")
def _dynamic_pads(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    x, w = draw(2, 8, 5, 5), draw(8, 3, 3, 3)
    yield one(name, x, w, ints(1, 1, 1, 1), draw(6), group=2, strides=[2, 2], domain=MS)
    yield one(name, x, w, ints(0, 0, 0, 0), group=2, domain=MS)


@cases_of("com.microsoft.CDist")
def _distances(name: str) -> Iterator[Case]:
    for metric in ("euclidean", "sqeuclidean"):
        yield one(name.rpartition(".")[2], draw(5, 6), draw(7, 6), metric=metric, domain=MS)


@cases_of("com.microsoft.Inverse")
def _inverse(name: str) -> Iterator[Case]:
    yield one(name.rpartition(".")[2], draw(4, 3, 3), domain=MS)


# -- quantised operators of onnxruntime's own ----------------------------------------------------

_END = scalar(0.3), scalar(128, np.uint8)


@cases_of("com.microsoft.QLinearConv")
def _contrib_qlinear_conv(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    x, w = codes(2, 6, 6, 8), codes(6, 4, 3, 3, dtype=np.int8)
    head = x, scalar(0.02), scalar(128, np.uint8)
    bias = np.arange(1, 7, dtype=np.int32) * 1000
    per_channel = w, positive(6) / 50, np.zeros(6, np.int8)
    yield one(name, *head, *per_channel, *_END, bias, group=2, channels_last=1, domain=MS)


@cases_of("com.microsoft.MatMulInteger16")
def _matmul_integer16(name: str) -> Iterator[Case]:
    a, b = codes(5, 6, dtype=np.int16), codes(6, 7, dtype=np.int16)
    yield one(name.rpartition(".")[2], a, b, domain=MS)


@cases_of("com.microsoft.MatMulIntegerToFloat")
def _matmul_to_float(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    a, b = codes(5, 6), codes(6, 7)
    points = scalar(7, np.uint8), scalar(9, np.uint8)
    yield one(name, a, b, scalar(0.02), scalar(0.03), *points, draw(7), domain=MS)
    yield one(name, a, b, scalar(0.02), positive(7), points[0], codes(7), domain=MS)
    yield one(name, a, b, scalar(0.02), scalar(0.03), domain=MS)


@cases_of("com.microsoft.DynamicQuantizeMatMul")
def _dynamic_matmul(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    b = codes(6, 7)
    yield one(name, draw(5, 6), b, scalar(0.02), scalar(128, np.uint8), draw(7), domain=MS)
    yield one(name, draw(2, 5, 6), b, positive(7) / 50, codes(7, seed=1), domain=MS)


@cases_of("com.microsoft.QGemm")
def _qgemm(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    bias = np.arange(1, 8, dtype=np.int32) * 1000
    for trans_a, trans_b in ((0, 0), (0, 1), (1, 0)):
        a, b = codes(5, 6), codes(6, 7)
        a, b = (a.T.copy() if trans_a else a), (b.T.copy() if trans_b else b)
        head = a, scalar(0.02), scalar(128, np.uint8), b, scalar(0.02), scalar(120, np.uint8)
        more = {"transA": trans_a, "transB": trans_b, "domain": MS}
        yield one(name, *head, bias, *_END, **more)
        yield one(name, *head, **more)
    head = codes(5, 6), scalar(0.02), scalar(128, np.uint8)
    by_column = codes(6, 7, dtype=np.int8), positive(7) / 50, np.zeros(7, np.int8)
    yield one(name, *head, *by_column, bias, *_END, domain=MS)


@cases_of("com.microsoft.DynamicQuantizeLSTM")
def _dynamic_lstm(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    t, b, i, h, d = 5, 3, 6, 4, 2
    w, r = codes(d, i, 4 * h), codes(d, h, 4 * h)
    more = {"hidden_size": h, "direction": "bidirectional", "outputs": 3, "domain": MS}
    whole = positive(d) / 50, np.full(d, 128, np.uint8)
    yield one(name, draw(t, b, i), w, r, draw(d, 8 * h), *[None] * 4, *whole, *whole, **more)
    by_gate = positive(d, 4 * h) / 50, np.full((d, 4 * h), 128, np.uint8)
    states = draw(d, b, h), draw(d, b, h, seed=1), None
    operands = draw(t, b, i), w, r, draw(d, 8 * h), None, *states
    yield one(name, *operands, *by_gate, *by_gate, **more)


@cases_of("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def _qlinear_binary(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    a = codes(2, 6, 5), scalar(0.02), scalar(128, np.uint8)
    for b in (codes(2, 6, 5, seed=1), codes(6, 1), codes(1)):
        yield one(name, *a, b, scalar(0.03), scalar(120, np.uint8), *_END, domain=MS)


@cases_of("com.microsoft.QLinearWhere")
def _qlinear_where(name: str) -> Iterator[Case]:
    a = codes(2, 6, 5), scalar(0.02), scalar(128, np.uint8)
    b = codes(2, 6, 5, seed=1), scalar(0.03), scalar(120, np.uint8)
    yield one(name.rpartition(".")[2], draw(6, 1) > 0, *a, *b, *_END, domain=MS)
    yield one(name.rpartition(".")[2], draw(2, 6, 5) > 0, *a, *b, *_END, domain=MS)


@cases_of("com.microsoft.QLinearConcat")
def _qlinear_concat(name: str) -> Iterator[Case]:
    a = codes(2, 6, 5), scalar(0.02), scalar(128, np.uint8)
    b = codes(2, 4, 5, seed=1), scalar(0.03), scalar(120, np.uint8)
    yield one(name.rpartition(".")[2], *_END, *a, *b, axis=1, domain=MS)


@cases_of(
    "com.microsoft.QLinearLeakyRelu", "com.microsoft.QLinearSigmoid", "com.microsoft.QLinearSoftmax"
)
def _qlinear_unary(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    x = codes(2, 6, 5), scalar(0.02), scalar(128, np.uint8)
    if name == "QLinearSoftmax":
        for axis, opset in ((-1, 13), (1, 13), (1, 11)):
            case = one(name, *x, scalar(1 / 256), scalar(0, np.uint8), axis=axis, domain=MS)
            attribute = helper.make_attribute("opset", opset)
            case.model.graph.node[0].attribute.append(attribute)
            yield case
    else:
        end = _END if name == "QLinearSigmoid" else x[1:]
        yield one(name, *x, *end, domain=MS)  # without zero points, onnxruntime aborts


@cases_of("com.microsoft.QLinearAveragePool", "com.microsoft.QLinearGlobalAveragePool")
def _qlinear_pool(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    more = {} if "Global" in name else {"kernel_shape": [3, 3], "strides": [2, 2]}
    ends = scalar(0.02), scalar(128, np.uint8), scalar(0.02), scalar(128, np.uint8)
    yield one(name, codes(2, 6, 7, 8), *ends, domain=MS, **more)
    yield one(name, codes(2, 7, 8, 6), *ends, channels_last=1, domain=MS, **more)


@cases_of("com.microsoft.QLinearReduceMean")
def _qlinear_mean(name: str) -> Iterator[Case]:
    ends = scalar(0.02), scalar(128, np.uint8), scalar(0.02), scalar(128, np.uint8)
    for keep in (0, 1):
        x = codes(2, 6, 5)
        yield one(name.rpartition(".")[2], x, *ends, axes=[1], keepdims=keep, domain=MS)


@cases_of("com.microsoft.MulInteger", "com.microsoft.ReduceSumInteger")
def _integers(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    point = scalar(128, np.uint8)
    if name == "MulInteger":
        yield one(name, codes(2, 6), point, codes(6), point, domain=MS)
        yield one(name, codes(2, 6), None, codes(2, 6, seed=1), domain=MS)
        yield one(name, codes(2, 6), None, codes(2, 6, seed=1), point, domain=MS)
    else:
        yield one(name, codes(2, 6), axes=[1], keepdims=0, domain=MS)


@cases_of("com.microsoft.MatMulNBits")
def _matmul_nbits(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    n, blocks, size = 6, 4, 16
    for bits in (4, 8):
        b = codes(n, blocks, size * bits // 8)
        more = {"K": blocks * size, "N": n, "bits": bits, "block_size": size, "domain": MS}
        a, scales, bias = draw(2, 3, blocks * size), positive(n, blocks) / 20, draw(n)
        yield one(name, a, b, scales, **more)
        yield one(name, a, b, scales, codes(n, blocks * bits // 8), **more)
        yield one(name, a, b, scales, None, None, bias, **more)
    # The last block is not full, and an odd number of blocks.
    more = {"K": 40, "N": n, "bits": 4, "block_size": size, "domain": MS}
    b, points = codes(n, 3, 8), codes(n, 2)
    yield one(name, draw(2, 40), b, positive(n, 3) / 20, points, **more)
    more["K"] = 48
    yield one(name, draw(2, 48), b, positive(n, 3) / 20, points, **more)


@cases_of("com.microsoft.MatMulNBitsMlp", "com.microsoft.MatMulNBitsQkv")
def _matmuls_nbits(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    a, norm = draw(2, 3, 64), draw(64)
    weight = codes(6, 2, 16), positive(6, 2) / 20, draw(6)
    more: dict[str, Any] = {"K": 64, "bits": 4, "block_size": 32, "domain": MS}
    if name == "MatMulNBitsMlp":
        yield one(name, a, None, norm, *weight, *weight, N=6, activation="silu", **more)
        yield one(name, a, None, None, *weight, *weight, N=6, activation="silu", **more)
        yield one(name, a, a, norm, *weight, *weight, N=6, activation="silu", outputs=2, **more)
    else:
        small = codes(4, 2, 16), positive(4, 2) / 20, draw(4)
        more |= {"Nq": 6, "Nkv": 4}
        yield one(name, a, None, norm, *weight, *small, *small, outputs=3, **more)
        yield one(name, a, a, norm, *weight, *small, *small, outputs=4, **more)


@cases_of("com.microsoft.GatherBlockQuantized")
def _gather_block_quantized(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    more = {"block_size": 16, "quantize_axis": 1, "gather_axis": 0, "domain": MS}
    index = ints(3, 0, 5)
    for bits in (4, 8):
        data = codes(7, 64 * bits // 8)
        scales, points = positive(7, 4), codes(7, 4 * bits // 8)
        for case in (
            one(name, data, index, scales, bits=bits, **more),
            one(name, data, index, scales, points, bits=bits, **more),
        ):
            yield with_constants(case, set(case.feeds) - {"x1"})


# -- more of onnxruntime's own, and of newer opsets ----------------------------------------------


@cases_of("com.microsoft.GroupNorm", "com.microsoft.SkipGroupNorm")
def _contrib_group_norm(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    x, ends = draw(2, 4, 5, 12), (draw(12), draw(12, seed=1))
    more = {"groups": 3, "activation": 1, "domain": MS}
    if name == "GroupNorm":
        yield one(name, x, *ends, **more)
        yield one(name, draw(2, 12, 4, 5), *ends, channels_last=0, **more)
        return
    for skip in (draw(2, 4, 5, 12), draw(2, 1, 1, 12), draw(2, 12)):
        yield one(name, x, *ends, skip, draw(12), outputs=2, **more)
        yield one(name, x, *ends, skip, **more)


@cases_of("com.microsoft.GatedRMSNorm")
def _gated_rms_norm(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    for width in (24, 8):
        for activation in ("silu", "sigmoid"):
            x, gate = draw(2, 5, width), draw(2, 5, width, seed=1)
            yield one(name, x, draw(8), gate, activation=activation, domain=MS)


@cases_of("com.microsoft.BranchwiseRMSNorm")
def _branchwise_norm(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    for scale in (draw(24), draw(3, 8), draw(8), None):
        yield one(name, draw(2, 5, 3, 8), scale, domain=MS)
        yield one(name, draw(2, 5, 24), scale, num_branches=3, domain=MS)


@cases_of("com.microsoft.EngramGate")
def _engram_gate(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    x = draw(2, 5, 3, 8), draw(2, 5, 3, 8, seed=1), draw(2, 5, 8)
    scales = draw(3, 8), draw(3, 8, seed=1), draw(3, 8, seed=2)
    yield one(name, *x, *scales[:2], domain=MS)
    yield one(name, *x, *scales, domain=MS, outputs=2)


@cases_of("com.microsoft.BiasSoftmax")
def _bias_softmax(name: str) -> Iterator[Case]:
    x, bias = draw(2, 3, 5, 6), draw(2, 1, 1, 6)
    yield one(name.rpartition(".")[2], x, bias, axis=3, is_inner_broadcast=1, domain=MS)


@cases_of("Affine", "ParametricSoftplus", "Scale", "ScaledTanh")
def _experimental(name: str) -> Iterator[Case]:
    given = {"Scale": {"scale": 2.0}}.get(name, {"alpha": 0.5, "beta": 0.7})
    yield one(name, draw(3, 4), opset=7, **given)


@cases_of("MemcpyFromHost", "MemcpyToHost")
def _copies(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 4))


@cases_of("SwiGLU")
def _swiglu(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 4), draw(3, 4, seed=1), opset=28)


@cases_of("com.microsoft.BiasAdd")
def _bias_add(name: str) -> Iterator[Case]:
    yield one(name.rpartition(".")[2], draw(2, 5, 6), draw(6), draw(2, 5, 6, seed=1), domain=MS)


@cases_of("com.microsoft.MurmurHash3")
def _hash(name: str) -> Iterator[Case]:
    x = np.arange(12, dtype=np.int32).reshape(3, 4)
    yield one(name.rpartition(".")[2], x, seed=3, domain=MS)


@cases_of("com.microsoft.ScaledSiLU", "com.microsoft.SampleOp")
def _contrib_unary(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    yield one(name, draw(3, 4), domain=MS)
    if name == "ScaledSiLU":
        yield one(name, draw(3, 4), scalar(0.5), domain=MS)


@cases_of("com.microsoft.GatedAdd")
def _gated_add(name: str) -> Iterator[Case]:
    x, y, gate = draw(2, 5, 6), draw(2, 5, 6, seed=1), draw(2, 5, 1)
    yield one(name.rpartition(".")[2], x, y, gate, domain=MS)


@cases_of("com.microsoft.NhwcMaxPool")
def _channels_last_pool(name: str) -> Iterator[Case]:
    yield one(name.rpartition(".")[2], codes(2, 7, 8, 6), kernel_shape=[3, 3], domain=MS)


@cases_of("com.microsoft.MaxpoolWithMask")
def _masked_pool(name: str) -> Iterator[Case]:
    mask = np.ones((2, 6, 7, 8), np.int32)
    mask[:, :, 3] = 0
    yield one(name.rpartition(".")[2], draw(2, 6, 7, 8), mask, kernel_shape=[3, 3], domain=MS)


@cases_of("com.microsoft.CropAndResize")
def _crop_and_resize(name: str) -> Iterator[Case]:
    rois = np.array([[0, 0, 1, 1], [0.2, 0.2, 0.8, 0.8], [0.1, 0, 0.4, 0.6]], F)
    places = np.array([0, 1, 0], np.int32)
    yield one(
        name.rpartition(".")[2], draw(2, 6, 8, 8), rois, places, ints(3, 4).astype("i4"), domain=MS
    )


@cases_of("com.microsoft.Trilu")
def _contrib_trilu(name: str) -> Iterator[Case]:
    yield one(name.rpartition(".")[2], draw(3, 5, 6), np.array(1, I64), domain=MS)


@cases_of("com.microsoft.Pad")
def _contrib_pad(name: str) -> Iterator[Case]:
    name = name.rpartition(".")[2]
    yield one(name, draw(2, 6, 5), ints(0, 2, 0, 0, 1, 0), domain=MS)
    yield one(name, draw(2, 6, 5), ints(0, 0, 1, 0, 0, 1), mode="reflect", domain=MS)


@cases_of("com.microsoft.GatherND")
def _contrib_gather_nd(name: str) -> Iterator[Case]:
    index = np.array([[1], [3]], I64)
    yield one(name.rpartition(".")[2], draw(4, 5, 6), index, domain=MS)


@cases_of("com.microsoft.GridSample")
def _contrib_grid_sample(name: str) -> Iterator[Case]:
    yield one(name.rpartition(".")[2], draw(2, 6, 5, 5), draw(2, 3, 4, 2), domain=MS)


@cases_of("com.microsoft.ExpandDims")
def _expand_dims(name: str) -> Iterator[Case]:
    for at in (0, 1, -1):
        yield one(name.rpartition(".")[2], draw(3, 4), np.array(at, np.int32), domain=MS)


@cases_of("com.microsoft.UnfoldTensor")
def _unfold(name: str) -> Iterator[Case]:
    yield one(name.rpartition(".")[2], draw(3, 8, 5), dim=1, size=3, step=2, domain=MS)
    yield one(name.rpartition(".")[2], draw(3, 8), size=4, domain=MS)


@cases_of("Col2Im")
def _col_to_image(name: str) -> Iterator[Case]:
    yield one(name, draw(2, 24, 12), ints(4, 5), ints(2, 2), opset=18)


@cases_of("CenterCropPad")
def _center_crop_pad(name: str) -> Iterator[Case]:
    yield one(name, draw(6, 8, 5), ints(6, 4, 7), opset=18)
    yield one(name, draw(6, 8, 5), ints(4), axes=[1], opset=18)


@cases_of("DFT")
def _dft(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 8, 6, 1), axis=1, opset=17)
    yield one(name, draw(3, 8, 6, 1), None, np.array(1, I64), opset=20)
    yield one(name, draw(3, 8, 6, 1), None, np.array(1, I64), onesided=1, opset=20)


@cases_of("TensorScatter")
def _tensor_scatter(name: str) -> Iterator[Case]:
    cache, update = draw(2, 3, 7, 6), draw(2, 3, 2, 6)
    yield one(name, cache, update, ints(1, 3), opset=24)
    yield one(name, cache, update, opset=24)
    yield one(name, draw(2, 7, 3, 6), draw(2, 2, 3, 6), ints(1, 3), axis=1, opset=24)


@cases_of("CumProd")
def _cum_prod(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 6, 5), np.array(1, np.int32), opset=26)
    yield one(name, draw(3, 6, 5), np.array(-1, np.int32), exclusive=1, opset=26)


@cases_of("ScatterElements", "Scatter")
def _scatter_elements(name: str) -> Iterator[Case]:
    index, updates = np.array([[1, 0, 2, 1, 3]], I64), draw(1, 5)
    yield one(name, draw(4, 5), index, updates, axis=0, opset=9 if name == "Scatter" else 16)
    yield one(name, draw(4, 5), index[:, :3], updates[:, :3], opset=9 if name == "Scatter" else 11)


@cases_of("BitCast")
def _bit_cast(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 4), to=TensorProto.INT32, opset=26)


@cases_of("SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength")
def _sequence(name: str) -> Iterator[Case]:
    """Two tensors go in, and come out one by one."""
    nodes = [
        helper.make_node("SequenceEmpty", [], ["none"]),
        helper.make_node("SequenceInsert", ["none", "a"], ["one"]),
        helper.make_node("SequenceInsert", ["one", "b"], ["two"]),
        helper.make_node("SequenceErase", ["two", "at"], ["rest"]),
        helper.make_node("SequenceLength", ["two"], ["count"]),
        helper.make_node("SequenceAt", ["two", "at"], ["y"]),
        helper.make_node("SequenceAt", ["rest", "at"], ["z"]),
    ]
    feeds = {"a": draw(2, 5), "b": draw(2, 5, seed=1), "at": np.array(0)}
    yield graph_case(name, nodes, feeds, ["y", "z", "count"])
    feeds = {**feeds, "b": draw(3, 5)}
    yield graph_case(f"{name}, of unlike sizes", nodes, feeds, ["y", "z", "count"])


@cases_of("SequenceConstruct", "ConcatFromSequence")
def _concat_from_sequence(name: str) -> Iterator[Case]:
    for new in (0, 1):
        nodes = [
            helper.make_node("SequenceConstruct", ["a", "b"], ["both"]),
            helper.make_node("ConcatFromSequence", ["both"], ["y"], axis=1, new_axis=new),
        ]
        feeds = {"a": draw(5, 2), "b": draw(5, 2, seed=1)}
        yield graph_case(f"{name}({new})", nodes, feeds, ["y"])


@cases_of("SplitToSequence")
def _split_to_sequence(name: str) -> Iterator[Case]:
    for keep in (0, 1):
        nodes = [
            helper.make_node("SplitToSequence", ["x", "size"], ["all"], axis=1, keepdims=keep),
            helper.make_node("SequenceAt", ["all", "at"], ["y"]),
        ]
        feeds = {"x": draw(5, 3, 4), "size": np.array(1), "at": np.array(2)}
        yield graph_case(f"{name}({keep})", nodes, feeds, ["y"])
        nodes[0] = helper.make_node("SplitToSequence", ["x"], ["all"], axis=1, keepdims=keep)
        feeds = {"x": draw(5, 3, 4), "at": np.array(2)}
        yield graph_case(f"{name}({keep}), even", nodes, feeds, ["y"])


#: Operators that have cases made by hand.
HAND_MADE = tuple(_MADE)
