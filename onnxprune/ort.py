"""onnxruntime, imported when something of it is first asked for.

It starts a thread, which a fork loses and misses when the process ends; and the command forks when
everything else has been imported (see `cli.watch`).
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import onnxruntime

    return getattr(onnxruntime, name)
