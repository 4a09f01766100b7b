"""Large weights put into a file, so that pieces of their model are small.

Every probe runs what is left of the network as a model of its own. With the weights in it, making
such a piece, and handing it to onnxruntime, takes as long as running it; weights that are in a file
are only named, and mapped.
"""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto
from onnx.external_data_helper import set_external_data

from ..external import is_external
from ..model import copy_fields

#: Bytes: smaller weights stay where they are.
_LARGE = 2**20
_NAME = "weights.bin"
#: Weights begin at multiples of this, as pages do.
_PAGE = 4096


def put_aside(model: ModelProto, folder: Path) -> ModelProto | None:
    """A copy of the model whose large weights are in a file of this folder.

    None where none is large, or where weights are in files of another folder already.

    Raises:
        OSError: the file can't be written.
    """
    tensors = model.graph.initializer
    if any(map(is_external, tensors)) or all(len(t.raw_data) < _LARGE for t in tensors):
        return None
    copy = ModelProto()
    copy_fields(model, copy, without="graph")
    copy_fields(model.graph, copy.graph, without="initializer")
    with (folder / _NAME).open("wb") as file:
        for tensor in tensors:
            held = copy.graph.initializer.add()
            if len(tensor.raw_data) < _LARGE:
                held.CopyFrom(tensor)
                continue
            at = -(-file.tell() // _PAGE) * _PAGE
            file.seek(at)
            file.write(tensor.raw_data)
            held.name, held.data_type, held.raw_data = tensor.name, tensor.data_type, b""
            held.dims.extend(tensor.dims)
            set_external_data(held, _NAME, at, len(tensor.raw_data))
            held.ClearField("raw_data")
    return copy
