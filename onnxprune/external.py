"""External tensors: where their bytes are, and their values, a block of rows at a time.

A tensor may also be a *cut*: the kept positions of another one's axes. It is an external tensor
whose entries say where the whole is, and what is kept of it besides. So a pruned model takes no
more memory than its graph does: weights are cut while they are read, block by block. No file has
such tensors; saving writes what they stand for.

Files are read and not mapped. What is mapped is lost with the whole process where somebody shortens
the file meanwhile (SIGBUS), and pages of it count as the process's memory; a read that comes to the
end too early is an error like any other. One block takes as long either way.
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

Array = NDArray[Any]
Index = NDArray[np.int64]

#: Bytes of a block, about: few enough that one is still in the processor's cache when it is used.
BLOCK = 1 << 22
#: Bytes: smaller tensors are not worth a place in another file.
SMALL = 1024
#: Entries of a cut, besides those that say where the whole is: its dims, and, by axis, positions
#: that are kept, and positions where there is zero instead.
_OURS = "onnxprune."
_WHOLE, _KEPT, _ZERO = (f"{_OURS}{each}" for each in ("whole", "kept.", "zero."))


def is_external(tensor: TensorProto) -> bool:
    """True where the tensor's bytes are in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


class Place(NamedTuple):
    """Where an external tensor's bytes are, as its entries say: a relative path, and bytes."""

    #: bytes where it is no text
    location: Any
    offset: int
    #: None where it is not said: as many as the tensor needs.
    length: int | None

    @classmethod
    def of(cls, tensor: TensorProto) -> Place:
        """Raises ValueError where an entry is no number. Of two of one key the last counts."""
        entries = _entries(tensor)
        length = entries.get("length")
        return cls(
            entries.get("location", ""),
            int(entries.get("offset") or 0),
            int(length) if length else None,
        )


def _entries(tensor: TensorProto) -> dict[str, Any]:
    return {entry.key: entry.value for entry in tensor.external_data}


#: Types of which several elements share a byte, and how many bits one takes.
_PACKED = {
    code: bits
    for name, code in TensorProto.DataType.items()
    for ending, bits in (("INT2", 2), ("INT4", 4), ("FLOAT4E2M1", 4), ("E2M3", 6), ("E3M2", 6))
    if name.endswith(ending)
}


def is_packed(tensor: TensorProto) -> bool:
    """True where several elements share a byte."""
    return tensor.data_type in _PACKED


#: So many elements of any type fill whole bytes.
_FILLED = 4


def stored_bytes(tensor: TensorProto) -> int:
    """How many bytes the elements of a tensor take. Raises KeyError for a type that is none."""
    return bytes_of(tensor.data_type, math.prod(tensor.dims[:]))


def bytes_of(data_type: int, elements: int) -> int:
    """How many bytes so many elements take. Raises KeyError for a type that is none."""
    return -(-elements * _bits(data_type) // 8)


def _bits(data_type: int) -> int:
    bits = _PACKED.get(data_type)
    if bits is not None:
        return bits
    size: int = onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
    return 8 * size


# -- cuts ----------------------------------------------------------------------------------------


def cut(
    tensor: TensorProto, kept: Mapping[int, Index], zero: Mapping[int, Index] | None = None
) -> TensorProto:
    """An external tensor that has only these positions of some axes of `tensor`, in this order.

    At the positions `zero` of the whole's axes it has zeros.
    """
    new = TensorProto()
    new.CopyFrom(tensor)
    del new.external_data[:]
    place = Place.of(tensor)
    for key, value in (("location", place.location), ("offset", str(place.offset))):
        new.external_data.add(key=key, value=value)
    new.external_data.add(key=_WHOLE, value=",".join(map(str, tensor.dims)))
    for axis, positions in kept.items():
        new.dims[axis] = len(positions)
    for begins, by_axis in ((_KEPT, kept), (_ZERO, zero or {})):
        for axis, positions in by_axis.items():
            steps = np.diff(positions, prepend=0).astype("<i8").tobytes()
            text = base64.b64encode(zlib.compress(steps, 1)).decode()
            new.external_data.add(key=f"{begins}{axis}", value=text)
    return new


def is_cut(tensor: TensorProto) -> bool:
    """True where the tensor is a part of what its file holds (or claims to be, in a model file)."""
    return any(entry.key.startswith(_OURS) for entry in tensor.external_data)


def recipe_bytes(tensor: TensorProto) -> int:
    """Bytes of the entries that make a tensor a cut: what is written has none of them."""
    return sum(entry.ByteSize() for entry in tensor.external_data if entry.key.startswith(_OURS))


class _Parts(NamedTuple):
    """The dims of what the file holds; by axis, what is kept of it, and what is zero."""

    whole: list[int]
    kept: dict[int, Index]
    zero: dict[int, Index]

    @classmethod
    def of(cls, tensor: TensorProto) -> _Parts:
        parts = cls(tensor.dims[:], {}, {})
        for key, value in _entries(tensor).items():
            if key == _WHOLE:
                parts = parts._replace(whole=[int(dim) for dim in value.split(",")])
            for begins, by_axis in ((_KEPT, parts.kept), (_ZERO, parts.zero)):
                if key.startswith(begins):
                    steps = np.frombuffer(zlib.decompress(base64.b64decode(value)), "<i8")
                    by_axis[int(key[len(begins) :])] = np.cumsum(steps, dtype=np.int64)
        return parts


def region(tensor: TensorProto) -> tuple[object, ...]:
    """What tells two external tensors apart: equal for those of the same bytes."""
    return (*sorted(_entries(tensor).items()), tensor.data_type, tuple(tensor.dims[:]))


# -- values --------------------------------------------------------------------------------------


def read(tensor: TensorProto, base_dir: Path) -> Array:
    """The value of an external tensor.

    Raises OSError, or ValueError where its file ends too early.
    """
    if not is_cut(tensor):
        with _opened(tensor, base_dir) as file:
            data = _bytes(file, tensor, 0, stored_bytes(tensor))
            return _decoded(tensor.data_type, tensor.dims[:], data)
    value = np.empty(tensor.dims[:], onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    for start, block in blocks(tensor, base_dir):
        value[start : start + len(block)] = block
    return value


def blocks(tensor: TensorProto, base_dir: Path) -> Iterator[tuple[int, Array]]:
    """The value of an external tensor of rank 1 and more, as blocks of rows and where they start.

    All but the last hold rows that fill whole bytes, also where elements share a byte.

    Raises OSError, or ValueError where its file ends too early.
    """
    whole, kept, zero = _Parts.of(tensor)
    width = math.prod(whole[1:])
    step = rows_of_block(tensor.data_type, width)
    with _opened(tensor, base_dir) as file:
        for start, stop, first, last in _spans(whole[0], kept.get(0), step):
            at = bytes_of(tensor.data_type, first * width)
            size = bytes_of(tensor.data_type, (last - first) * width)
            data = _bytes(file, tensor, at, size)
            value = _decoded(tensor.data_type, [last - first, *whole[1:]], data)
            for axis, gone in zero.items():
                here = gone[(gone >= first) & (gone < last)] - first if axis == 0 else gone
                value[(slice(None),) * axis + (here,)] = 0
            for axis, positions in sorted(kept.items()):
                here = positions[start:stop] - first if axis == 0 else positions
                value = np.take(value, here, axis)
            yield start, value


def rows_of_block(data_type: int, width: int) -> int:
    """How many rows of so many elements a block has: ones that fill whole bytes."""
    return max(1, BLOCK * 8 // max(1, width * _bits(data_type)) // _FILLED) * _FILLED


def _spans(size: int, kept: Index | None, step: int) -> Iterator[tuple[int, int, int, int]]:
    """Runs of kept rows, `[start, stop)`, and the rows of the whole that they are in.

    Both begin where a byte does.
    """
    if kept is None:
        for start in range(0, size, step):
            stop = min(start + step, size)
            yield start, stop, start, stop
        return
    if (np.diff(kept) < 0).any():  # another order: only a whole has them all
        yield 0, len(kept), 0, size
        return
    start = 0
    while start < len(kept):
        stop = int(np.searchsorted(kept, kept[start] + step))
        if stop < len(kept):
            stop = min(len(kept), start + max(_FILLED, (stop - start) // _FILLED * _FILLED))
        first = int(kept[start]) // _FILLED * _FILLED
        yield start, stop, first, int(kept[stop - 1]) + 1
        start = stop


def raw_blocks(tensor: TensorProto, base_dir: Path) -> Iterator[Any]:
    """The bytes of an external tensor, as buffers that hold a block each.

    Raises OSError, or ValueError where its file ends too early.
    """
    if is_cut(tensor):
        for _, block in blocks(tensor, base_dir):
            if tensor.data_type in _PACKED:
                yield numpy_helper.from_array(block).raw_data
            else:
                yield np.ascontiguousarray(block).reshape(-1).view(np.uint8)
        return
    size = stored_bytes(tensor)
    with _opened(tensor, base_dir) as file:
        for start in range(0, size, BLOCK):
            yield _bytes(file, tensor, start, min(BLOCK, size - start))


def _opened(tensor: TensorProto, base_dir: Path) -> io.FileIO:
    return open(base_dir / Place.of(tensor).location, "rb", buffering=0)


def _bytes(file: io.FileIO, tensor: TensorProto, at: int, size: int) -> NDArray[np.uint8]:
    """So many bytes of a tensor, from the byte `at` of it on."""
    place = Place.of(tensor)
    data = np.empty(size, np.uint8)
    file.seek(place.offset + at)
    read = 0
    while read < size:
        count = file.readinto(data[read:].data)
        if not count:
            raise ValueError(f"{place.location!r} ends too early")
        read += count
    return data


def _decoded(data_type: int, dims: Sequence[int], data: NDArray[np.uint8]) -> Array:
    if data_type in _PACKED:
        proto = TensorProto(data_type=data_type, dims=dims, raw_data=data.tobytes())
        return numpy_helper.to_array(proto)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    value: Array = data.view(dtype.newbyteorder("<")).reshape(dims)
    return value
