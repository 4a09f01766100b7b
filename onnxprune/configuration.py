"""Options from a file: `[tool.onnxprune]` of pyproject.toml, or a TOML file of one's own.

Keys are the names of the flags; a table called like a verb holds for this verb alone:

    [tool.onnxprune]
    threads = 2

    [tool.onnxprune.prune]
    ratio = 0.3
    exclude = ["*head*"]

What stands on the command line wins.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from .errors import UsageError
from .evaluation import is_file
from .words import near

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Options of which one rules out the other: what a flag says makes that of a file void.
_EITHER = (("ratio", "target"),)
#: Only the command line says these: what they allow is more than to read data.
_NEVER = frozenset({"config", "help", "verbose", "allow_outside_data", "custom_ops"})


class Verb(click.Command):
    """A command in which a flag also wins over what excludes it in a file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for pair in _EITHER:
            for given, other in (pair, pair[::-1]):
                if _source(ctx, given, "COMMANDLINE") and _source(ctx, other, "DEFAULT_MAP"):
                    ctx.params[other] = None
        return rest


def _source(ctx: click.Context, name: str, wanted: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == wanted


def configure(ctx: click.Context, _: click.Parameter, file: Path | None) -> None:
    """The defaults of a verb, from a file. Raises UsageError."""
    path = file or _project(Path.cwd())
    if path is None:
        return
    document = _read(path)
    in_project = path.name == "pyproject.toml"
    where = f"{path}: [tool.onnxprune]" if in_project else str(path)
    options: Any = document.get("tool", {}).get("onnxprune", {}) if in_project else document
    if not isinstance(options, Mapping):
        raise UsageError(f"{where}: this is a table of options")
    group = ctx.find_root().command
    verbs = group.commands if isinstance(group, click.Group) else {}
    verbs = {**verbs, str(ctx.command.name): ctx.command}
    common = {key: value for key, value in options.items() if not isinstance(value, Mapping)}
    known = {name for verb in verbs.values() for name in _names(verb)}
    for key in common:
        if _flag(key) not in known:
            raise UsageError(f"{where}: no option is called {key!r}{near(_flag(key), known)}")
    for key, value in options.items():
        if isinstance(value, Mapping) and key not in verbs:
            raise UsageError(f"{where}: no verb is called {key!r}{near(key, verbs)}")
    found = {key: value for key, value in common.items() if _flag(key) in _names(ctx.command)}
    own = options.get(str(ctx.command.name), {})
    for key in own:
        if _flag(key) not in _names(ctx.command):
            hint = near(_flag(key), _names(ctx.command))
            raise UsageError(f"{where}: {ctx.command.name} has no option {key!r}{hint}")
    ctx.default_map = dict(
        _value(ctx.command, key, value, where) for key, value in {**found, **own}.items()
    )


def _flag(key: str) -> str:
    return key.replace("_", "-")


def _names(command: click.Command) -> dict[str, tuple[click.Option, bool]]:
    """Options by what a file calls them; and whether that name means the opposite."""
    found = {}
    for option in command.params:
        if isinstance(option, click.Option) and option.name not in _NEVER:
            for negated, names in ((False, option.opts), (True, option.secondary_opts)):
                found.update({n[2:]: (option, negated) for n in names if n.startswith("--")})
    return found


def _value(command: click.Command, key: str, value: Any, where: str) -> tuple[str, Any]:
    option, negated = _names(command)[_flag(key)]
    if option.name == "evaluated" and isinstance(value, str) and not is_file(value):
        raise UsageError(
            f"{where}: {key} names a function, and a file of options runs no code: give --eval on"
            " the command line"
        )
    if option.is_flag != isinstance(value, bool):
        kind = "true or false" if option.is_flag else "a value, not true or false"
        raise UsageError(f"{where}: {key} takes {kind}")
    if negated:
        value = not value
    if option.multiple and not isinstance(value, list):
        value = [value]
    if not option.multiple and isinstance(value, list):
        raise UsageError(f"{where}: {key} takes one value, not a list")
    return str(option.name), value


def _project(folder: Path) -> Path | None:
    """The pyproject.toml of a folder, or of the nearest folder above that has one."""
    for each in (folder, *folder.parents):
        if (each / "pyproject.toml").is_file():
            return each / "pyproject.toml"
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return document
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
