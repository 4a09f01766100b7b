"""A plan's options as a command line that makes the plan again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from ..criteria import criterion_of
from ..errors import UsageError

#: Options as a plan calls them that are left out where they say what goes without saying.
_DEFAULTS: dict[str, Any] = {
    "ratio": 0.5,
    "target": None,
    "scope": "local",
    "round_to": None,
    "max_ratio": 1.0,
    "steps": 1,
    "criterion": "group-l2",
    "reduction": "mean",
    "calibration": None,
    "calibration_samples": 1024,
}


def command(
    options: Mapping[str, Any], model: str, output: str, further: Mapping[str, Any] | None = None
) -> tuple[str, list[str]]:
    """The command, and notes on what can't be said in one line.

    `further` are options that a plan does not hold: `{"threads": 2, "reconstruct": True}`.
    """
    words = ["onnxprune", "prune", model, "-o", output]
    notes: list[str] = []
    for name, default in _DEFAULTS.items():
        value = options.get(name, default)
        if value != default and value is not None:
            words += [f"--{name.replace('_', '-')}", _text(value)]
            if str(value).startswith("Python "):
                notes.append(f"--{name}: {value!r} was given in Python, and has to be again")
    if "normalizer" in options and options["normalizer"] != _own_normalizer(options):
        words += ["--normalizer", str(options["normalizer"])]
    for name in ("only", "include", "exclude"):
        for value in options.get(name) or ():
            words += [f"--{name}", str(value)]
    for name in ("exact_only", "common_choice"):
        if options.get(name):
            words.append(f"--{name.replace('_', '-')}")
    lossless = {"off": "--no-lossless", "only": "--lossless"}.get(str(options.get("lossless")))
    if lossless:
        words.append(lossless)
    for name in ("ratios", "sensitivity"):
        if options.get(name):
            words += [f"--{name}", f"{name}.json"]
            notes.append(f"{name}.json: {json.dumps(options[name])}")
    if options.get("preprocess"):
        words += ["--preprocess", "preprocess.json"]
        notes.append(f"preprocess.json: {json.dumps(options['preprocess'])}")
    return shlex.join([*words, *_further(further)]), notes


def _own_normalizer(options: Mapping[str, Any]) -> str | None:
    """What `--normalizer auto` stands for with this criterion; None where nobody knows."""
    try:
        return getattr(criterion_of(options.get("criterion", "group-l2")), "normalizer", "mean")
    except UsageError:
        return None  # a function of somebody's Python


def apply_command(
    model: str, plan: str, output: str, further: Mapping[str, Any] | None = None
) -> str:
    """The command that carries out a plan that is in a file."""
    return shlex.join(["onnxprune", "apply", model, plan, "-o", output, *_further(further)])


def _further(given: Mapping[str, Any] | None) -> list[str]:
    words = []
    for name, value in (given or {}).items():
        if value is True:
            words.append(f"--{name}")
        else:
            for each in value if isinstance(value, (list, tuple)) else [value] if value else []:
                words += [f"--{name}", _text(each)]
    return words


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
