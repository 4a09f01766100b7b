"""Rounding to codes, with a gradient: the straight-through estimator.

Rounding has no useful gradient; taken for the identity it has (Bengio et al. 2013), and where a
number is cut off at the ends of its range, none comes through (as in Jacob et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from ..model import Array, Model, Node, attributes

#: The ends of each type's range.
RANGES: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
}
for _name, _ends in (("INT2", (-2, 1)), ("UINT2", (0, 3))):
    if _name in TensorProto.DataType.keys():  # noqa: SIM118 - a protobuf wrapper, no dict
        RANGES[TensorProto.DataType.Value(_name)] = _ends


class _Round(torch.autograd.Function):
    """Round half to even; the gradient passes."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


def straight_round(x: Tensor) -> Tensor:
    """`x` rounded half to even, with the gradient of the identity."""
    rounded: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return rounded


def spread(value: Tensor, shape: torch.Size, axis: int, block: int) -> Tensor:
    """A scale or zero point, `[]`, `[c]` or `[.., blocks, ..]`, that broadcasts to `shape`."""
    if value.numel() == 1 and value.dim() <= 1:
        return value.reshape([])
    if value.dim() == len(shape) and block:
        return value.repeat_interleave(block, axis).narrow(axis, 0, shape[axis])
    if value.dim() == 1:
        sizes = [1] * len(shape)
        sizes[axis] = -1
        return value.reshape(sizes)
    return value


@dataclass(frozen=True)
class Codes:
    """How the codes of one quantised weight stand for numbers: `(code - point) * scale`."""

    scale: Array
    point: Array | None
    axis: int
    block: int
    low: int
    high: int

    def values(self, codes: Array) -> Array:
        """The numbers that codes stand for, float32."""
        scale, point = self._spread(codes.shape)
        return np.asarray((codes.astype(np.float64) - point) * scale, dtype=np.float32)

    def codes(self, values: Array, dtype: np.dtype[np.generic]) -> Array:
        """The nearest codes."""
        scale, point = self._spread(values.shape)
        found = np.clip(np.rint(values.astype(np.float64) / scale) + point, self.low, self.high)
        return found.astype(dtype)

    def _spread(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        point = np.zeros((), np.float64) if self.point is None else self.point
        made = [
            spread(
                torch.from_numpy(each.astype(np.float64)), torch.Size(shape), self.axis, self.block
            )
            for each in (self.scale, point)
        ]
        return made[0].numpy(), made[1].numpy()


def codes_of(model: Model, node: Node) -> Codes | None:
    """The codes that a DequantizeLinear reads; None where they are no constants or no integers."""
    tensor = model.constants[node.inputs[0]]
    if tensor.data_type not in RANGES or not tensor.dims:
        return None
    given = [name for name in node.inputs[1:3] if name]
    if any(name not in model.constants for name in given):
        return None
    known = attributes(node.proto)
    axis = int(known.get("axis", 1))
    scale = np.asarray(model.read(given[0]))
    if not (scale.astype(np.float64) != 0).all():
        return None
    return Codes(
        scale=scale.astype(np.float32),
        point=np.asarray(model.read(given[1])) if len(given) > 1 else None,
        axis=axis % len(tensor.dims) if scale.ndim else 0,
        block=int(known.get("block_size", 0)),
        low=RANGES[tensor.data_type][0],
        high=RANGES[tensor.data_type][1],
    )
