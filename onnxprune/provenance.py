"""Where a pruned model comes from, written into its `metadata_props`.

The same model, plan and version of onnxprune give the same entries: no times, no paths.
"""

from __future__ import annotations

import hashlib

from onnx import ModelProto

from .plans import Plan
from .version import __version__

SOURCE = "onnxprune.source_sha256"
PLAN = "onnxprune.plan_sha256"
VERSION = "onnxprune.version"


def entries(source_sha256: str, plan: Plan | None) -> dict[str, str]:
    """What is to be said: hashes of the original and of the plan's JSON text, and the version."""
    found = {SOURCE: source_sha256} if source_sha256 else {}
    if plan is not None:
        found[PLAN] = hashlib.sha256(plan.to_json().encode()).hexdigest()
    return {**found, VERSION: __version__}


def stamp(model: ModelProto, found: dict[str, str]) -> None:
    """Write entries into a model, in place of older ones of onnxprune; all others stay."""
    stays = [entry for entry in model.metadata_props if not entry.key.startswith("onnxprune.")]
    if len(stays) != len(model.metadata_props):
        kept = [(entry.key, entry.value) for entry in stays]
        del model.metadata_props[:]
        for key, value in kept:
            model.metadata_props.add(key=key, value=value)
    for key, value in found.items():
        model.metadata_props.add(key=key, value=value)
