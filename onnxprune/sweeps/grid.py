"""Which trials a sweep makes: every combination of budgets, criteria and further options.

    target    = ["macs=0.7", "macs=0.5"]     # budgets: all of target, and all of ratio
    ratio     = [0.3]
    criterion = ["group-l2", "lamp"]
    round-to  = 8                            # one value: the same in all trials

    [[grid]]                                 # further tables: each by itself with what is above
    scope     = ["global", "isomorphic"]

in TOML, or the same in YAML. Names are those of `prune`'s flags. What is a list by itself, like
`exclude`, is one value; a list of lists is several.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..budgets import Budget, read_numbers
from ..calibration import CalibrationData
from ..errors import UsageError
from ..filters import Filter
from ..importance import Importance
from ..trials.identity import digest
from ..words import near

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What is tried where nothing is said.
DEFAULT: dict[str, Any] = {
    "ratio": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
    "scope": ["local", "global"],
}
#: The options of a trial, with the values that go without saying.
OPTIONS: dict[str, Any] = {
    **{"ratio": None, "target": None, "scope": "local", "ratios": None, "sensitivity": None},
    **{"criterion": "group-l2", "reduction": "mean", "normalizer": "auto"},
    **{"reconstruct": False, "lossless": None, "round_to": None, "steps": 1, "max_ratio": 1.0},
    **{"exact_only": False, "only": (), "include": (), "exclude": (), "common_choice": False},
}
_FLAGS = ("reconstruct", "exact_only", "common_choice", "lossless")
_LISTS = ("only", "include", "exclude")
#: Said once, for all trials.
_SHARED = ("calibration", "preprocess", "calibration_samples", "eval", "metric", "threads", "rules")


@dataclass(frozen=True)
class Trial:
    """The options of one call of `prune`."""

    options: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Twelve digits of the hash of its options: the same for the same options."""
        return digest(dict(self.options))[:12]

    @property
    def measured(self) -> bool:
        """Whether its widths are chosen by measured time, so that nothing else may run beside."""
        return _budget(self.options).measured

    def text(self) -> str:
        """Its options in words: `macs=0.5, global, wanda, reconstruct`."""
        words = []
        for name, value in self.options.items():
            if name in ("target", "scope", "criterion"):
                words.append(str(value))
            elif value is True:
                words.append(name.replace("_", "-"))
            else:
                shown = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
                words.append(f"{name.replace('_', '-')} {shown}")
        return ", ".join(words)


def read_grid(path: Path) -> dict[str, Any]:
    """The table in a TOML or YAML file. Raises UsageError where it can't be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path}: can't be read: {reason}") from error
    if path.suffix.lower() in (".yaml", ".yml"):
        found = _yaml(text, path)
    else:
        try:
            found = tomllib.loads(text)
        except ValueError as error:
            raise UsageError(f"{path}: not TOML: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f'{path}: a table was expected, with lines like target = ["macs=0.5"]')
    return found


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise UsageError(
            f"{path}: YAML needs PyYAML (pip install pyyaml); the same in TOML needs nothing"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def trials_of(table: Mapping[str, Any], data: CalibrationData | None = None) -> list[Trial]:
    """The trials of a table, each once, in the order of the table.

    Raises UsageError for an option that there is not, or a value that can't be.
    """
    table = dict(table)
    further = table.pop("grid", [{}])
    if not isinstance(further, list) or not all(isinstance(each, Mapping) for each in further):
        raise UsageError("grid: [[grid]] is a list of tables of options")
    found: dict[str, Trial] = {}
    for each in further:
        for options in _combined(_normal({**table, **each})):
            _check(options, data)
            trial = Trial(options)
            found.setdefault(trial.id, trial)
    return list(found.values())


def _normal(table: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of every option, as a list."""
    found: dict[str, list[Any]] = {}
    for key, given in table.items():
        name = str(key).replace("-", "_")
        if name in _SHARED:
            raise UsageError(
                f"grid: {key} is the same for all trials: give it as a flag,"
                f" --{name.replace('_', '-')}"
            )
        if name not in OPTIONS:
            raise UsageError(f"grid: there is no option {key!r}{near(name, OPTIONS)}")
        if name in _LISTS:
            given = [given] if isinstance(given, str) else given
            several = isinstance(given, list) and any(isinstance(each, list) for each in given)
            found[name] = [_names(key, each) for each in (given if several else [given])]
        else:
            found[name] = list(given) if isinstance(given, (list, tuple)) else [given]
        if not found[name]:
            raise UsageError(f"grid: {key} has no value")
    return found


def _names(key: str, given: Any) -> list[str]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise UsageError(f"grid: {key} takes names, not {str(given)[:40]!r}")
    return names


def _combined(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, without what goes without saying; ratios and targets are one axis."""
    budgets = [{name: value} for name in ("target", "ratio") for value in values.get(name, ())] or [
        {}
    ]
    rest = {name: each for name, each in values.items() if name not in ("target", "ratio")}
    for budget in budgets:
        for combination in itertools.product(*rest.values()):
            options = {**budget, **dict(zip(rest, combination, strict=True))}
            ordered = {name: options[name] for name in OPTIONS if name in options}
            yield {
                name: dict(read_numbers(value, name))
                if name in ("ratios", "sensitivity")
                else value
                for name, value in ordered.items()
                if value != OPTIONS[name] and value != []
            }


def _check(options: Mapping[str, Any], data: CalibrationData | None) -> None:
    """Raise UsageError for a value that can't be: before anything runs."""
    for name in _FLAGS:
        if not isinstance(options.get(name), (bool, type(None))):
            raise UsageError(f"grid: {name} is true or false, not {options[name]!r}")
    for name in ("target", "scope", "criterion", "reduction", "normalizer"):
        if not isinstance(options.get(name), (str, type(None))):
            raise UsageError(f"grid: {name} is a word, not {options[name]!r}")
    _budget(options)
    Filter(
        tuple(options.get("only", ())),
        options.get("exact_only", False),
        tuple(options.get("include", ())),
        tuple(options.get("exclude", ())),
        options.get("common_choice", False),
    )
    words = {n: options[n] for n in ("criterion", "reduction", "normalizer") if n in options}
    Importance(**words, data=data)


def _budget(options: Mapping[str, Any]) -> Budget:
    names = ("ratio", "target", "scope", "ratios", "sensitivity", "round_to", "max_ratio", "steps")
    return Budget(**{name: options[name] for name in names if name in options})
