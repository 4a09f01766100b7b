"""Convolutions to be timed, in whatever layout they ran."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from onnx import TensorProto, helper

from onnxprune.axes import Axis, Product, product, resolve
from onnxprune.model import attributes

from . import stairs
from .executed import Executed
from .templates import Coordinates, Piece, Size, Template, evaluate

CONVOLUTIONS = ("Conv", "FusedConv", "ConvTranspose")
_WINDOW = ("kernel_shape", "strides", "pads", "dilations", "auto_pad", "output_padding")
#: Fused activations as operators, with the attributes that `activation_params` are for.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    **{"Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",)},
    "HardSigmoid": ("alpha", "beta"),
}
_OPSET = 17


def convolution(done: Executed, given: Axis | int, made: Axis | int, block: int) -> Template | None:
    """A convolution from `given` channels to `made`; None where its groups can't be followed.

    In whatever layout it ran, it is built as ONNX has it, with its activation and its residual sum,
    so that onnxruntime chooses the layout anew for each width.
    """
    attrs = attributes(done.node)
    coordinates = Coordinates()
    inward, outward = coordinates.size(given), coordinates.size(made)
    groups = _groups(coordinates, given, int(attrs.get("group", 1)))
    if groups is None or not coordinates.axes:
        return None
    x, w = done.inputs[:2]
    transposed = done.node.op_type == "ConvTranspose"
    config = {
        "op": "ConvTranspose" if transposed else "Conv",
        "window": {name: _plain(attrs[name]) for name in _WINDOW if name in attrs},
        "kernel": w.shape[2:],
        "activation": _plain(attrs.get("activation", "")),
        "params": [round(float(v), 6) for v in attrs.get("activation_params", [])],
        "sum": len(done.inputs) > 3,
        "bias": len(done.inputs) > 2,
        "fixed": w.constant,
        "x": [x.shape[0], *x.shape[2:]],
        "y": done.outputs[0].shape[2:],
        "channels": [inward, outward, groups],
    }
    key = json.dumps(config, sort_keys=True)
    depthwise = groups == inward and groups[1] != ()
    plain = groups == (1, ()) and len(coordinates.axes) == 2
    edges, steps = [], []
    for i, size in enumerate(coordinates.full):
        mine = depthwise or (i in outward[1] and (plain or len(coordinates.axes) == 1))
        edges.append(tuple((stairs.dense if mine else stairs.coarse)(size, block)))
        whole = any(numbers == (i,) and n == 1 for n, numbers in (inward, outward))
        steps.append(block if whole and w.constant else 1)
    spatial, kernel = math.prod(done.outputs[0].shape[2:]), math.prod(w.shape[2:])

    def work(at: Sequence[int]) -> float:
        into, out, many = (evaluate(each, at) for each in (inward, outward, groups))
        return spatial * kernel * into * out / many

    def build(at: Sequence[int], tag: str) -> Piece:
        return _build_convolution(
            config, tag, *(evaluate(each, at) for each in (inward, outward, groups))
        )

    return Template(key, tuple(coordinates.axes), tuple(edges), tuple(steps), build, _OPSET, work)


def _groups(coordinates: Coordinates, given: Axis | int, group: int) -> Size | None:
    """How many groups there are when the channels change."""
    if group == 1 or isinstance(given, int):
        return group, ()
    if given.size == group:
        return coordinates.size(given)  # depthwise
    axis = resolve(given)
    if isinstance(axis, Product):
        for i in range(1, len(axis.parts)):
            outer = product(axis.parts[:i])
            if outer.size == group:
                return coordinates.size(outer)
    return (group, ()) if coordinates.size(axis)[1] == () else None


def _build_convolution(
    config: Mapping[str, Any], tag: str, into: int, out: int, groups: int
) -> Piece:
    piece = Piece(result=f"{tag}c")
    batch, *spatial = config["x"]
    piece.inputs.append((f"{tag}x", [batch, into, *spatial], TensorProto.FLOAT))
    ends = (into, out // groups) if config["op"] == "ConvTranspose" else (out, into // groups)
    weights = piece.weights if config["fixed"] else piece.inputs
    weights.append((f"{tag}w", [*ends, *config["kernel"]], TensorProto.FLOAT))
    names = [f"{tag}x", f"{tag}w"]
    if config["bias"]:
        weights.append((f"{tag}b", [out], TensorProto.FLOAT))
        names.append(f"{tag}b")
    window = dict(config["window"], kernel_shape=list(config["kernel"]))
    piece.nodes.append(
        helper.make_node(config["op"], names, [f"{tag}c"], f"{tag}conv", group=groups, **window)
    )
    if config["sum"]:
        piece.inputs.append((f"{tag}z", [batch, out, *config["y"]], TensorProto.FLOAT))
        piece.nodes.append(
            helper.make_node("Add", [piece.result, f"{tag}z"], [f"{tag}s"], f"{tag}add")
        )
        piece.result = f"{tag}s"
    if config["activation"] == "Clip":
        bounds = [(f"{tag}{end}", v) for end, v in zip(("l", "h"), config["params"], strict=False)]
        piece.values += [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in bounds]
        _activate(piece, tag, "Clip", [name for name, _ in bounds], {})
    elif config["activation"] in _ACTIVATIONS:
        given = dict(zip(_ACTIVATIONS[config["activation"]], config["params"], strict=False))
        _activate(piece, tag, config["activation"], [], given)
    return piece


def _activate(
    piece: Piece, tag: str, name: str, more: list[str], given: Mapping[str, float]
) -> None:
    inputs = [piece.result, *more]
    made = helper.make_node(name, inputs, [f"{tag}a"], f"{tag}act")
    made.attribute.extend(helper.make_attribute(key, value) for key, value in given.items())
    piece.nodes.append(made)
    piece.result = f"{tag}a"


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
