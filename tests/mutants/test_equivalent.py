"""The list of mutants that mean the same as the program is of the program as it is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LIST = Path(__file__).with_name("equivalent.toml")
_ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_entry_is_of_a_line_that_is_there() -> None:
    found = tomllib.loads(_LIST.read_text(encoding="utf-8"))
    assert found
    for module, entries in found.items():
        path = module if module.endswith(".toml") else f"onnxprune/{module}.py"
        lines = (_ROOT / path).read_text(encoding="utf-8").splitlines()
        source = " ".join(re.sub(r"\s\s# .*$", "", line).strip() for line in lines)
        for entry in entries:
            assert entry.keys() == {"where", "line", "becomes", "reason"}, entry
            assert entry["line"] in source, f"{module}: {entry['line']}"
            assert entry["reason"] and entry["line"] not in entry["becomes"]
