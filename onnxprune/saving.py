"""Writing: all of a file or nothing of it, and weights outside of it where they were before."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from onnx import ModelProto, TensorProto, numpy_helper

from .errors import UsageError, WriteFailed
from .model import graphs, is_external

#: External tensors start at multiples of this, so that they can be mapped into memory.
_ALIGNMENT = 4096
#: Tensors smaller than this (bytes) stay in the model file.
_INLINE = 1024
#: protobuf can't hold more than this in one message (bytes).
_LIMIT = 2**31 - 2**20


def check_target(output: Path, source: Path | None, force: bool) -> None:
    """Refuse an output that can't be meant.

    Raises UsageError where it is the input, a directory, or there already.
    """
    if source is not None and output.exists() and output.resolve() == source.resolve():
        raise UsageError(f"{output}: the output is the input; name another file")
    if output.is_dir():
        raise UsageError(f"{output}: this is a directory; name a file in it")
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent}: no such directory")
    if output.exists() and not force:
        raise UsageError(f"{output}: is there already; use --force to replace it")


def save(
    proto: ModelProto,
    output: Path,
    base_dir: Path,
    external: bool = False,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write `proto` to `output`; its external tensors are read from `base_dir`.

    With `external` (or above 2 GB) weights go to a data file beside it. Everything is written to a
    folder of its own first, where `check` sees it, and moved when it is complete: the data, and
    then the model that names it.

    Raises WriteFailed; nothing is left half written then.
    """
    external = external or proto.ByteSize() > _LIMIT
    model = ModelProto()
    model.CopyFrom(proto)
    with _writing(output), _scratch(output) as folder:
        draft, data = folder / output.name, folder / (output.name + ".data")
        if external:
            _move_out(model, data, base_dir)
        else:
            inline_all(model, base_dir)
        with open(draft, "wb") as file:
            file.write(model.SerializeToString(deterministic=True))
            _sync(file)
        if check is not None:
            check(draft)
        if external:
            os.replace(data, output.with_name(data.name))
        os.replace(draft, output)


def inline_all(proto: ModelProto, base_dir: Path) -> None:
    """Bring the tensors that are in other files into `proto`, in place."""
    for graph in graphs(proto.graph):
        for tensor in graph.initializer:
            if is_external(tensor):
                _inline(tensor, base_dir)


def _inline(tensor: TensorProto, base_dir: Path) -> None:
    value = numpy_helper.to_array(tensor, str(base_dir))
    name, doc = tensor.name, tensor.doc_string
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    tensor.doc_string = doc


def _move_out(proto: ModelProto, data: Path, base_dir: Path) -> None:
    """Move the larger tensors of `proto`, in place, to the file `data`."""
    with open(data, "wb") as file:
        for graph in graphs(proto.graph):
            for tensor in graph.initializer:
                if tensor.data_type == TensorProto.STRING:
                    continue
                if is_external(tensor):
                    _inline(tensor, base_dir)
                elif not tensor.HasField("raw_data"):
                    array = numpy_helper.to_array(tensor)
                    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
                raw = tensor.raw_data
                if len(raw) < _INLINE:
                    continue
                offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
                file.write(b"\0" * (offset - file.tell()))
                file.write(raw)
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                entries = (("location", data.name), ("offset", offset), ("length", len(raw)))
                for key, value in entries:
                    entry = tensor.external_data.add()
                    entry.key, entry.value = key, str(value)
        _sync(file)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, through a temporary file beside it. Raises WriteFailed."""
    with _writing(path), _scratch(path) as folder:
        draft = folder / path.name
        with open(draft, "wb") as file:
            file.write(data)
            _sync(file)
        os.replace(draft, path)


@contextlib.contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder beside `path`, so that moving a file from it is one step; removed in any case."""
    with tempfile.TemporaryDirectory(prefix=".onnxprune-", dir=path.parent) as name:
        yield Path(name)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteFailed(f"{path}: can't be written: {error.strerror or error}") from error
