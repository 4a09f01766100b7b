"""`onnxprune compare`."""

from __future__ import annotations

from pathlib import Path

import click

from .. import api, display, html, saving
from ..configuration import Verb
from .numbers import Number
from .options import COMMON, FORCE, REPORT, SHAPES
from .printing import console_on
from .writing import check_targets


@click.command(cls=Verb)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--rtol", type=Number(min=0), help="Relative to the largest value.")
@click.option("--atol", default=0.0, show_default=True, type=Number(min=0))
@SHAPES
@REPORT
@FORCE
@COMMON
@click.pass_context
def compare(
    ctx: click.Context,
    a: Path,
    b: Path,
    rtol: float | None,
    atol: float,
    input_shapes: dict[str, list[int]],
    report: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compare the outputs of A and B on random inputs.

    Exit code 1 where they differ.

    Example: onnxprune compare model.onnx twin.onnx --rtol 1e-4
    """
    if report:
        check_targets([report], [a, b], force)
        html.require()
    found = api.compare(a, b, rtol=rtol, atol=atol, input_shapes=input_shapes)
    if report:
        saving.write_atomically(report, html.of_comparison(found, [str(a), str(b)]))
    if as_json:
        click.echo(display.document(found.to_dict()))
    else:
        display.show_comparison(console_on(stderr=False), found)
    ctx.exit(0 if found.ok else 1)
