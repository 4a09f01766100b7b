"""JSON Schemas (draft 2020-12) of the documents that `--json` prints, one file for each."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

#: The schema of each verb's document.
VERBS = {
    "prune": "report",
    "apply": "report",
    "plan": "plan",
    "mask": "mask",
    "inspect": "inspect",
    "compare": "compare",
    "bench": "bench",
    "sensitivity": "sensitivity",
    "sweep": "sweep",
    "finetune": "training",
    "train": "training",
    "rules": "rules",
    "rules --missing": "missing",
    "rules --coverage": "coverage",
}


def names() -> list[str]:
    """The schemas that there are."""
    return sorted(set(VERBS.values()))


def schema(name: str) -> dict[str, Any]:
    """A schema by its name, or by the verb whose document it describes."""
    file = resources.files(__package__).joinpath(f"{VERBS.get(name, name)}.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
