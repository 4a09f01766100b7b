"""An ONNX file in memory: its graph, and its constants, which are read lazily, one at a time.

`Model` wraps the file's own ModelProto, so everything that pruning has no business with (metadata,
doc strings, versions, names, annotations) is still there when it is written. Weights kept outside
the file stay there until `Model.read` is asked for one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from . import external
from .errors import BrokenModel
from .external import is_external
from .tables import operator_name

Array = NDArray[Any]

#: Constants of at most this many elements may be values that shapes are computed with.
SMALL = 4096
#: No axis is longer; what says so is damaged, and lists of its positions would fill the memory.
LONGEST = 2**28
#: protobuf can't hold more than this in one message (bytes); a little is left for what is added.
LARGEST = 2**31 - 2**20


class Node(NamedTuple):
    """A node, and what every stage asks of it: read once, since each access to a proto costs."""

    proto: NodeProto
    #: The operator, as the rules' tables call it.
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, proto: NodeProto) -> Node:
        kind = operator_name(proto.domain, proto.op_type)
        # A slice of a repeated field is a list, made at once; iterating takes twice as long.
        return cls(proto, kind, tuple(proto.input[:]), tuple(proto.output[:]))


class Stamp(NamedTuple):
    """What of a file is another after it was written or replaced."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass
class Model:
    """A model whose tensor names are unique over all of its graphs (see `loading`)."""

    proto: ModelProto
    base_dir: Path = Path(".")
    path: Path | None = None
    #: Constants that loading copied, so that each use has its own: copy -> original.
    copies: dict[str, str] = field(default_factory=dict)
    #: SHA-256 of the file (or of the serialised model): what a plan is tied to.
    sha256: str = ""
    #: The files that it was read from, as they were then.
    files: dict[Path, Stamp] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict, init=False)
    producers: dict[str, NodeProto] = field(default_factory=dict, init=False)
    #: The main graph, and those inside its nodes.
    graphs: list[GraphProto] = field(default_factory=list, init=False)
    #: The nodes of the main graph that are not constants, and the constants that are nodes of it.
    nodes: list[Node] = field(default_factory=list, init=False)
    constant_nodes: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.reindex()

    def reindex(self) -> None:
        """Build the indices of constants and producers anew, after the graph was edited."""
        self.constants, self.producers, self.nodes, self.constant_nodes = {}, {}, [], []
        self.graphs = list(graphs(self.proto.graph))
        for i, graph in enumerate(self.graphs):
            for tensor in graph.initializer:
                self.constants[tensor.name] = tensor
            for proto in graph.node:
                if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
                    name = proto.output[0]
                    self.constants[name] = constant_tensor(proto)
                    if i == 0:
                        self.constant_nodes.append(name)
                    continue
                node = Node.of(proto)
                if i == 0:
                    self.nodes.append(node)
                for name in node.outputs:
                    if name:
                        self.producers[name] = proto

    def read(self, name: str) -> Array:
        """The value of one constant.

        Raises BrokenModel where the bytes do not make the tensor that is declared.
        """
        return tensor_array(self.constants[name], self.base_dir, name)

    def blocks(self, name: str) -> Iterator[tuple[int, Array]]:
        """The value of one constant of rank 1 and more, as blocks of rows and where they start.

        Of one in another file no more than a block is in memory. Where blocks begin depends on the
        shape and the type alone.

        Raises BrokenModel as `read` does.
        """
        tensor = self.constants[name]
        if is_external(tensor):
            with reading(tensor, name):
                yield from external.blocks(tensor, self.base_dir)
            return
        value = self.read(name)
        width = int(np.prod(value.shape[1:]))
        step = external.rows_of_block(tensor.data_type, width)
        for start in range(0, len(value), step):
            yield start, value[start : start + step]

    @cached_property
    def opset(self) -> int:
        """The version of the ai.onnx operators."""
        return max(
            (i.version for i in self.proto.opset_import if i.domain in ("", "ai.onnx")), default=1
        )

    @property
    def external(self) -> bool:
        """True where some weights are kept outside the file."""
        return any(is_external(tensor) for tensor in self.constants.values())

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The real inputs: those that are not initializers as well."""
        return [v for v in self.proto.graph.input if v.name not in self.constants]


#: The standard operators that have graphs as attributes.
_WITH_BODIES = frozenset(
    schema.name
    for schema in onnx.defs.get_all_schemas_with_history()
    if not schema.domain
    and any(a.type == onnx.defs.OpSchema.AttrType.GRAPH for a in schema.attributes.values())
)


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """The bodies of an If, Loop, Scan or any other node that has graphs as attributes."""
    found: list[GraphProto] = []
    if not node.domain and node.op_type not in _WITH_BODIES:
        return found  # most nodes: looking at each of their attributes is what takes time
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            found.append(attribute.g)
        elif attribute.type == AttributeProto.GRAPHS:
            found.extend(attribute.graphs)
    return found


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """`graph` and all graphs inside its nodes, outermost first."""
    todo = [graph]
    while todo:
        graph = todo.pop()
        yield graph
        for node in graph.node:
            if node.attribute:
                todo.extend(subgraphs(node))


def stored(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """The tensors of `graph` alone by name: initializers, and those in attributes of its nodes."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t.name or node_name(node), attribute.t


def captured(graph: GraphProto) -> set[str]:
    """Names that `graph` or a graph inside it reads from outside."""
    free: set[str] = set()
    own: set[str] = set()
    for inner in graphs(graph):
        own.update(v.name for v in inner.input)
        own.update(t.name for t in inner.initializer)
        own.update(name for node in inner.node for name in node.output)
    for inner in graphs(graph):
        free.update(name for node in inner.node for name in node.input)
        free.update(v.name for v in inner.output)
    return free - own - {""}


def reads(node: NodeProto) -> set[str]:
    """What a node reads, what its bodies capture included."""
    found = {name for name in node.input[:] if name}
    for body in subgraphs(node):
        found |= captured(body)
    return found


def copy_fields(source: Message, target: Message, *, without: str) -> None:
    """Copy all fields of a model or a graph but one."""
    for descriptor, value in source.ListFields():
        if descriptor.name == without:
            continue
        if descriptor.is_repeated:
            getattr(target, descriptor.name).extend(value)
        else:
            setattr(target, descriptor.name, value)


#: Types whose bytes are read as they are, which is ten times faster than onnx's own way.
_PLAIN: dict[int, np.dtype[Any]] = {
    TensorProto.BOOL: np.dtype(np.bool_),
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.INT64: np.dtype("<i8"),
}


def tensor_array(tensor: TensorProto, base_dir: Path, name: str = "") -> Array:
    """The value of `tensor`, read from its file where it is external."""
    with reading(tensor, name):
        if is_external(tensor):
            return external.read(tensor, base_dir)
        dtype = _PLAIN.get(tensor.data_type)
        if dtype is not None and tensor.HasField("raw_data"):
            plain: Array = np.frombuffer(tensor.raw_data, dtype).reshape(tensor.dims[:])
            return plain
        return numpy_helper.to_array(tensor)


@contextmanager
def reading(tensor: TensorProto, name: str) -> Iterator[None]:
    """Say which tensor it is that can't be read."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BrokenModel(
            f"tensor {name or tensor.name!r} can't be read ({reason}); the file may be truncated"
        ) from error


def replace_value(tensor: TensorProto, value: Array) -> None:
    """Give `tensor` another value, in place; its name and what is said of it stay."""
    replace(tensor, numpy_helper.from_array(value))


def replace(tensor: TensorProto, new: TensorProto) -> None:
    """Make `new` of `tensor`, in place; its name and what is said of it stay."""
    for each in ("name", "doc_string"):
        if tensor.HasField(each):
            setattr(new, each, getattr(tensor, each))
    new.metadata_props.extend(tensor.metadata_props)
    tensor.CopyFrom(new)


def constant_tensor(node: NodeProto) -> TensorProto:
    """The tensor of a Constant node, whichever attribute holds it."""
    name = node.output[0]
    for a in node.attribute:
        if a.name == "value":
            tensor: TensorProto = a.t
            return tensor
        if a.name == "value_float":
            return numpy_helper.from_array(np.array(a.f, dtype=np.float32), name)
        if a.name == "value_floats":
            return numpy_helper.from_array(np.array(a.floats, dtype=np.float32), name)
        if a.name == "value_int":
            return numpy_helper.from_array(np.array(a.i, dtype=np.int64), name)
        if a.name == "value_ints":
            return numpy_helper.from_array(np.array(a.ints, dtype=np.int64), name)
        if a.name == "value_string":
            return onnx.helper.make_tensor(name, TensorProto.STRING, [], [a.s])
        if a.name == "value_strings":
            return onnx.helper.make_tensor(name, TensorProto.STRING, [len(a.strings)], a.strings)
    raise BrokenModel(f"Constant node of {name!r} holds no value that can be read")


#: Where an attribute holds its value; onnx's own way asks for the type up to twelve times.
_FIELDS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
}


def attribute_value(attribute: AttributeProto) -> Any:
    """The value of an attribute as a Python value."""
    name = _FIELDS.get(attribute.type)
    if name is None:
        return onnx.helper.get_attribute_value(attribute)
    value = getattr(attribute, name)
    return value[:] if name in ("floats", "ints") else value


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of `node` by name, as Python values."""
    return {a.name: attribute_value(a) for a in node.attribute}


def node_name(node: NodeProto) -> str:
    """What to call `node` in a message: its name, or its first output's."""
    return node.name or next((name for name in node.output if name), "unnamed")
