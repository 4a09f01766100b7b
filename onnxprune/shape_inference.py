"""ONNX's shape inference, kept from what ends the process.

Two things are not asked of it: long vectors (`long_vectors.py`), and Slices of what has no size.

Where the input of a convolution or of a pool is smaller than its window, ONNX's inference gives
the output a negative size. A Slice of such a tensor ends the process: a failed assertion, which no
caller can catch (onnx 1.23.2). A damaged file asks for that, and so does a sound one, where
a dynamic size is tried at 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from . import long_vectors
from .model import graphs


def infer_shapes(model: ModelProto, *, strict: bool = False) -> ModelProto:
    """The model with the shapes that ONNX's inference finds; it is serialised on the way.

    Where a size is negative, shapes behind a Slice are not looked for.

    Args:
        strict: whether what it can't read, or a negative size, is an error.

    Raises:
        Exception: of several types, whatever onnx raises; with `strict`, its InferenceError.
    """
    if any(map(_slices, graphs(model.graph))) and not windows_fit(model):
        found = _infer(without_slices(model))
        if negative := negative_size(found):
            if strict:
                raise onnx.shape_inference.InferenceError(
                    f"tensor {negative!r} has a negative size"
                )
            return found
    return _infer(model, strict)


def _infer(model: ModelProto, strict: bool = False) -> ModelProto:
    def infer(model: ModelProto, data_prop: bool, strict: bool = False) -> ModelProto:
        return onnx.shape_inference.infer_shapes(model, data_prop=data_prop, strict_mode=strict)

    found = long_vectors.inferred(model, infer)
    if found is None:
        return infer(model, True, strict)
    if strict:
        infer(model, False, strict)
    return found


def without_slices(model: ModelProto) -> ModelProto:
    """A copy of the model without its Slices: what they make has no shape."""
    return long_vectors.without(model, long_vectors.places_of(model, {"Slice"}))


def negative_size(model: ModelProto) -> str | None:
    """The name of a tensor with a size below zero, where inference or the file gave it one."""
    return next(filter(None, map(_negative, graphs(model.graph))), None)


def _negative(graph: GraphProto) -> str | None:
    for value in (*graph.value_info, *graph.output, *graph.input):
        if any(dim.dim_value < 0 for dim in value.type.tensor_type.shape.dim):
            return value.name or "?"
    return None


#: Operators with a window, and their operand that has its size where no attribute gives it.
_WINDOWS = {
    **{"Conv": 1, "FusedConv": 1, "NhwcConv": 1, "ConvInteger": 1, "QLinearConv": 3},
    **{"ConvTranspose": 1, "MaxPool": None, "AveragePool": None, "LpPool": None},
    **{"QLinearAveragePool": None, "DeformConv": 1},
}
#: A window that takes at most so much more than its padding fits into any map that is worth the
#: name: those of patches, or of the pool at a network's end.
_SMALL = 32


def windows_fit(model: ModelProto) -> bool:
    """Whether no window is larger than what it may have to be laid over; False if in doubt.

    What a window needs is its size, dilated, less the padding; it is held against the smallest
    spatial size of the model's inputs, and against 32 where they are larger. Maps get smaller along
    a network, but the windows of sound ones with them.
    """
    least = min((_SMALL, *_spatial(model.graph)))
    for graph in graphs(model.graph):
        if _negative(graph):
            return False
        sizes = cache(partial(_sizes, graph))  # most nodes say themselves how large theirs is
        for node in graph.node:
            if node.op_type in _WINDOWS and any(need > least for need in _needed(node, sizes)):
                return False
    return True


def _slices(graph: GraphProto) -> bool:
    return any(node.op_type == "Slice" for node in graph.node)


def _spatial(graph: GraphProto) -> Iterator[int]:
    """The known sizes of the inputs behind the first two axes."""
    held = {tensor.name for tensor in graph.initializer}  # old files list them as inputs too
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim[2:] if value.name not in held else ():
            if dim.dim_value:
                yield dim.dim_value


def _sizes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    """The shapes of what may be a window: of more than two axes."""
    declared = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in graph.value_info
    }
    held = ((tensor.name, tensor.dims[:]) for tensor in graph.initializer)
    return declared | {name: tuple(dims) for name, dims in held if len(dims) > 2}


def _needed(node: NodeProto, sizes: Callable[[], Mapping[str, tuple[int, ...]]]) -> list[int]:
    """What a window takes on each spatial axis, without the padding."""
    given = {a.name: list(a.ints) for a in node.attribute if a.ints}
    operand = _WINDOWS[node.op_type]
    window = given.get("kernel_shape")
    if window is None and operand is not None and operand < len(node.input):
        window = list(sizes().get(node.input[operand], ())[2:])
    if any(a.name == "auto_pad" and a.s.startswith(b"SAME") for a in node.attribute):
        return []
    rank = len(window or ())
    dilations = given.get("dilations", [1] * rank)
    pads = given.get("pads", [0] * 2 * rank)
    if not window or len(dilations) != rank or len(pads) != 2 * rank:
        return []
    extents = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    taken = [begin + end for begin, end in zip(pads[:rank], pads[rank:], strict=True)]
    if node.op_type == "ConvTranspose":  # its padding is cut off from what it makes
        return [_SMALL + 1 for cut, size in zip(taken, extents, strict=True) if cut > size]
    return [size - pad for size, pad in zip(extents, taken, strict=True)]
