"""Numbers on the command line: what may stand there, said in plain words."""

from __future__ import annotations

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A finite number within bounds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _converted(super().convert, value, param, ctx, f"a number{_bounds(self)}")


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _converted(super().convert, value, param, ctx, f"a whole number{_bounds(self)}")


def _converted(
    convert: Any, value: Any, param: click.Parameter | None, ctx: click.Context | None, words: str
) -> Any:
    try:
        found = convert(value, param, ctx)
        fits = math.isfinite(found)
    except (click.BadParameter, OverflowError):
        fits = False
    if not fits:
        raise click.BadParameter(f"{str(value)!r}; write {words}", ctx, param)
    return found


def _bounds(kind: click.FloatRange | click.IntRange) -> str:
    """`` of 1 and more``, `` above 0 and up to 1``."""
    parts = []
    if kind.min is not None:
        parts.append(f"above {kind.min:g}" if kind.min_open else f"of {kind.min:g} and more")
    if kind.max is not None:
        parts.append(f"below {kind.max:g}" if kind.max_open else f"up to {kind.max:g}")
    return f" {' and '.join(parts)}".replace("and more and up", "and more, up") if parts else ""
