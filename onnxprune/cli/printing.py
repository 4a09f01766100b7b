"""Where things are printed: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .watch import note


def console_on(stderr: bool) -> Console:
    # Wide where nothing shows it: a log or a pipe must not be folded at 80 columns.
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 160
    ctx = click.get_current_context(silent=True)
    quiet = ctx is not None and bool(ctx.find_root().meta.get("onnxprune.quiet"))
    return Console(stderr=stderr, width=width, highlight=False, quiet=quiet)


@contextmanager
def stages(as_json: bool) -> Iterator[Callable[[str], None]]:
    """A word on each stage, on stderr, where somebody is looking."""
    console = console_on(stderr=True)
    if as_json or not console.is_terminal:
        yield note
        return
    with console.status("") as status:

        def told(stage: str) -> None:
            note(stage)
            status.update(f"{stage} …")

        yield told


@contextmanager
def bar() -> Iterator[tuple[Callable[[str], None], Callable[[int, int, str], None]]]:
    """A progress bar on stderr, where somebody is looking: a word on a stage, and trials done."""
    console = console_on(stderr=True)
    if not console.is_terminal:
        yield note, (lambda done, total, left: None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None, left="")

        def stage(words: str) -> None:
            note(words)
            shown.update(task, description=f"{words} …")

        def told(done: int, total: int, left: str) -> None:
            shown.update(task, description="trials", completed=done, total=total, left=left)

        yield stage, told
