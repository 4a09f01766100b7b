"""Targets: what a pruned model may cost, as a user writes it.

    macs=0.5  params=0.4  bytes=20MB  bytes=0.3  latency=0.5  latency=8ms  speedup=2

A bare number is the share that is *kept*; with a unit it is an amount.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .errors import UsageError

#: What a target may be of, with the units in which an amount of it may be given.
_BYTES = {
    **{"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9},
    **{"KIB": 2**10, "MIB": 2**20, "GIB": 2**30},
}
_COUNTS = {"K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_TIMES = {"US": 1e-3, "MS": 1.0, "S": 1e3}
_UNITS: dict[str, dict[str, float]] = {
    "macs": {**_COUNTS},
    "params": {**_COUNTS},
    "bytes": {**_BYTES},
    "latency": _TIMES,
    "speedup": {"X": 1.0},
}
_EXAMPLES = "macs=0.5, params=0.4, bytes=20MB, latency=0.5, latency=8ms, speedup=2"


@dataclass(frozen=True)
class Target:
    """What is asked for: a share of what the model costs now, or an amount."""

    #: macs, params, bytes or latency
    kind: str
    #: Of (0, 1), or None where an amount is given.
    share: float | None = None
    #: MACs, parameters, bytes or ms.
    amount: float | None = None
    #: As it was written.
    text: str = ""

    @property
    def measured(self) -> bool:
        """True for a target of time."""
        return self.kind == "latency"

    @property
    def tolerance(self) -> float:
        """By which share what is achieved may differ from what was asked for."""
        return 0.05 if self.measured else 0.02

    def of(self, whole: float) -> float:
        """The amount that is asked for, of a model that costs `whole`."""
        return whole * self.share if self.share is not None else self.amount or 0.0

    def stage(self, whole: float, done: float) -> float:
        """The amount to have come down to when a share `done` of all stages is through."""
        return whole * float((self.of(whole) / whole) ** done)


def parse_target(text: str | Target) -> Target:
    """Read a target.

    Raises UsageError where it is not one, with what was expected.
    """
    if isinstance(text, Target):
        return text
    kind, equals, value = str(text).strip().partition("=")
    kind = {"parameters": "params", "flops": "macs", "size": "bytes"}.get(
        kind.strip(), kind.strip()
    )
    if not equals or kind not in _UNITS:
        raise UsageError(f"target {text!r} is not one of those that can be met: {_EXAMPLES}")
    match = re.fullmatch(r"([0-9.eE+-]*[0-9.])\s*(%|[a-zA-Z]*)", value.strip())
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    unit = match[2].upper() if match else ""
    if math.isnan(number) or (unit not in ("", "%") and unit not in _UNITS[kind]):
        units = ", ".join(_UNITS[kind])
        raise UsageError(f"target {text!r}: {value!r} is no number with a unit of {units}")
    if kind == "speedup":
        if number <= 1 or math.isinf(number):
            raise UsageError(f"target {text!r}: a speedup has to be more than 1")
        return Target("latency", share=1 / number, text=str(text))
    if unit in ("", "%"):
        share = number / 100 if unit else number
        if not 0 < share < 1:
            hint = f"; an amount has a unit ({', '.join(_UNITS[kind])})" if number > 1 else ""
            raise UsageError(f"target {text!r}: the share kept has to be between 0 and 1{hint}")
        return Target(kind, share=share, text=str(text))
    amount = number * _UNITS[kind][unit]
    if amount <= 0 or math.isinf(amount):
        raise UsageError(f"target {text!r}: the amount has to be more than 0")
    return Target(kind, amount=amount, text=str(text))
