"""`onnxprune inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from .. import api, display, saving
from ..configuration import Verb
from ..dot import dot as as_dot
from .options import COMMON, MODEL, RULES, SHAPES, THREADS
from .printing import console_on, stages
from .writing import check_targets


@click.command(cls=Verb)
@MODEL
@RULES
@click.option("--all", "everything", is_flag=True, help="Every member, place and node.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="GLOB",
    help="Only these groups, by name or by a member, with all that is in them.",
)
@click.option(
    "--dot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the dependency graph for Graphviz, too.",
)
@click.option(
    "--time",
    is_flag=True,
    help="Run MODEL on random inputs, and show which groups hold the time.",
)
@SHAPES
@THREADS
@click.option("--force", is_flag=True, help="Replace a --dot file that exists.")
@COMMON
def inspect(
    model: Path,
    rules: Sequence[str],
    everything: bool,
    groups: Sequence[str],
    dot: Path | None,
    time: bool,
    input_shapes: dict[str, list[int]],
    threads: int,
    force: bool,
    as_json: bool,
) -> None:
    """Show what of MODEL could be removed, and why the rest can't.

    Example: onnxprune inspect model.onnx --time; onnxprune inspect model.onnx --group '*fc1*'
    """
    if dot is not None:
        check_targets([dot], [model], force)
    with stages(as_json) as progress:
        found = api.inspect(
            model,
            rules=rules,
            time=time,
            input_shapes=input_shapes,
            threads=threads,
            progress=progress,
        )
    if groups:
        found = found.select(groups)
    if dot is not None:
        saving.write_atomically(dot, as_dot(found).encode())
    if as_json:
        click.echo(display.document(found.to_dict()))
    elif groups:
        display.show_groups(console_on(stderr=False), found)
    else:
        display.show_inspection(console_on(stderr=False), found, everything)
