"""Single nodes in onnxruntime: operators without a torch call that no gradient comes through."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TypeProto, helper

from ..model import Array, Model
from ..runtime import run, session
from .table import Kernel, Spec
from .types import to_numpy, to_torch


def fallback(spec: Spec, model: Model) -> Kernel:
    """A kernel that hands a node to onnxruntime, on the CPU, as a model of its own."""
    sessions: dict[Any, Any] = {}
    node = spec.node.proto
    domains = {o.domain: o.version for o in model.proto.opset_import}
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    inputs = list(dict.fromkeys(name for name in node.input if name))

    def kernel(*operands: Any) -> Any:
        given = dict(zip(node.input, operands, strict=True))
        feeds = {name: to_numpy(given[name]) for name in inputs}
        key = tuple((each.dtype, each.ndim) for each in feeds.values())
        if key not in sessions:
            graph = helper.make_graph(
                [node],
                "node",
                [_value(name, array) for name, array in feeds.items()],
                [onnx.ValueInfoProto(name=name) for name in node.output if name],
            )
            proto = helper.make_model(
                graph, opset_imports=imports, ir_version=model.proto.ir_version
            )
            sessions[key] = session(proto, optimize=False)
        results = run(sessions[key], feeds)
        device = next((x.device for x in operands if isinstance(x, torch.Tensor)), None)
        made = [to_torch(results[n], spec.dtype) if n else None for n in node.output]
        return tuple(x.to(device) if isinstance(x, torch.Tensor) else x for x in made)

    return kernel


def _value(name: str, array: Array) -> onnx.ValueInfoProto:
    code = helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
    shape = [None] * array.ndim
    kind: TypeProto = helper.make_tensor_type_proto(code, shape)
    return helper.make_value_info(name, kind)
