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
from collections.abc import Callable, Iterator
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

from .errors import BrokenModel, OnnxPruneError, UnsupportedModel, UsageError
from .external import Place, is_external, stored_bytes
from .folding import fold_writes, plain_splits
from .integrity import check, check_unchanged, is_inside, stamp_of
from .model import (
    LARGEST,
    Model,
    Stamp,
    graphs,
    node_name,
    reads,
    replace_value,
    stored,
    subgraphs,
    tensor_array,
)
from .splitting import split_shared_vectors
from .trust import trust
from .uncollected import uncollected
from .zero_states import drop_zero_states

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ModelLike = Union[ModelProto, str, Path, "gs.Graph"]


@uncollected()
def load(source: ModelLike) -> Model:
    """Read a model and bring it in the form of the reference.

    Raises UsageError where there is no such file, BrokenModel where it is not a readable ONNX file,
    UnsupportedModel where it is one that can't be pruned as it is. A ModelProto is not changed.
    """
    read: list[tuple[ModelProto, Path | None]] = []
    name = str(source) if isinstance(source, (str, Path)) else "the model"
    with readable(name, lambda: read[0] if read else None):
        return _load(source, read)


@contextmanager
def readable(
    name: str, loaded: Callable[[], tuple[ModelProto, Path | None] | None]
) -> Iterator[None]:
    """What goes wrong in a model that ONNX's checker refuses, is the model's fault.

    The checker is not asked before: models that it refuses may be fine in onnxruntime, and so here.
    And names are read when they are needed, not all at once: what is no text shows late.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise BrokenModel(
            f"{name}: a name in it is not text ({error.object[:20]!r}); the file is damaged"
        ) from error
    except OnnxPruneError:
        raise
    except Exception as error:
        found = loaded()
        reason = None if found is None else refusal(*found)
        if reason is None:
            raise
        raise BrokenModel(f"{name}: not a valid ONNX model: {reason}") from error


def refusal(proto: ModelProto, path: Path | None) -> str | None:
    """Why ONNX's checker refuses a model, in one line; None where it does not."""
    try:
        onnx.checker.check_model(str(path) if path else proto)
    except Exception as error:  # its exception types differ between versions of onnx
        return " ".join(str(error).split())[:300]
    return None


def _load(source: ModelLike, read: list[tuple[ModelProto, Path | None]]) -> Model:
    path, stamp = None, None
    if isinstance(source, (str, Path)):
        path = Path(source)
        stamp = stamp_of(path)
        proto, digest = _read_file(path, stamp)
    else:
        if isinstance(source, ModelProto):
            proto = ModelProto()
            proto.CopyFrom(source)
        else:
            proto = _from_graphsurgeon(source)
        digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    read.append((proto, path))
    base_dir = path.parent if path else Path(".")
    files = check(proto, base_dir, stamp.size if stamp else 0)
    _refuse_blocked_layout(proto)
    if proto.functions:
        proto = inline_local_functions(proto)
    if trust().outside_data:
        _bring_in(proto, base_dir, files)
    for graph in graphs(proto.graph):
        _sort(graph)
        _densify(graph)
    _make_names_unique(proto.graph)
    fold_writes(proto)
    plain_splits(proto)
    drop_zero_states(proto)
    copies = split_shared_vectors(proto)
    return Model(proto, base_dir, path, copies, digest, files)


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


def _read_file(path: Path, before: Stamp) -> tuple[ModelProto, str]:
    try:
        with open(path, "rb") as file:
            data = file.read(before.size + 1)
            check_unchanged({path: before})
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


def _refuse_blocked_layout(proto: ModelProto) -> None:
    for graph in graphs(proto.graph):
        for node in graph.node:
            if node.domain == "com.microsoft.nchwc":
                raise UnsupportedModel(
                    f"node {node_name(node)!r} ({node.op_type}) is of onnxruntime's blocked layout,"
                    " which holds for one machine only; save the model without layout optimisation"
                    " (ORT_ENABLE_EXTENDED or less) and prune that"
                )


# -- the steps -----------------------------------------------------------------------------------


def _bring_in(proto: ModelProto, base_dir: Path, files: dict[Path, Stamp]) -> None:
    """Weights from outside of the model's folder, into the model: nothing else reads them there."""
    found = [
        (name, tensor)
        for graph in graphs(proto.graph)
        for name, tensor in stored(graph)
        if is_external(tensor) and not is_inside(Place.of(tensor).location, base_dir)
    ]
    size = sum(stored_bytes(tensor) for _, tensor in found)
    if size > LARGEST:
        raise UnsupportedModel(
            f"{size:,} bytes of its external data are outside of the model's folder, and no more"
            f" than {LARGEST:,} can be brought into it: copy the files to the model's folder"
        )
    for name, tensor in found:
        replace_value(tensor, tensor_array(tensor, base_dir, name))
    check_unchanged(files)


def _sort(graph: GraphProto) -> None:
    """Put the nodes in topological order, in a stable way, where they are not."""
    produced: dict[str, int] = {}
    for i, node in enumerate(graph.node):
        for name in node.output[:]:
            if name:
                produced[name] = i
    operands = [reads(node) for node in graph.node]
    if all(produced.get(name, -1) < i for i, names in enumerate(operands) for name in names):
        return
    order: list[int] = []
    waiting = [0] * len(operands)
    users: dict[int, list[int]] = defaultdict(list)
    for i, names in enumerate(operands):
        before = {produced[name] for name in names if name in produced}
        waiting[i] = len(before)
        for j in before:
            users[j].append(i)
    ready = [i for i in reversed(range(len(operands))) if not waiting[i]]
    while ready:
        i = ready.pop()
        order.append(i)
        for j in users[i]:
            waiting[j] -= 1
            if not waiting[j]:
                ready.append(j)
    if len(order) < len(operands):
        stuck = next(i for i, count in enumerate(waiting) if count)
        raise BrokenModel(f"node {node_name(graph.node[stuck])!r} is part of a cycle")
    nodes = [graph.node[i] for i in order]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


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
    numbers: dict[str, int] = {}  # the last that was tried, of each name
    todo: list[tuple[GraphProto, dict[str, str]]] = [(graph, {})]
    while todo:
        graph, renamed = todo.pop()
        renamed = dict(renamed)

        def define(name: str, renamed: dict[str, str] = renamed) -> str:
            if not name:
                return name
            fresh = name
            while fresh in taken:
                numbers[name] = numbers.get(name, 1) + 1
                fresh = f"{name}_{numbers[name]}"
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
            for i, name in enumerate(node.input[:] if renamed else ()):
                if name in renamed:
                    node.input[i] = renamed[name]
            for i, name in enumerate(node.output[:]):
                if (fresh := define(name)) != name:
                    node.output[i] = fresh
        for value in (*graph.output, *graph.value_info):
            value.name = renamed.get(value.name, value.name)
        for node in graph.node:
            todo.extend((body, renamed) for body in subgraphs(node))
