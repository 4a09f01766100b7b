"""Writing: all of a file or nothing of it, and weights outside of it where they were before."""

from __future__ import annotations

import contextlib
import mmap
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from onnx import ModelProto, StringStringEntryProto, TensorProto

from .atomic import move, scratch, sync, writing
from .errors import UsageError
from .external import SMALL, is_external, raw_blocks, region, stored_bytes
from .model import (
    LARGEST,
    Model,
    graphs,
    reading,
    replace,
    replace_value,
    stored,
    tensor_array,
)
from .wire import byte_size, pieces

#: External tensors start at multiples of a page, and large ones (bytes) at multiples of what
#: Windows maps, as ExternalData.md of the ONNX specification recommends.
_PAGE, _LARGE, _GRANULARITY = 1 << 12, 1 << 20, 1 << 16
#: Tensors smaller than this (bytes) stay in the model file where they stand in attributes: fewer
#: tools can read those from other files. Others do below `external.SMALL`.
_INLINE_ATTRIBUTE = 2**20


def check_target(output: Path, sources: Iterable[Path], force: bool) -> None:
    """Refuse an output that can't be meant.

    Raises UsageError where it is one of the inputs, no ordinary file, or there already; WriteFailed
    where its folder can't be entered.
    """
    with writing(output):
        for source in sources:
            if output.exists() and source.exists() and output.samefile(source):
                raise UsageError(f"{output}: the output is an input; name another file")
        if output.is_dir():
            raise UsageError(f"{output}: this is a directory; name a file in it")
        if output.exists() and not output.is_file():
            raise UsageError(f"{output}: this is a device or a pipe; name a file")
        if not output.parent.is_dir():
            raise UsageError(f"{output.parent}: no such directory")
        if output.exists() and not force:
            raise UsageError(f"{output}: is there already; use --force to replace it")


def data_file(output: Path) -> Path:
    """Where the weights of a model go that are written outside of it."""
    return output.with_name(output.name + ".data")


def sources(model: Model) -> list[Path]:
    """The files that a model was read from: its own, and those in which it keeps weights."""
    own = [model.path] if model.path else []
    return own + sorted(model.files)


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
    external = external or byte_size(proto) > LARGEST
    model = proto
    if external or any(is_external(t) for graph in graphs(proto.graph) for _, t in stored(graph)):
        model = ModelProto()
        model.CopyFrom(proto)
    with writing(output), scratch(output) as folder:
        draft, data = folder / output.name, folder / data_file(output).name
        if external:
            _move_out(model, data, base_dir)
        else:
            inline_all(model, base_dir)
        _write(model, draft)
        if check is not None:
            check(draft)
        if external:
            _switch(model, draft, data, output)
        else:
            move(draft, output)


def _write(model: ModelProto, path: Path) -> None:
    with open(path, "wb") as file:
        file.writelines(pieces(model))
        sync(file)


def _switch(model: ModelProto, draft: Path, data: Path, output: Path) -> None:
    """Put a model and its data in their places, so that there is a whole model at every moment.

    Two files can't be replaced in one step. Where the model that is there names the file that the
    data goes to, a copy of the new data is there under another name meanwhile, and the new model
    names that. (A second name for one file would be quicker, but onnx refuses data in such files.)
    """
    final = data_file(output)
    meanwhile = final.with_name(final.name + ".onnxprune-new")
    if _names(output, final.name):
        between, copy = draft.with_name("between"), draft.with_name("copy")
        _rename_data(model, meanwhile.name)
        _write(model, between)
        with open(data, "rb") as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            sync(target)
        move(copy, meanwhile)
        move(between, output)
    move(data, final)
    move(draft, output)
    meanwhile.unlink(missing_ok=True)


def _names(output: Path, location: str) -> bool:
    """Whether a model that is there, if there is one, has its data in the file `location`."""
    entry = StringStringEntryProto(key="location", value=location).SerializeToString()
    if not output.exists() or not output.stat().st_size:
        return False
    with (
        open(output, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as found,
    ):
        return found.find(entry) >= 0


def _rename_data(model: ModelProto, location: str) -> None:
    for graph in graphs(model.graph):
        for _, tensor in stored(graph):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location


def inline_all(proto: ModelProto, base_dir: Path) -> None:
    """Bring the tensors that are in other files into `proto`, in place."""
    for graph in graphs(proto.graph):
        for _, tensor in stored(graph):
            if is_external(tensor):
                _inline(tensor, base_dir)


def _inline(tensor: TensorProto, base_dir: Path) -> None:
    replace_value(tensor, tensor_array(tensor, base_dir))


def _move_out(proto: ModelProto, data: Path, base_dir: Path) -> None:
    """Move the larger tensors of `proto`, in place, to the file `data`.

    Tensors that were one part of a file, and are still the same, are one part of this.
    """
    places: dict[object, int] = {}
    with open(data, "wb") as file:
        for graph in graphs(proto.graph):
            inside = len(graph.initializer)
            for i, (name, tensor) in enumerate(stored(graph)):
                if tensor.data_type == TensorProto.STRING:
                    continue
                least = SMALL if i < inside or is_external(tensor) else _INLINE_ATTRIBUTE
                size = stored_bytes(tensor)
                if size < least:
                    if is_external(tensor):
                        _inline(tensor, base_dir)
                    continue
                place = region(tensor) if is_external(tensor) else None
                offset = places.get(place) if place else None
                if offset is None:
                    offset = _aligned(file.tell(), size)
                    file.write(b"\0" * (offset - file.tell()))
                    file.writelines(_bytes(tensor, base_dir, name))
                    if place:
                        places[place] = offset
                _refer(tensor, data.name, offset, size)
        sync(file)


def _aligned(at: int, size: int) -> int:
    step = _GRANULARITY if size >= _LARGE else _PAGE
    return -(-at // step) * step


def _bytes(tensor: TensorProto, base_dir: Path, name: str) -> Iterator[Any]:
    """The bytes of a tensor, wherever they are, as buffers."""
    if is_external(tensor):
        with reading(tensor, name):
            yield from raw_blocks(tensor, base_dir)
        return
    if not tensor.HasField("raw_data"):
        _inline(tensor, base_dir)
    yield tensor.raw_data


def _refer(tensor: TensorProto, location: str, offset: int, size: int) -> None:
    """Say of a tensor that its bytes are in another file."""
    new = TensorProto(
        data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", offset), ("length", size)):
        new.external_data.add(key=key, value=str(value))
    replace(tensor, new)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all or nothing. Raises WriteFailed."""
    with pending(path, data):
        pass


@contextlib.contextmanager
def pending(path: Path, data: bytes) -> Iterator[None]:
    """Have `data` ready beside `path`, and move it there only if the block ends well.

    Raises WriteFailed.
    """
    with writing(path), scratch(path) as folder:
        draft = folder / path.name
        with open(draft, "wb") as file:
            file.write(data)
            sync(file)
        yield
        move(draft, path)
