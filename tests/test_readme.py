"""What README says is so: its commands parse, its Python runs, its rule is the project's."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import click
import pytest

import onnxprune
from onnxprune.cli import main
from onnxprune.tables import tables_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[str]:
    lines = [
        line.split(" # ")[0].split(">")[0] for block in blocks("sh") for line in block.splitlines()
    ]
    return [line[line.index("onnxprune ") :].strip() for line in lines if "onnxprune " in line]


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    _, verb, *arguments = shlex.split(line)
    # Below the group's context: a command keeps the help option (-h) that it is first asked for.
    parent = click.Context(main, **main.context_settings)
    main.commands[verb].make_context(verb, arguments, parent=parent)


def test_every_option_is_shown() -> None:
    """Each option of `prune` stands in README, but for help and verbosity."""
    for parameter in main.commands["prune"].params:
        names = [name for name in parameter.opts if name.startswith("-")]
        assert not names or "--verbose" in names or any(name in TEXT for name in names), names


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(block, {})
    assert (tmp_path / "smaller.onnx").exists() and (tmp_path / "plan.json").exists()


def test_the_rule_shown_is_the_rule() -> None:
    shown = tomllib.loads(blocks("toml")[0])["Conv"]
    tables = tomllib.loads((tables_folder() / "linear.toml").read_text())["Conv"]
    assert shown["axes"] == tables["axes"] and shown["bind"] == tables["bind"]


def test_the_figures_are_those_of_the_model() -> None:
    result = onnxprune.prune(
        ROOT / "models" / "digits_cnn.onnx",
        eval=str(ROOT / "models" / "digits_test.npz"),
        benchmark=False,
    )
    found = result.report.evaluation
    assert found is not None and found.before is not None and found.after is not None
    for figure in (found.before, found.after, result.report.parameters_left):
        assert f"{100 * (figure or 0):.1f} %" in TEXT


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.tables import with_user_rules

    known = with_user_rules([ROOT / "examples" / "my_ops.toml"])
    assert known["my.domain.Linear"].pattern is not None
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "smallest_that_passes.py"))
    assert (tmp_path / "smallest.onnx").exists()
