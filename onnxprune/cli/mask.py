"""`onnxprune mask`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import api, display
from ..configuration import Verb
from .options import CHOICE, COMMON, EVAL, FORCE, MODEL, NO_PROVENANCE, OUTPUT, SHAPES, THREADS
from .printing import console_on, stages
from .writing import check_targets


@click.command(cls=Verb)
@MODEL
@OUTPUT
@click.option(
    "--structure",
    default="channels",
    show_default=True,
    metavar="channels|unstructured|N:M|block:RxC",
    help="What is zeroed: whole channels, or weights one by one, N:M (2:4) or in blocks (4x1).",
)
@FORCE
@CHOICE
@SHAPES
@THREADS
@click.option("--no-verify", is_flag=True, help="Skip the checks.")
@EVAL
@NO_PROVENANCE
@COMMON
def mask(
    model: Path,
    output: Path,
    force: bool,
    no_verify: bool,
    evaluated: str | None,
    no_provenance: bool,
    as_json: bool,
    **choice: Any,
) -> None:
    """Zero what MODEL would lose, instead of removing it.

    No speed comes of that by itself.

    Example: onnxprune mask model.onnx -o masked.onnx --structure 2:4
    """
    check_targets([output], [model], force)
    with stages(as_json) as progress:
        found = api.mask(
            model,
            **choice,
            verify=not no_verify,
            eval=evaluated,
            provenance=not no_provenance,
            progress=progress,
        )
        found.save(output, force=force)
    if as_json:
        click.echo(display.document(found.report.to_dict()))
    else:
        display.show_mask(console_on(stderr=True), found.report)
