"""What the documentation takes from the program: the help texts, as the program prints them."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli import main

WIDTH = 80


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this with each page."""
    return markdown.replace("{{ help }}", _help()) if "{{ help }}" in markdown else markdown


def _help() -> str:
    settings = {**main.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    top = click.Context(main, info_name="onnxprune", **settings)
    texts = [f"```text\n{main.get_help(top)}\n```\n"]
    for name in main.list_commands(top):
        command = main.get_command(top, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=top, **settings)
        texts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(texts)
