"""What a model may take and do: the options of every verb that reads one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from ..trust import trusting
from . import watch
from .numbers import Number

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _max_bytes(ctx: click.Context, _: click.Parameter, given: str | None) -> None:
    if given is None:
        return
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", given.strip().upper())
    if match is None:
        raise click.BadParameter(f"{given!r}; write a number of bytes, as 500MB or 2GB")
    ctx.with_resource(trusting(max_bytes=int(float(match[1]) * _UNITS[match[2]])))


def _outside_data(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    if given:
        ctx.with_resource(trusting(outside_data=True))


def _custom_ops(ctx: click.Context, _: click.Parameter, given: tuple[Path, ...]) -> None:
    if given:
        ctx.with_resource(trusting(custom_ops=tuple(path.resolve() for path in given)))


def _timeout(_: click.Context, __: click.Parameter, seconds: float | None) -> None:
    if seconds is not None and not watch.limit(seconds):
        raise click.BadParameter("this needs a process of its own, which this system has not")


LIMITS: list[Any] = [
    click.option(
        "--max-bytes",
        metavar="SIZE",
        expose_value=False,
        callback=_max_bytes,
        help="Refuse a model whose files hold more, as 500MB or 2GB.",
    ),
    click.option(
        "--timeout",
        type=Number(min=0, min_open=True),
        metavar="SECONDS",
        expose_value=False,
        callback=_timeout,
        help="Give up after this, also where onnxruntime hangs.",
    ),
    click.option(
        "--allow-outside-data",
        is_flag=True,
        expose_value=False,
        callback=_outside_data,
        help="Read external weights that are not in the model's folder.",
    ),
    click.option(
        "--custom-ops",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="LIBRARY",
        expose_value=False,
        callback=_custom_ops,
        help="A shared library of operators, to run in onnxruntime: its code is executed.",
    ),
]
