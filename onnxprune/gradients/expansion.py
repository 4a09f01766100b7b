"""Operators that ONNX itself defines by others: expanded where the table has no call for them."""

from __future__ import annotations

from typing import Any

import onnx
from onnx.inliner import inline_selected_functions

from ..model import Model
from .constants import everything, nodes_of
from .table import find


def expanded(model: Model, versions: dict[str, int]) -> Model:
    """The model with nodes that have no torch call as their schema defines them, where it does."""
    wanted = {
        (each.proto.domain, each.proto.op_type)
        for each in everything(nodes_of(model.proto.graph))
        if find(each.kind, versions.get(each.proto.domain, 1)) is None
    }
    wanted = {each for each in wanted if _is_function(*each, versions.get(each[0], 1))}
    if not wanted:
        return model
    try:
        inlined = inline_selected_functions(
            model.proto, sorted(wanted), inline_schema_functions=True
        )
    except RuntimeError:  # onnx can't expand what leaves out an operand in the middle
        return model
    return Model(inlined, model.base_dir, model.path)


def _is_function(domain: str, op_type: str, version: int) -> bool:
    try:
        schema: Any = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)
