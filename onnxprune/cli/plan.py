"""`onnxprune plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import api, display
from ..configuration import Verb
from .options import CHOICE, COMMON, FORCE, MODEL, OUTPUT_OR_CHECK, SHAPES, THREADS
from .printing import console_on, stages
from .writing import check_targets, needed, only_check


@click.command(cls=Verb)
@MODEL
@OUTPUT_OR_CHECK
@FORCE
@CHOICE
@SHAPES
@THREADS
@COMMON
def plan(
    model: Path, output: Path | None, check: bool, force: bool, as_json: bool, **choice: Any
) -> None:
    """Choose channels of MODEL and only write the plan.

    `onnxprune apply` carries it out.

    Example: onnxprune plan model.onnx -o plan.json --ratio 0.3
    """
    if check:
        return only_check(model, choice, as_json, choice.pop("input_shapes"), choice.pop("threads"))
    output = needed(output)
    check_targets([output], [model], force)
    with stages(as_json) as progress:
        made = api.plan(model, **choice, progress=progress)
    made.save(output)
    if as_json:
        click.echo(display.document(made.to_dict()))
    else:
        console = console_on(stderr=True)
        display.show_plan(console, made)
        console.print(f"Written to [bold]{display.safe(output)}[/].")
