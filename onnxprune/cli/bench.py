"""`onnxprune bench`."""

from __future__ import annotations

from pathlib import Path

import click

from .. import api, display, html, saving
from ..configuration import Verb
from ..profiling import profile
from .numbers import Number
from .options import COMMON, FORCE, REPORT, SHAPES, THREADS
from .printing import console_on, stages
from .writing import check_targets


@click.command(cls=Verb)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path), required=False)
@SHAPES
@THREADS
@click.option("--seconds", default=2.0, show_default=True, type=Number(0, min_open=True))
@REPORT
@FORCE
@COMMON
def bench(
    a: Path,
    b: Path | None,
    input_shapes: dict[str, list[int]],
    threads: int,
    seconds: float,
    report: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure the latency of A, or of A and B in paired rounds.

    Example: onnxprune bench model.onnx smaller.onnx --threads 2
    """
    names = [str(each) for each in (a, b) if each is not None]
    if report:
        check_targets([report], [each for each in (a, b) if each is not None], force)
        html.require()
    with stages(as_json) as progress:
        progress("benchmark")
        found = api.benchmark(a, b, threads=threads, input_shapes=input_shapes, seconds=seconds)
        if report:
            progress("report")
            profiled = profile(a, b, threads=threads, input_shapes=found.shapes)
            saving.write_atomically(report, html.of_benchmark(found, names, profiled))
    if as_json:
        click.echo(display.document(found.to_dict()))
    else:
        display.show_benchmark(console_on(stderr=False), found, names)
