"""Tensors from nothing: ranges, constants, random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from ..table import Kernel, Spec, ints, operator
from ..types import torch_type


@operator("Range", host=(0, 1, 2), differentiable=False)
def arange(node: Spec) -> Kernel:
    def run(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        if start.is_floating_point():
            count = max(int(torch.ceil((limit - start) / delta)), 0)
            return start + torch.arange(count, dtype=start.dtype) * delta
        return torch.arange(int(start), int(limit), int(delta), dtype=start.dtype)

    return run


@operator("ConstantOfShape", host=(0,), differentiable=False)
def constant_of_shape(node: Spec) -> Kernel:
    import onnx

    given = node.attr("value")
    if given is None:
        value, dtype = 0.0, node.dtype
    else:
        value = onnx.numpy_helper.to_array(given).astype("O").ravel()[0]
        dtype = torch_type(given.data_type, node.dtype)
    return lambda shape: torch.full(ints(shape) if shape.numel() else (), value, dtype=dtype)


@operator("EyeLike", differentiable=False)
def eye_like(node: Spec) -> Kernel:
    to, k = node.attr("dtype"), node.attr("k", 0)

    def run(x: Tensor) -> Tensor:
        dtype = x.dtype if to is None else torch_type(to, node.dtype)
        rows, columns = x.shape
        at = torch.arange(rows, device=x.device)[:, None]
        return (at + k == torch.arange(columns, device=x.device)).to(dtype)

    return run


@operator("RandomNormal", "RandomUniform", differentiable=False, random=True)
def random_of_shape(node: Spec) -> Kernel:
    shape, dtype = node.attr("shape"), torch_type(node.attr("dtype", 1), node.dtype)
    return lambda: _random(node, torch.empty(shape, dtype=dtype))


@operator("RandomNormalLike", "RandomUniformLike", differentiable=False, random=True)
def random_like(node: Spec) -> Kernel:
    to = node.attr("dtype")
    dtype = None if to is None else torch_type(to, node.dtype)
    return lambda x: _random(node, torch.empty_like(x, dtype=dtype))


def _random(node: Spec, x: Tensor) -> Tensor:
    if "Normal" in node.node.kind:
        return x.normal_(node.attr("mean", 0.0), node.attr("scale", 1.0))
    return x.uniform_(node.attr("low", 0.0), node.attr("high", 1.0))


@operator("Bernoulli", differentiable=False, random=True)
def bernoulli(node: Spec) -> Kernel:
    to = node.attr("dtype")

    def run(x: Tensor) -> Tensor:
        drawn = torch.bernoulli(x.detach())
        return drawn if to is None else drawn.to(torch_type(to, node.dtype))

    return run


@operator("Multinomial", differentiable=False, random=True)
def multinomial(node: Spec) -> Kernel:
    count, dtype = node.attr("sample_size", 1), torch_type(node.attr("dtype", 6), node.dtype)

    def run(x: Tensor) -> Tensor:
        chances = torch.softmax(x.detach().float(), -1)
        return torch.multinomial(chances, count, replacement=True).to(dtype)

    return run


@operator("HannWindow", "HammingWindow", "BlackmanWindow", host=(0,), differentiable=False)
def window(node: Spec) -> Kernel:
    dtype = torch_type(node.attr("output_datatype", 1), node.dtype)
    periodic = bool(node.attr("periodic", 1))
    terms = {
        "HannWindow": (0.5, 0.5, 0.0),
        "HammingWindow": (25 / 46, 21 / 46, 0.0),
        "BlackmanWindow": (0.42, 0.5, 0.08),
    }[node.node.kind]

    def run(size: Tensor) -> Tensor:
        count = ints(size)[0]
        at = torch.arange(count, dtype=torch.float64) * (
            2 * torch.pi / (count if periodic else count - 1)
        )
        return (terms[0] - terms[1] * at.cos() + terms[2] * (2 * at).cos()).to(dtype)

    return run
