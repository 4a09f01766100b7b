"""What measured times belong to: this CPU, this onnxruntime, its provider and its threads."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from pathlib import Path

from .. import ort

_CPUINFO = Path("/proc/cpuinfo")


def fingerprint(threads: int, provider: str = "CPUExecutionProvider") -> dict[str, str | int]:
    """Everything that a time depends on besides the operator; times with another are not ours."""
    model, features = _cpu()
    return {
        "cpu": model,
        "features": hashlib.sha256(" ".join(sorted(features)).encode()).hexdigest()[:12],
        "cores": os.cpu_count() or 1,
        "onnxruntime": ort.__version__,
        "provider": provider,
        "threads": threads,
    }


def block() -> int:
    """Channels in a block of onnxruntime's blocked layout: 16 with AVX-512, else 8.

    A convolution's time is a staircase of that step.
    """
    return 16 if "avx512f" in _cpu()[1] else 8


@cache
def _cpu() -> tuple[str, frozenset[str]]:
    """The CPU's name and its features; where the system does not list these, the name alone."""
    model = platform.processor() or platform.machine()
    features: frozenset[str] = frozenset()
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return model, features
    fields = dict(reversed([[p.strip() for p in x.partition(":")[::2]] for x in lines if ":" in x]))
    listed = fields.get("flags") or fields.get("Features") or ""
    name = fields.get("model name") or f"{model} part {fields.get('CPU part', '')}"
    steps = (fields.get(key, "") for key in ("cpu family", "model", "stepping"))
    return " ".join([name, *steps]).strip(), frozenset(listed.split())
