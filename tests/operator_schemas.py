"""Schemas of operators: of the standard, in every version, and of onnxruntime's own."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx

#: What onnxruntime 1.31 runs.
OPSETS = range(7, 27)


@cache
def contrib_schemas() -> dict[tuple[str, str], list[Any]]:
    """onnxruntime's own schemas, those of ONNX included."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[tuple[str, str], list[Any]] = {}
    for schema in state.get_all_operator_schema():
        domain = "" if schema.domain == "ai.onnx" else schema.domain
        found.setdefault((domain, schema.name), []).append(schema)
    return found


def schemas_of(name: str) -> list[Any]:
    """Every version of an operator that a model of opset 7 to 26 can mean."""
    domain, _, op_type = name.rpartition(".")
    found = {}
    for opset in OPSETS:
        try:
            schema = onnx.defs.get_schema(op_type, opset, domain)
        except onnx.defs.SchemaError:
            continue
        if not schema.deprecated:
            found[schema.since_version] = schema
    if not found and onnx.defs.has(op_type, domain):
        return [onnx.defs.get_schema(op_type, domain=domain)]  # newer than onnxruntime
    return list(found.values()) or contrib_schemas().get((domain, op_type), [])
