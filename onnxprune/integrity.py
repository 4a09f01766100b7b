"""Whether a file holds what it says, asked before memory is taken for it.

A model file is untrusted. Sizes, paths and nesting in it are claims: each is held against the bytes
that are there, and nothing that the file says leads out of its folder, unless a user said that it
may (see `trust`).
"""

from __future__ import annotations

import math
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import onnx
from onnx import (
    AttributeProto,
    FunctionProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
)

from .errors import BrokenModel, UnsupportedModel
from .external import Place, is_cut, is_external, stored_bytes
from .model import LARGEST, LONGEST, Stamp, graphs, node_name, subgraphs
from .trust import trust

#: A sparse tensor has one value in so many elements at least, or takes so many bytes at most.
_SPARSEST, _DENSE = 1000, 2**26
#: Bytes that a node takes in memory, at least.
_NODE = 1024


def stamp_of(path: Path) -> Stamp:
    """A model's file as it is now. Raises BrokenModel where it is none, or larger than allowed."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise BrokenModel(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BrokenModel(f"{path}: can't be read: {reason}") from error
    if stat.S_ISDIR(found.st_mode):
        raise BrokenModel(f"{path}: this is a directory; name the .onnx file in it")
    if not stat.S_ISREG(found.st_mode):
        raise BrokenModel(f"{path}: this is a device or a pipe; name a file")
    within(found.st_size, str(path))
    return Stamp.of(found)


def within(size: int, what: str) -> None:
    """Raises UnsupportedModel where `size` (bytes) is more than `--max-bytes` allows."""
    most = trust().max_bytes
    if most is not None and size > most:
        raise UnsupportedModel(f"{what}: {size:,} bytes, and --max-bytes allows {most:,}")


def check(proto: ModelProto, base_dir: Path, own: int) -> dict[Path, Stamp]:
    """Check the tensors of a model, and how far its functions unfold.

    Args:
        base_dir: the folder that paths in the model start from.
        own: bytes of the model without its external data.

    Returns the files of its external data, as they are now.

    Raises BrokenModel, naming the tensor or function; UnsupportedModel above `--max-bytes`.
    """
    files: dict[str, Stamp] = {}
    placed: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    dense = 0
    for name, tensor in _tensors(proto):
        if isinstance(tensor, SparseTensorProto):
            dense += _dense_bytes(name, tensor)
            continue
        size = _declared(name, tensor)
        if is_external(tensor):
            place = _place(name, tensor)
            if place.location not in files:
                files[place.location] = _data_file(name, place.location, base_dir)
            end = place.offset + size
            if place.length not in (None, size) or end > files[place.location].size:
                raise BrokenModel(
                    f"tensor {name!r}: {place.location!r} does not hold the {size} bytes that it"
                    " needs"
                )
            placed[place.location].append((place.offset, end, name))
        else:
            _values(name, tensor, size)
    for location, spans in placed.items():
        _apart(location, spans)
    total = own + dense + sum(stamp.size for stamp in files.values())
    within(total, "the model with its external data" + ", sparse tensors made dense" * bool(dense))
    if dense > LARGEST:
        raise BrokenModel(f"the sparse tensors would take {dense:,} bytes, more than a model holds")
    _unfolds(proto)
    return {base_dir / location: stamp for location, stamp in files.items()}


def _nodes(proto: ModelProto | FunctionProto) -> Iterator[NodeProto]:
    """All nodes of a model's graphs, or of a function."""
    if isinstance(proto, ModelProto):
        for graph in graphs(proto.graph):
            yield from graph.node
        return
    for node in proto.node:
        yield node
        for body in subgraphs(node):
            for graph in graphs(body):
                yield from graph.node


def _tensors(proto: ModelProto) -> Iterator[tuple[str, TensorProto | SparseTensorProto]]:
    """Every tensor of a model by name, wherever it stands."""
    bodies = [graph for f in proto.functions for node in f.node for graph in subgraphs(node)]
    for top in (proto.graph, *bodies):
        for graph in graphs(top):
            for tensor in graph.initializer:
                yield tensor.name, tensor
            for sparse in graph.sparse_initializer:
                yield sparse.values.name, sparse
    for nodes in (_nodes(proto), *map(_nodes, proto.functions)):
        for node in nodes:
            for attribute in node.attribute:
                name = attribute.t.name or node_name(node)
                field = _SINGLE.get(attribute.type)
                if field and not attribute.HasField(field):
                    raise BrokenModel(
                        f"node {node_name(node)!r}: attribute {attribute.name!r} has the type"
                        f" {AttributeProto.AttributeType.Name(attribute.type)}, and no value of it"
                    )
                if attribute.HasField("t"):
                    yield name, attribute.t
                if attribute.HasField("sparse_tensor"):
                    yield name, attribute.sparse_tensor
                for tensor in attribute.tensors:
                    yield tensor.name or name, tensor
                for sparse in attribute.sparse_tensors:
                    yield sparse.values.name or name, sparse


#: Where attributes of these types hold their value: what reads them takes it to be there.
_SINGLE: dict[int, Literal["t", "g", "sparse_tensor"]] = {
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
}


def _declared(name: str, tensor: TensorProto) -> int:
    """The bytes that a tensor's dims ask for."""
    if any(dim < 0 for dim in tensor.dims):
        raise BrokenModel(f"tensor {name!r} has a negative dimension: {list(tensor.dims)}")
    if 0 in tensor.dims and max(tensor.dims) > LONGEST:  # it takes no bytes, however large
        raise BrokenModel(f"tensor {name!r} has a dimension that is none: {list(tensor.dims)}")
    if tensor.data_type == TensorProto.STRING:
        if is_external(tensor):
            raise BrokenModel(f"tensor {name!r}: strings can't be external data")
        return 0
    try:
        return stored_bytes(tensor)
    except KeyError:
        raise BrokenModel(
            f"tensor {name!r} is of the unknown element type {tensor.data_type}"
        ) from None


def _values(name: str, tensor: TensorProto, size: int) -> None:
    """A tensor holds what its dims ask for, as bytes or as numbers."""
    text = tensor.data_type == TensorProto.STRING
    if tensor.HasField("raw_data") and not text:
        unit, wanted, found = "bytes", size, len(tensor.raw_data)
    else:
        unit = "values"
        found = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
        wanted = math.prod(tensor.dims)
        if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            wanted *= 2  # the real part, and the imaginary one
        elif 0 < size < wanted and "FLOAT6" not in TensorProto.DataType.Name(tensor.data_type):
            wanted = size  # several share an entry, as they share a byte
    if wanted != found:
        raise BrokenModel(
            f"tensor {name!r} {list(tensor.dims)} should have {wanted} {unit} and has {found};"
            " the file is damaged"
        )


def _dense_bytes(name: str, sparse: SparseTensorProto) -> int:
    """The bytes of a sparse tensor made dense."""
    for part in (sparse.values, sparse.indices):
        size = _declared(name, part)
        if is_external(part):
            raise BrokenModel(f"sparse tensor {name!r} has external data, which it can't have")
        _values(name, part, size)
    dense = _declared(name, TensorProto(data_type=sparse.values.data_type, dims=sparse.dims))
    if dense > max(_DENSE, _SPARSEST * stored_bytes(sparse.values)):
        raise BrokenModel(
            f"sparse tensor {name!r} {list(sparse.dims)} would take {dense:,} bytes for its"
            f" {math.prod(sparse.values.dims)} values: more than can be meant"
        )
    return dense


# -- external data -------------------------------------------------------------------------------


def _place(name: str, tensor: TensorProto) -> Place:
    try:
        place = Place.of(tensor)
    except ValueError:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        raise BrokenModel(
            f"tensor {name!r}: {entries.get('location', '')!r} does not hold it at the offset"
            f" {entries.get('offset', '0')!r} with the length {entries.get('length', '')!r}"
        ) from None
    if isinstance(place.location, bytes):  # what protobuf makes of a text that is not UTF-8
        raise BrokenModel(f"tensor {name!r}: its external data path {place.location!r} is not text")
    if any(isinstance(entry.key, bytes) for entry in tensor.external_data):
        raise BrokenModel(f"tensor {name!r}: the entries of its external data are not text")
    if is_cut(tensor):
        raise BrokenModel(
            f"tensor {name!r}: its external data has entries that no file has; it is damaged, or"
            " made to mislead"
        )
    if place.offset < 0:
        raise BrokenModel(
            f"tensor {name!r}: {place.location!r} does not hold anything at the offset"
            f" {place.offset}"
        )
    return place


def is_inside(location: str, base_dir: Path) -> bool:
    """Whether a path in a model stays in the model's folder, symbolic links followed."""
    if not location or Path(location).is_absolute():
        return False
    return (base_dir / location).resolve().is_relative_to(base_dir.resolve())


def _data_file(name: str, location: str, base_dir: Path) -> Stamp:
    """The file that external data is in."""
    try:
        if not location or not (trust().outside_data or is_inside(location, base_dir)):
            hint = "; --allow-outside-data reads it nonetheless" * bool(location)
            raise BrokenModel(
                f"tensor {name!r}: its external data path {location!r} leaves the model's folder"
                + hint
            )
        found = os.stat(base_dir / location)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a name of no file
        raise BrokenModel(
            f"tensor {name!r}: its external data file {location!r} is missing"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise BrokenModel(
            f"tensor {name!r}: its external data file {location!r} is missing: there is a folder,"
            " a device or a pipe of that name"
        )
    return Stamp.of(found)


def _apart(location: str, spans: Iterable[tuple[int, int, str]]) -> None:
    """Tensors may be one and the same part of a file, but not overlap in part."""
    last = (0, 0, "")
    for span in sorted(spans):
        if span[0] < last[1] and span[:2] != last[:2] and span[0] < span[1]:
            raise BrokenModel(f"tensors {last[2]!r} and {span[2]!r} overlap in {location!r}")
        last = max(last, span, key=lambda each: each[1])


def check_unchanged(files: Mapping[Path, Stamp]) -> None:
    """Raises BrokenModel where a file is another than it was when it was first looked at."""
    for path, before in files.items():
        try:
            now = Stamp.of(os.stat(path))
        except OSError:
            now = None
        if now != before:
            raise BrokenModel(f"{path}: changed while it was read; nothing was written, try again")


# -- functions -----------------------------------------------------------------------------------


def _unfolds(proto: ModelProto) -> None:
    """What the model's functions unfold into is bounded, and none of them calls itself.

    A function may call another twice, and that a third one twice: size grows with a power.
    """
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    active: set[tuple[str, str, str]] = set()

    def size_of(owner: ModelProto | FunctionProto) -> int:
        total = 0
        for node in _nodes(owner):
            key = (node.domain, node.op_type, node.overload)
            total += _NODE + (size(key) if key in functions else node.ByteSize())
        return total

    def size(key: tuple[str, str, str]) -> int:
        if key in active:
            raise BrokenModel(f"function {key[1]!r} calls itself")
        if len(active) > _DEEPEST:
            raise BrokenModel(f"functions call one another more than {_DEEPEST} deep")
        if key not in sizes:
            active.add(key)
            sizes[key] = size_of(functions[key])
            active.remove(key)
        return sizes[key]

    if functions and (total := size_of(proto)) > LARGEST:
        raise BrokenModel(f"its functions unfold into {total:,} bytes, more than a model can hold")


#: How deep functions call one another; exporters come to about ten.
_DEEPEST = 100
