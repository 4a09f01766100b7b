"""What verbs that write a model have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from .. import api, display, saving
from ..errors import UsageError
from ..work import Result
from .printing import console_on, stages


def needed(output: Path | None) -> Path:
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.", click.get_current_context())
    return output


def only_check(
    model: Path,
    choice: Mapping[str, Any],
    as_json: bool,
    input_shapes: dict[str, list[int]],
    threads: int,
) -> None:
    """Raises NotPrunable (exit code 3) where nothing would be removed; says and writes nothing."""
    with stages(as_json) as progress:
        api.plan(model, **choice, input_shapes=input_shapes, threads=threads, progress=progress)


def save(result: Result, output: Path, force: bool, beside: Mapping[Path, bytes]) -> None:
    """All files or none: what can't be written shows before anything is in its place."""
    with all_of(beside):
        result.save(output, force=force)


@contextmanager
def all_of(files: Mapping[Path, bytes]) -> Iterator[None]:
    """Have files ready, and move them to their places only if the block ends well."""
    with ExitStack() as stack:
        for path, data in files.items():
            stack.enter_context(saving.pending(path, data))
        yield


def further_options(
    input_shapes: dict[str, list[int]],
    threads: int,
    evaluated: str | None,
    metric: str | None,
    rules: Sequence[str],
) -> dict[str, Any]:
    """Options that a plan does not hold, as the report's command line has them."""
    shapes = [f"{name}:{','.join(map(str, dims))}" for name, dims in input_shapes.items()]
    return {
        "input-shapes": shapes,
        "threads": threads if threads > 1 else None,
        "eval": evaluated,
        "metric": metric,
        "rules": rules,
    }


def check_targets(outputs: Sequence[Path | None], sources: Sequence[Path], force: bool) -> None:
    given = [output for output in outputs if output is not None]
    if force and any(output.is_file() for output in given):
        sources = [*api.files_of(sources[0]), *sources]  # an output may be there, but no weights
    for output in given:
        saving.check_target(output, sources, force)
    taken = [*given, *(saving.data_file(output) for output in given[:1])]
    if len({output.resolve() for output in taken}) < len(taken):
        raise UsageError(f"{given[0]}: two of the outputs can't be one file")


def tell(result: Result, as_json: bool) -> None:
    if as_json:
        click.echo(display.document(result.report.to_dict()))
    else:
        display.show_report(console_on(stderr=True), result.report)
