"""Coverage: the operators that the installed onnx and onnxruntime know, and what the tables say.

Every operator has a rule, or stands in the tables as pinned with its reason; `unknown` is empty,
and a test keeps it so when either package grows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from .tables import Rule, operator_name

#: onnxruntime's own layouts, made while it optimises: no file that an exporter writes has them.
_INTERNAL = ("com.microsoft.nchwc", "com.ms.internal.nhwc")


@dataclass
class Coverage:
    """The operators of one domain, by what the tables say of them."""

    domain: str
    pattern: list[str] = field(default_factory=list)
    function: list[str] = field(default_factory=list)
    pinned: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many operators the domain has."""
        return len(self.pattern) + len(self.function) + len(self.pinned) + len(self.unknown)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        kinds = ("pattern", "function", "pinned", "unknown")
        return {"operators": self.total} | {kind: getattr(self, kind) for kind in kinds}


def known_operators() -> dict[str, set[str]]:
    """Operators by domain, of every version; the standard's domain is `ai.onnx`."""
    found: dict[str, set[str]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        found[schema.domain or "ai.onnx"].add(schema.name)
    for schema in _runtime_schemas():
        if schema.domain not in _INTERNAL:
            found[schema.domain or "ai.onnx"].add(schema.name)
    return dict(found)


def _runtime_schemas() -> list[Any]:
    """onnxruntime's schemas; none where this build of it does not tell them."""
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        return list(state.get_all_operator_schema())
    except (ImportError, AttributeError):
        return []


def coverage(rules: Mapping[str, Rule]) -> list[Coverage]:
    """What `rules` say of every operator that is known, one entry for each domain."""
    found = []
    for domain, names in sorted(known_operators().items()):
        entry = Coverage(domain)
        for name in sorted(names):
            rule = rules.get(operator_name(domain, name))
            if rule is None:
                entry.unknown.append(name)
            elif rule.pinned:
                entry.pinned.append(name)
            elif rule.pattern:
                entry.pattern.append(name)
            else:
                entry.function.append(name)
        found.append(entry)
    return found
