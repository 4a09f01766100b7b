"""Cases made by hand: operators of which the onnx package's own cases are too small, or missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.equivariance import Case, graph_case, one

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


HAND_MADE: dict[str, Callable[[], Iterator[Case]]] = {}


def cases_of(
    *names: str,
) -> Callable[[Callable[[str], Iterator[Case]]], Callable[[str], Iterator[Case]]]:
    """Cases of these operators: a generator that is given the operator's name."""

    def register(make: Callable[[str], Iterator[Case]]) -> Callable[[str], Iterator[Case]]:
        for name in names:
            HAND_MADE[name] = lambda name=name: make(name)
        return make

    return register


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
    bias = np.arange(6, dtype=np.int32) * 100
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
    yield one(name, draw(3, 4))


@cases_of("Where")
def _where(name: str) -> Iterator[Case]:
    yield one(name, draw(3, 4) > 0, draw(4), draw(3, 1), opset=9)


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
