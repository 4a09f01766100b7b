"""Element types: from ONNX and numpy to torch, and back.

Floats of 32 bits and fewer are all computed in one type, float32 unless asked otherwise. Unsigned
integers that torch has little arithmetic for are held in the next larger signed type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper

from ..model import Array

T = TensorProto

#: Types of floats that are computed in the function's own type.
FLOATS = frozenset(
    code
    for name, code in T.DataType.items()
    if name in ("FLOAT", "FLOAT16", "BFLOAT16") or name.startswith(("FLOAT8", "FLOAT4", "FLOAT6"))
)

_OTHERS: dict[int, torch.dtype] = {
    T.DOUBLE: torch.float64,
    T.BOOL: torch.bool,
    T.INT8: torch.int8,
    T.INT16: torch.int16,
    T.INT32: torch.int32,
    T.INT64: torch.int64,
    T.UINT8: torch.uint8,
    T.UINT16: torch.int32,
    T.UINT32: torch.int64,
    T.UINT64: torch.int64,
    T.INT4: torch.int8,
    T.UINT4: torch.uint8,
    T.COMPLEX64: torch.complex64,
    T.COMPLEX128: torch.complex128,
}
for _name, _stand_in in (("INT2", torch.int8), ("UINT2", torch.uint8)):
    if _name in T.DataType.keys():  # noqa: SIM118 - a protobuf wrapper, no dict
        _OTHERS[T.DataType.Value(_name)] = _stand_in


def torch_type(code: int, dtype: torch.dtype) -> torch.dtype:
    """The type that an ONNX type is computed in; raises KeyError for strings."""
    return dtype if code in FLOATS else _OTHERS[code]


def code_of(array: Array) -> int:
    """The ONNX type of an array."""
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def to_torch(value: Any, dtype: torch.dtype) -> Any:
    """An array as a tensor of the type that it is computed in; strings stay an array."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() and value.itemsize < 8 else value
    if isinstance(value, list):  # a sequence
        return [to_torch(each, dtype) for each in value]
    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        return array
    wanted = torch_type(code_of(array), dtype)
    plain = _PLAIN.get(wanted)
    if plain is None:  # bfloat16 and float16 are computed in only where a user says so
        return torch.from_numpy(array.astype(np.float32)).to(wanted)
    # A copy: what is read from a file can't be written to, and torch shares memory.
    return torch.from_numpy(np.array(array, dtype=plain, order="C"))


_PLAIN: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.bool: np.bool_,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.uint8: np.uint8,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}


def to_numpy(value: Any) -> Array:
    """A tensor as an array, in the type that it was computed in."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.detach().cpu()
    if value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()
    array: Array = value.numpy()
    return array
