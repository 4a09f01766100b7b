"""Which sizes a node multiplies: the one table behind every count of multiply-accumulates.

A node's MACs are a sum of products of axis sizes, and a factor is named by its tensor and axis:

    Conv: y[n] · y[o] · y[h] · y[w] · w[i / g] · w[kh] · w[kw]

`measure` puts the shapes of a model in; `model_costs` puts axis expressions in, and has the count
for every choice of widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from onnx import NodeProto

from .shapes import Shapes, int_attribute

#: A size: that of an axis of a tensor, or a number.
Factor = tuple[str, int] | int


@dataclass(frozen=True)
class Product:
    """The product of some sizes, times a number."""

    factors: tuple[Factor, ...]
    times: float = 1

    def size(self, shapes: Shapes) -> float:
        """Its value for these shapes."""
        sizes = (f if isinstance(f, int) else shapes[f[0]][f[1]] for f in self.factors)
        return math.prod(sizes) * self.times


def multiplications(node: NodeProto, shapes: Shapes) -> list[Product] | None:
    """What a node multiplies; nothing for most, None where it can't be told.

    Ranks are read from the shapes, and where an axis is broadcast, which operand has it.
    """
    rule = _RULES.get(node.op_type)
    if rule is None:
        return []
    try:
        products = rule(node, shapes)
        for product in products:
            product.size(shapes)
    except (KeyError, IndexError, ValueError, StopIteration):
        return None
    return products


# One short function per kind of operator. A shape that is not known is a KeyError.


def _every(name: str, shapes: Shapes, start: int = 0) -> list[Factor]:
    """All axes of a tensor, from `start` on."""
    return [(name, axis) for axis in range(start, len(shapes[name]))]


def _product(*factors: Iterable[Factor], times: float = 1) -> Product:
    return Product(tuple(factor for each in factors for factor in each), times)


def _conv(weight: int) -> Callable[[NodeProto, Shapes], list[Product]]:
    def rule(node: NodeProto, shapes: Shapes) -> list[Product]:  # y [n, o, ...], w [o, i/g, k...]
        return [_product(_every(node.output[0], shapes), _every(node.input[weight], shapes, 1))]

    return rule


def _conv_transpose(node: NodeProto, shapes: Shapes) -> list[Product]:
    """x [n, i, ...], w [i, o/g, k...]"""
    return [_product(_every(node.input[0], shapes), _every(node.input[1], shapes, 1))]


def _gemm(node: NodeProto, shapes: Shapes) -> list[Product]:
    inner = 0 if int_attribute(node, "transA", 0) else 1
    return [_product(_every(node.output[0], shapes), [(node.input[0], inner)])]


def _matmul(node: NodeProto, shapes: Shapes) -> list[Product]:
    inner = -2 if int_attribute(node, "transA", 0) else -1
    return [_product(_every(node.output[0], shapes), [(node.input[0], inner)])]


def _matmul_nbits(node: NodeProto, shapes: Shapes) -> list[Product]:
    return [_product(_every(node.input[0], shapes), [int_attribute(node, "N", 0)])]


def _einsum(node: NodeProto, shapes: Shapes) -> list[Product]:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    left, _, right = equation.partition("->")
    sizes: dict[str, int] = {}
    axes: dict[str, Factor] = {}
    for term, name in zip(left.split(","), node.input, strict=True):
        shape = shapes[name]
        head, dots, tail = term.partition("...")
        ends = len(shape) - len(tail)
        if len(head) > ends or (not dots and len(head) != ends):
            raise ValueError(term)
        letters = [*head, *(f".{ends - i}" for i in range(len(head), ends)), *tail]
        for axis, (letter, size) in enumerate(zip(letters, shape, strict=True)):
            if size > sizes.get(letter, 0):
                sizes[letter], axes[letter] = size, (name, axis)
    if "->" not in equation:
        right = "".join(c for c in sizes if left.count(c) == 1)
    contracted = len(node.input) > 1 and any(c not in right for c in sizes if c[0] != ".")
    return [_product(axes.values())] if contracted else []


def _recurrent(node: NodeProto, shapes: Shapes) -> list[Product]:
    x, w, r = node.input[:3]  # x [t, b, i], w [d, 4h, i], r [d, 4h, h]
    steps: list[Factor] = [(x, 0), (x, 1)]
    return [_product(steps, _every(name, shapes)) for name in (w, r)]


def _attention(node: NodeProto, shapes: Shapes) -> list[Product]:
    """com.microsoft Attention: x [b, s, d], w [d, q + k + v], where q and k are as wide."""
    (x, w), y = node.input[:2], node.output[0]
    batch: list[Factor] = [(x, 0), (x, 1)]
    return [
        _product(batch, _every(w, shapes)),
        # q·k over all pairs, and the same pairs·v: (q + v) = (q + k + v) / 2 + v / 2.
        _product(batch, [(x, 1), (w, 1)], times=0.5),
        _product(batch, [(x, 1), (y, len(shapes[y]) - 1)], times=0.5),
    ]


def _scores(node: NodeProto, shapes: Shapes) -> list[Product]:
    """Products with keys and values alone: q [b, s, h] or [b, n, s, d], k and v like it."""
    q, k = node.input[:2]
    v = node.input[2] if len(node.input) > 2 and node.input[2] else k
    if node.op_type == "GroupQueryAttention":
        lengths: list[Factor] = [(k, 1)]
        if node.input[3]:
            lengths.append((node.input[3], 2))
        return [_product(_every(q, shapes), [length], times=2) for length in lengths]
    lengths = [(k, len(shapes[k]) - 2)]
    if node.op_type == "Attention" and len(node.input) > 4 and node.input[4]:
        lengths.append((node.input[4], len(shapes[node.input[4]]) - 2))
    flat = len(shapes[q]) == 3
    heads = int_attribute(node, "q_num_heads", 1) if flat else shapes[q][1]
    shared = (int_attribute(node, "kv_num_heads", 1) if flat else shapes[k][1]) or 1
    rows: list[Factor] = [(q, axis) for axis in range(len(shapes[q]) - 1)]
    value = (v, len(shapes[v]) - 1)
    products = []
    for length in lengths:
        products.append(_product(_every(q, shapes), [length]))
        products.append(_product(rows, [length, value], times=heads // shared if flat else 1))
    return products


def _any_attention(node: NodeProto, shapes: Shapes) -> list[Product]:
    return (_attention if node.domain == "com.microsoft" else _scores)(node, shapes)


_RULES: dict[str, Callable[[NodeProto, Shapes], list[Product]]] = {
    **dict.fromkeys(["Conv", "FusedConv", "ConvInteger", "NhwcFusedConv"], _conv(1)),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(["Gemm", "FusedGemm", "QGemm"], _gemm),
    **dict.fromkeys(["MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul"], _matmul),
    **dict.fromkeys(["MatMulIntegerToFloat", "DynamicQuantizeMatMul"], _matmul),
    "MatMulNBits": _matmul_nbits,
    "Einsum": _einsum,
    **dict.fromkeys(["LSTM", "GRU", "RNN"], _recurrent),
    "Attention": _any_attention,
    **dict.fromkeys(["MultiHeadAttention", "GroupQueryAttention"], _scores),
}
#: The operators that multiply and accumulate.
MULTIPLYING = frozenset(_RULES)
