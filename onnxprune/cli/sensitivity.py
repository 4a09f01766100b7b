"""`onnxprune sensitivity`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .. import api, display, figures, html
from ..configuration import Verb
from ..sensitivities import SHARES
from .options import (
    EVAL,
    FILTERS,
    FORCE,
    JOURNAL,
    JSON_FILE,
    MODEL,
    PLOT,
    REPORT,
    SCORES,
    SETTINGS,
    SHAPES,
    THREADS,
    shares,
)
from .printing import bar, console_on
from .writing import all_of, check_targets


@click.command(cls=Verb)
@MODEL
@click.option(
    "--at",
    multiple=True,
    callback=shares,
    metavar="SHARE[,SHARE…]",
    help="Shares of a group's channels to remove"
    f" [default: {', '.join(f'{share:g}' for share in SHARES)}].",
)
@EVAL
@SCORES
@click.option(
    "--reconstruct",
    is_flag=True,
    help="Measure each cut with what reads it refitted on --calibration, too: takes far longer.",
)
@FILTERS
@JOURNAL
@PLOT
@REPORT
@FORCE
@SHAPES
@THREADS
@JSON_FILE
@SETTINGS
def sensitivity(
    model: Path,
    at: Sequence[float],
    evaluated: str | None,
    journal: Path | None,
    plot: Path | None,
    report: Path | None,
    force: bool,
    as_json: str | None,
    **options: Any,
) -> None:
    """Show which groups of MODEL suffer most when cut.

    Each one is cut by itself, at several widths.

    Without --eval, the relative error of the outputs is measured, on --calibration or on noise.

    Example: onnxprune sensitivity model.onnx --eval test.npz --plot curves.png
    """
    document = None if as_json in (None, "-") else Path(as_json)
    check_targets([plot, report, document], [model], force)
    if plot:
        figures.require(plot)
    if report:
        html.require()
    with bar() as (progress, told):
        found = api.sensitivity(
            model,
            at=at or SHARES,
            eval=evaluated,
            journal=journal or True,
            progress=progress,
            told=told,
            **options,
        )
    beside: dict[Path, bytes] = {}
    if document:
        beside[document] = display.document(found.to_dict()).encode() + b"\n"
    if plot:
        beside[plot] = figures.rendered(figures.of_sensitivity(found), plot)
    if report:
        beside[report] = html.of_sensitivity(found)
    with all_of(beside):
        pass
    if as_json == "-":
        click.echo(display.document(found.to_dict()))
    else:
        display.show_sensitivity(console_on(stderr=False), found)
    for path in beside:
        console_on(stderr=True).print(f"Written to [bold]{display.safe(path)}[/].")
