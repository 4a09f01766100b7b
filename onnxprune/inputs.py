"""What a model can be fed: its real inputs, and random values for them.

Nothing here runs a model; :func:`onnxprune.runtime.find_inputs` does, to find sizes that work.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, helper

from onnxprune.errors import BrokenModel, UnsupportedModel, UsageError

Model: TypeAlias = ModelProto | str | os.PathLike[str]
Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = dict[str, Array]

#: elements: no input is made up above this size
_LARGEST = 1 << 28
#: tried in this order for integer scalars: a count, a sampling rate
SCALARS = (1, 16000)


def proto(model: Model) -> ModelProto:
    """The model's proto; external weights stay outside.

    Raises:
        BrokenModel: the file is missing, unreadable, or not ONNX.
    """
    if isinstance(model, ModelProto):
        return model
    path = os.fspath(model)
    try:
        loaded = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise BrokenModel(f"{path}: can't be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's DecodeError has moved from module to module
        raise BrokenModel(f"{path}: not an ONNX file, or a truncated one ({error})") from error
    if not loaded.HasField("graph"):
        raise BrokenModel(f"{path}: not an ONNX file: there is no graph in it")
    return loaded


@dataclass(frozen=True)
class InputSpec:
    """One real input. A dim is a size, a symbol's name, or None where nothing is known."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str | None, ...]

    def free(self, axis: int) -> str | None:
        """What names the size of a dynamic axis: its symbol, or the axis itself."""
        dim = self.dims[axis]
        return None if isinstance(dim, int) else dim or f"{self.name}[{axis}]"


def input_specs(model: Model) -> list[InputSpec]:
    """The inputs that a user feeds: graph inputs that no initializer stands behind.

    Raises:
        UnsupportedModel: an input is not a tensor, is of strings or complex numbers, or has no
            shape at all.
        BrokenModel: an input is of a type that ONNX does not have.
    """
    graph = proto(model).graph
    given = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    specs = []
    for value in graph.input:
        if value.name in given:
            continue
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise UnsupportedModel(f"input {value.name!r} is a {kind or 'value of no type'}")
        tensor = value.type.tensor_type
        try:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        except KeyError:
            raise BrokenModel(
                f"input {value.name!r} is of the unknown element type {tensor.elem_type}"
            ) from None
        if dtype.kind in "OSUc" or tensor.elem_type in (TensorProto.INT4, TensorProto.UINT4):
            type_name = TensorProto.DataType.Name(tensor.elem_type)
            raise UnsupportedModel(f"input {value.name!r} is of {type_name}: no values are made up")
        if not tensor.HasField("shape"):
            raise UnsupportedModel(f"input {value.name!r} has no shape: declare its rank at least")
        dims: list[int | str | None] = []
        for dim in tensor.shape.dim:
            # Caffe2 and Paddle write -1, some converters 0 or "?", for "not known".
            known = dim.HasField("dim_value") and dim.dim_value > 0
            symbol = None if dim.dim_param in ("", "?") else dim.dim_param
            if isinstance(symbol, bytes):  # what protobuf makes of a text that is not UTF-8
                symbol = symbol.decode(errors="replace")
            dims.append(dim.dim_value if known else symbol)
        specs.append(InputSpec(value.name, dtype, tuple(dims)))
    return specs


def make_inputs(
    model: Model,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dynamic: int = 1,
    seed: int = 0,
) -> Feeds:
    """Random inputs, the same for the same arguments.

    Floats are standard normal. Integers that index a table stay within it, other integers are in
    [0, 10), 8-bit ones over their whole range; integer scalars are 1. Masks are all ones.

    Args:
        shapes: `{input: [d, ...]}`; a symbol bound here is bound in every input.
        dynamic: size of each dynamic dim that ``shapes`` leaves open.

    Raises:
        UsageError: ``shapes`` contradicts the model or itself.
        UnsupportedModel: see :func:`input_specs`.
    """
    loaded = proto(model)
    specs = input_specs(loaded)
    sizes = dict.fromkeys(free_dims(specs), dynamic) | bound(specs, shapes)
    return fill(specs, bounds(loaded, specs), sizes, SCALARS[0], seed)


def free_dims(specs: Sequence[InputSpec]) -> list[str]:
    """The names of all dynamic dims, in order, each once."""
    keys = (spec.free(axis) for spec in specs for axis in range(len(spec.dims)))
    names = list(dict.fromkeys(key for key in keys if key is not None))
    return [name for name in names if _terms(name, names) is None]


def _terms(dim: str | None, known: Iterable[str]) -> list[str] | None:
    """Exporters of decoders write sums of symbols: ``past_sequence_length + sequence_length``."""
    terms = [term.strip() for term in (dim or "").split("+")]
    symbols = set(known)
    summed = len(terms) > 1 and all(term.isdigit() or term in symbols for term in terms)
    return terms if summed else None


def batch_dims(specs: Sequence[InputSpec]) -> set[str]:
    """Dynamic dims that stand first in some input and are not called a length."""
    keys = {key for spec in specs if spec.dims and (key := spec.free(0)) is not None}
    return {key for key in keys if not re.search("seq|len|time|frame|token", key.lower())} or keys


def bound(specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]] | None) -> dict[str, int]:
    """Sizes of dynamic dims that the user's shapes give."""
    sizes: dict[str, int] = {}
    by_name = {spec.name: spec for spec in specs}
    for name, shape in (shapes or {}).items():
        if name not in by_name:
            raise UsageError(f"no input is called {name!r}; there are {', '.join(by_name)}")
        spec = by_name[name]
        if len(shape) != len(spec.dims):
            raise UsageError(f"input {name!r} has {len(spec.dims)} axes, the shape {list(shape)}")
        for axis, size in enumerate(shape):
            key = spec.free(axis)
            old = spec.dims[axis] if key is None else sizes.setdefault(key, size)
            if size < 1 or old != size:
                raise UsageError(f"input {name!r}, axis {axis}: {size} can't be, it is {old}")
    return sizes


def is_scalar(spec: InputSpec) -> bool:
    """Whether the input is one integer: a count, a step, a sampling rate."""
    return not spec.dims and spec.dtype.kind in "iu"


def shape_of(spec: InputSpec, sizes: Mapping[str, int]) -> list[int]:
    """The input's shape where the dynamic dims have ``sizes``."""
    shape = []
    for axis, dim in enumerate(spec.dims):
        if isinstance(dim, int):
            shape.append(dim)
        elif terms := _terms(dim, sizes):
            shape.append(sum(int(term) if term.isdigit() else sizes[term] for term in terms))
        else:
            shape.append(sizes[spec.free(axis) or ""])
    return shape


def fill(
    specs: Sequence[InputSpec],
    rows: Mapping[str, int],
    sizes: Mapping[str, int],
    scalar: int,
    seed: int,
) -> Feeds:
    """Random values for every input; see :func:`make_inputs`."""
    feeds: Feeds = {}
    for spec in specs:
        shape = shape_of(spec, sizes)
        if math.prod(shape) > _LARGEST:
            raise UnsupportedModel(
                f"input {spec.name!r} of shape {shape} is too large to be made up; --no-verify and"
                " --no-benchmark do without"
            )
        # Seeded by name as well: an input's values don't depend on the other inputs.
        rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
        kind = spec.dtype.kind
        if "mask" in spec.name.lower() and len(specs) > 1:
            values: Array = np.ones(shape)
        elif spec.name in rows:
            values = rng.integers(0, rows[spec.name], shape)
        elif is_scalar(spec):
            values = np.full((), scalar)
        elif kind == "b":
            values = rng.random(shape) < 0.5
        elif kind in "iu" and spec.dtype.itemsize == 1:
            info = np.iinfo(spec.dtype)
            values = rng.integers(info.min, info.max, shape, endpoint=True)
        elif kind in "iu":
            values = rng.integers(0, 10, shape)
        else:
            values = rng.standard_normal(shape)
        feeds[spec.name] = np.asarray(values).astype(spec.dtype)
    return feeds


#: operators through which an index stays the same index
_CARRIERS = {
    *("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose"),
    *("Flatten", "Slice", "Split", "Expand", "Concat"),
}
#: (operator, operand that holds indices): operand whose axis bounds them
_INDEXED = {("Gather", 1): 0, ("EmbedLayerNormalization", 0): 2, ("EmbedLayerNormalization", 1): 4}


def bounds(model: ModelProto, specs: Sequence[InputSpec]) -> dict[str, int]:
    """For each input that indexes a table: how many rows the smallest such table has."""
    graph = model.graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    source = {spec.name: {spec.name} for spec in specs}
    rows: dict[str, int] = {}
    for node in graph.node:  # in topological order, as the standard demands
        if node.op_type == "Constant":
            for attribute in node.attribute:
                shapes[node.output[0]] = tuple(attribute.t.dims)
        elif node.op_type in ("Cast", "Identity", "DequantizeLinear") and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
        if node.op_type in _CARRIERS:
            reached = set().union(*(source.get(name, set()) for name in node.input))
            if reached:
                source.update(dict.fromkeys(node.output, reached))
        for operand, name in enumerate(node.input):
            table = _INDEXED.get((node.op_type, operand))
            if table is None or name not in source or table >= len(node.input):
                continue
            shape = shapes.get(node.input[table])
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            if shape:
                for key in source[name]:
                    rows[key] = min(rows.get(key, shape[axis]), shape[axis])
    return rows
