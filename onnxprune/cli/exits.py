"""Errors become one line on stderr and an exit code; tracebacks are for `-vv`."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

from .. import display
from ..errors import OnnxPruneError
from ..words import near
from .watch import watched


class Verbs(click.Group):
    """The group of all verbs, which turns their errors into exit codes."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `onnxprune` and `python -m onnxprune` call: the command, in a process of its own.

        Given arguments, it is called by another program, and runs in that.
        """
        if args or kwargs:
            return super().__call__(*args, **kwargs)
        return watched(lambda: super(Verbs, self).__call__(*args, **kwargs))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"there is no verb {args[0]!r}{near(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OnnxPruneError as error:
            _fail(ctx, str(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            _fail(ctx, "interrupted; nothing was written", 130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _fail(ctx, f"{where}{error.strerror or error}; nothing was written", 1)
        except MemoryError:
            _fail(ctx, "out of memory; nothing was written", 1)
        except click.exceptions.Exit:
            raise
        except click.ClickException as error:
            command = (
                error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
            )
            hint = f" (see `{command} --help`)" if command else ""
            _fail(ctx, " ".join(_words(error).split()) + hint, error.exit_code)
        except Exception as error:
            if verbosity(ctx) < 2:
                kind = type(error).__name__
                _fail(
                    ctx,
                    f"a fault of onnxprune ({kind}: {' '.join(str(error).split())[:200]});"
                    " nothing was written. Please report it with the output of -vv",
                    1,
                )
            raise


def _words(error: click.ClickException) -> str:
    """click's own message; for an unknown option with what may have been meant."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [
            name
            for option in error.ctx.command.get_params(error.ctx)
            if isinstance(option, click.Option)
            for name in (*option.opts, *option.secondary_opts)
        ]
        return f"there is no option {error.option_name}{near(error.option_name, known)}"
    return error.format_message()


def _fail(ctx: click.Context, message: str, code: int) -> None:
    if verbosity(ctx) >= 2:
        traceback.print_exc()
    click.echo(f"onnxprune: {display.printable(message)}", err=True)
    ctx.exit(code)


def verbosity(ctx: click.Context) -> int:
    """How many `-v` were given, before the verb or behind it."""
    return int(ctx.find_root().meta.get("onnxprune.verbose", 0))


def more_verbose(ctx: click.Context, _: click.Parameter, count: int) -> None:
    ctx.find_root().meta["onnxprune.verbose"] = verbosity(ctx) + count
