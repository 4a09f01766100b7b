"""Budgets: how much is removed, and from where, as a user says it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from .errors import UsageError
from .ranking import SCOPES
from .targets import Target, parse_target
from .words import near

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The share that is removed where neither a ratio nor a target is given.
DEFAULT_RATIO = 0.5


@dataclass(frozen=True)
class Budget:
    """How much is removed.

    Raises UsageError where a number is out of its range, or two of them contradict each other.
    """

    #: The share of channels to remove.
    ratio: float | None = None
    scope: str = "local"
    #: Widths are left in multiples of this, and never fewer; `auto`: of most importance for the
    #: time that onnxruntime takes; None: of 16 for convolutions and 8 for matrix products.
    round_to: int | str | None = None
    #: The largest share of its channels that one group may lose.
    max_ratio: float = 1.0
    #: What the model may cost: see `targets`.
    target: str | None = None
    #: Ratios of single groups: name or glob -> share to remove.
    ratios: Mapping[str, float] = field(default_factory=dict)
    #: Factors of the scores of single groups: name or glob -> factor.
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    #: In how many stages, with scores computed anew in between.
    steps: int = 1

    def __post_init__(self) -> None:
        if self.target is not None and self.ratio is not None:
            raise UsageError("ratio and target exclude each other: one says how much is removed")
        if self.target is None and self.ratio is None:
            object.__setattr__(self, "ratio", DEFAULT_RATIO)
        if self.target is not None:
            object.__setattr__(self, "target", parse_target(self.target).text)
        numbers = [self.ratio, self.max_ratio, self.steps]
        for value in numbers if self.round_to == "auto" else [*numbers, self.round_to]:
            if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
                raise UsageError(f"a number was expected, not {value!r}")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise UsageError(
                f"ratio {self.ratio} is outside of (0, 1); it is the share of channels to remove"
            )
        if self.scope not in SCOPES:
            raise UsageError(f"unknown scope {self.scope!r}; known are {', '.join(SCOPES)}")
        if isinstance(self.round_to, (int, float)) and (
            self.round_to < 1 or self.round_to != int(self.round_to)
        ):
            raise UsageError(f"round_to {self.round_to} is not a positive number of channels")
        if not 0 < self.max_ratio <= 1:
            raise UsageError(f"max_ratio {self.max_ratio} is outside of (0, 1]")
        if self.steps < 1 or self.steps != int(self.steps):
            raise UsageError(f"steps {self.steps} is not a positive number of stages")
        for glob, ratio in self.ratios.items():
            if not 0 <= ratio < 1:
                raise UsageError(f"ratios: {ratio} of {glob!r} is outside of [0, 1)")
        for glob, weight in self.sensitivity.items():
            if not 0 < weight < math.inf:
                raise UsageError(f"sensitivity: {weight} of {glob!r} is not more than 0")

    @property
    def goal(self) -> Target | None:
        """The target, read."""
        return None if self.target is None else parse_target(self.target)

    @property
    def removed(self) -> float:
        """The ratio; its default where a target says how much."""
        return DEFAULT_RATIO if self.ratio is None else self.ratio

    @property
    def measured(self) -> bool:
        """True where widths are chosen by the time that onnxruntime takes."""
        goal = self.goal
        return self.round_to == "auto" or (goal is not None and goal.measured)

    @property
    def ranked(self) -> bool:
        """True where groups compete, so that one of them might lose all it has."""
        return self.scope != "local" or self.measured

    def least(self, size: int) -> int:
        """The fewest channels that a group of `size` may be left with."""
        return max(1, math.ceil(size * (1 - self.max_ratio) - 1e-9))


def read_numbers(given: Mapping[str, float] | str | Path | None, what: str) -> dict[str, float]:
    """`{glob: number}` from a mapping or from a TOML or JSON file that holds one.

    Raises UsageError where the file can't be read or is not that.
    """
    if given is None:
        return {}
    found: object = given
    if isinstance(given, (str, Path)):
        path = Path(given)
        try:
            text = path.read_text(encoding="utf-8")
            found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: neither TOML nor JSON: {error}") from None
    where = given if isinstance(given, (str, Path)) else what
    if not isinstance(found, Mapping):
        raise UsageError(f'{where}: lines like "layer1*" = 0.3 were expected')
    for glob, number in found.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise UsageError(
                f"{where}: a number was expected for {glob!r}, not {str(number)[:40]!r}; names with"
                ' dots are written in quotes: "layer1.conv" = 0.3'
            )
    return {str(glob): float(number) for glob, number in found.items()}


def matched(given: Mapping[str, float], names: Sequence[str]) -> dict[int, float]:
    """The numbers of those groups that a glob names, by position; the first glob that fits counts.

    Raises UsageError where a glob names none.
    """
    found: dict[int, float] = {}
    for glob, number in given.items():
        hits = [i for i, name in enumerate(names) if name == glob or fnmatchcase(name, glob)]
        if not hits:
            raise UsageError(f"no group that may be pruned is called {glob!r}{near(glob, names)}")
        for i in hits:
            found.setdefault(i, number)
    return found
