"""Reading a model: a file, a ModelProto or a graphsurgeon graph, as a `Model` that rules can read.

The steps that come after reading keep the function and give the *reference* that a plan's names
refer to:

1. Local functions are inlined.
2. Nodes are sorted where a file has them in another order (onnxruntime accepts that).
3. Names inside If, Loop and Scan bodies are made unique over the whole model.
4. Sparse initializers become dense ones.
5. What is written into constants at constant places is a constant (see `folding`).
6. Vectors that several nodes share get one copy per use. Exporters deduplicate equal biases, gammas
   and scales that have nothing to do with each other. Matrices with several uses are really tied
   (embedding and head) and stay one tensor.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    numpy_helper,
)
from onnx.inliner import inline_local_functions

from .errors import BrokenModel, UnsupportedModel, UsageError
from .folding import fold_writes, plain_splits
from .model import Model, captured, graphs, is_external, node_name, stored, subgraphs
from .splitting import split_shared_vectors

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ModelLike = Union[ModelProto, str, Path, "gs.Graph"]


def load(source: ModelLike) -> Model:
    """Read a model and bring it in the form of the reference.

    Raises UsageError where there is no such file, BrokenModel where it is not a readable ONNX file,
    UnsupportedModel where it is one that can't be pruned as it is. A ModelProto is not changed.
    """
    with readable(str(source) if isinstance(source, (str, Path)) else "the model"):
        return _load(source)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Names are read when they are needed, not all at once: what is no text shows late."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BrokenModel(
            f"{name}: a name in it is not text ({error.object[:20]!r}); the file is damaged"
        ) from error


def _load(source: ModelLike) -> Model:
    path = None
    if isinstance(source, (str, Path)):
        path = Path(source)
        proto, digest = _read_file(path)
    else:
        if isinstance(source, ModelProto):
            proto = ModelProto()
            proto.CopyFrom(source)
        else:
            proto = _from_graphsurgeon(source)
        digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    base_dir = path.parent if path else Path(".")
    _check(proto, base_dir)
    if proto.functions:
        proto = inline_local_functions(proto)
    for graph in graphs(proto.graph):
        _sort(graph)
        _densify(graph)
    _make_names_unique(proto.graph)
    fold_writes(proto)
    plain_splits(proto)
    copies = split_shared_vectors(proto)
    return Model(proto, base_dir, path, copies, digest)


def _from_graphsurgeon(source: object) -> ModelProto:
    try:
        import onnx_graphsurgeon as gs
    except ImportError:  # pragma: no cover
        gs = None
    if gs is not None and isinstance(source, gs.Graph):
        exported: ModelProto = gs.export_onnx(source)
        return exported
    raise UsageError(
        f"a path, a ModelProto or a graphsurgeon Graph was expected, not {type(source).__name__}"
    )


def _read_file(path: Path) -> tuple[ModelProto, str]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BrokenModel(f"{path}: no such file") from None
    except IsADirectoryError:
        raise BrokenModel(f"{path}: this is a directory; name the .onnx file in it") from None
    except OSError as error:
        raise BrokenModel(f"{path}: can't be read: {error.strerror}") from error
    if not data:
        raise BrokenModel(f"{path}: the file is empty")
    proto = ModelProto()
    try:
        # Hashing lets go of the interpreter, so it costs no time of its own beside the parsing.
        with ThreadPoolExecutor(1) as beside:
            digest = beside.submit(hashlib.sha256, data)
            proto.ParseFromString(data)
    except DecodeError:
        raise BrokenModel(
            f"{path}: not a readable ONNX file (it may be truncated, or of another format)"
        ) from None
    if not proto.HasField("graph") or not proto.opset_import:
        raise BrokenModel(f"{path}: not an ONNX model (it has no graph or names no opset)")
    return proto, digest.result().hexdigest()


# -- what is refused -----------------------------------------------------------------------------


def _check(proto: ModelProto, base_dir: Path) -> None:
    for graph in graphs(proto.graph):
        for name, tensor in stored(graph):
            _check_tensor(name, tensor, base_dir)
        for node in graph.node:
            if node.domain == "com.microsoft.nchwc":
                raise UnsupportedModel(
                    f"node {node_name(node)!r} ({node.op_type}) is of onnxruntime's blocked layout,"
                    " which holds for one machine only; save the model without layout optimisation"
                    " (ORT_ENABLE_EXTENDED or less) and prune that"
                )


def _check_tensor(name: str, tensor: TensorProto, base_dir: Path) -> None:
    """The bytes are there, where they may be, and as many as the dims say."""
    if any(dim < 0 for dim in tensor.dims):
        raise BrokenModel(f"tensor {name!r} has a negative dimension: {list(tensor.dims)}")
    if tensor.data_type == TensorProto.STRING:
        return
    count = 1
    for dim in tensor.dims:
        count *= dim
    try:
        bits = _bits(tensor.data_type)
    except KeyError:
        raise BrokenModel(
            f"tensor {name!r} is of the unknown element type {tensor.data_type}"
        ) from None
    wanted = (count * bits + 7) // 8
    if is_external(tensor):
        _check_external(name, tensor, base_dir, wanted)
    elif tensor.HasField("raw_data") and len(tensor.raw_data) != wanted:
        raise BrokenModel(
            f"tensor {name!r} {list(tensor.dims)} should have {wanted} bytes and has"
            f" {len(tensor.raw_data)}; the file is damaged"
        )


def _bits(data_type: int) -> int:
    if data_type in (TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1):
        return 4
    if data_type in (getattr(TensorProto, "UINT2", -1), getattr(TensorProto, "INT2", -1)):
        return 2
    return 8 * onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize


def _check_external(name: str, tensor: TensorProto, base_dir: Path, wanted: int) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if isinstance(location, bytes):  # what protobuf makes of a text that is not UTF-8
        raise BrokenModel(f"tensor {name!r}: its external data path {location!r} is not text")
    file = base_dir / location
    root = base_dir.resolve()
    if not location or Path(location).is_absolute() or not file.resolve().is_relative_to(root):
        raise BrokenModel(
            f"tensor {name!r}: its external data path {location!r} leaves the model's folder"
        )
    if not file.is_file():
        raise BrokenModel(f"tensor {name!r}: its external data file {location!r} is missing")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
    except ValueError:
        offset, length = -1, -1
    if offset < 0 or length != wanted or offset + length > file.stat().st_size:
        raise BrokenModel(
            f"tensor {name!r}: {location!r} does not hold the {wanted} bytes that it needs"
        )


# -- the steps -----------------------------------------------------------------------------------


def _sort(graph: GraphProto) -> None:
    """Put the nodes in topological order, in a stable way, where they are not."""
    produced: dict[str, int] = {}
    for i, node in enumerate(graph.node):
        for name in node.output:
            if name:
                produced[name] = i
    reads = [_reads(node) for node in graph.node]
    if all(produced.get(name, -1) < i for i, names in enumerate(reads) for name in names):
        return
    order: list[int] = []
    waiting = [0] * len(reads)
    users: dict[int, list[int]] = defaultdict(list)
    for i, names in enumerate(reads):
        before = {produced[name] for name in names if name in produced}
        waiting[i] = len(before)
        for j in before:
            users[j].append(i)
    ready = [i for i in reversed(range(len(reads))) if not waiting[i]]
    while ready:
        i = ready.pop()
        order.append(i)
        for j in users[i]:
            waiting[j] -= 1
            if not waiting[j]:
                ready.append(j)
    if len(order) < len(reads):
        stuck = next(i for i, count in enumerate(waiting) if count)
        raise BrokenModel(f"node {node_name(graph.node[stuck])!r} is part of a cycle")
    nodes = [graph.node[i] for i in order]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _reads(node: NodeProto) -> set[str]:
    names = set(node.input)
    for body in subgraphs(node):
        names |= captured(body)
    return names - {""}


def _densify(graph: GraphProto) -> None:
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse, sparse.values.name))
    del graph.sparse_initializer[:]
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "sparse_value":
                    tensor = _dense(attribute.sparse_tensor, node.output[0])
                    attribute.Clear()
                    attribute.name, attribute.type = "value", AttributeProto.TENSOR
                    attribute.t.CopyFrom(tensor)


def _dense(sparse: SparseTensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    count = int(np.prod(shape))
    dense = np.zeros(count, dtype=values.dtype)
    try:
        flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
        if flat.size and flat.min() < 0:
            raise ValueError("negative")
        dense[flat] = values
    except (ValueError, IndexError):
        raise BrokenModel(
            f"sparse tensor {name!r} has other indices than its shape {list(shape)} and its"
            f" {values.size} values allow"
        ) from None
    return numpy_helper.from_array(dense.reshape(shape), name)


def _make_names_unique(graph: GraphProto) -> None:
    """Rename what a body defines under a name that stands elsewhere already."""
    taken: set[str] = set()
    todo: list[tuple[GraphProto, dict[str, str]]] = [(graph, {})]
    while todo:
        graph, renamed = todo.pop()
        renamed = dict(renamed)

        def define(name: str, renamed: dict[str, str] = renamed) -> str:
            if not name:
                return name
            fresh, n = name, 1
            while fresh in taken:
                n += 1
                fresh = f"{name}_{n}"
            taken.add(fresh)
            if fresh != name:
                renamed[name] = fresh
            else:
                renamed.pop(name, None)
            return fresh

        inputs = {v.name for v in graph.input}
        for value in graph.input:
            value.name = define(value.name)
        for tensor in graph.initializer:
            if tensor.name in inputs:  # IR 3: one tensor, listed twice
                tensor.name = renamed.get(tensor.name, tensor.name)
            else:
                tensor.name = define(tensor.name)
        for node in graph.node:
            for i, name in enumerate(node.input):
                if name in renamed:
                    node.input[i] = renamed[name]
            for i, name in enumerate(node.output):
                node.output[i] = define(name)
        for value in (*graph.output, *graph.value_info):
            value.name = renamed.get(value.name, value.name)
        for node in graph.node:
            todo.extend((body, renamed) for body in subgraphs(node))
