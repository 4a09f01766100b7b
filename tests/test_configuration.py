"""Options from files, silence, and completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from onnxprune.cli import main
from tests.graphs import two_convs


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(two_convs(), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*arguments: object) -> dict[str, Any]:
    result = invoke("plan", "model.onnx", "-o", "plan.json", "--force", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    options: dict[str, Any] = json.loads(result.stdout)["options"]
    return options


def test_pyproject(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(
        "[tool.onnxprune]\nratio = 0.25\nround-to = 2\nno-verify = true\n"
        '[tool.onnxprune.plan]\nexclude = ["b2*x", "conv9"]\n[tool.other]\nratio = 7\n'
    )
    result = invoke("plan", "model.onnx", "-o", "plan.json")
    assert result.exit_code == 2 and "b2*x" in result.stderr
    (folder / "pyproject.toml").write_text(
        "[tool.onnxprune]\nratio = 0.25\nround-to = 2\nno-verify = true\n"
        '[tool.onnxprune.plan]\nratio = 0.5\ninclude = "conv1"\nlossless = false\n'
    )
    found = planned()
    assert (found["ratio"], found["round_to"], found["include"]) == (0.5, 2, ["conv1"])
    assert found["lossless"] == "off"
    below = folder / "below"
    below.mkdir()
    os.chdir(below)
    onnx.save(two_convs(), below / "model.onnx")
    assert planned()["round_to"] == 2


def test_flags_win(folder: Path) -> None:
    (folder / "o.toml").write_text('ratio = 0.25\nround_to = 2\nscope = "global"\n')
    found = planned("--config", "o.toml", "--ratio", "0.75", "--scope", "local")
    assert (found["ratio"], found["round_to"], found["scope"]) == (0.75, 2, "local")
    found = planned("--config", "o.toml", "--target", "params=0.5")
    assert found["ratio"] is None and found["target"] == "params=0.5"


def test_config_is_read_instead_of_pyproject(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.onnxprune]\nratio = 0.25\n")
    (folder / "o.toml").write_text("round-to = 2\n")
    found = planned("--config", "o.toml")
    assert (found["ratio"], found["round_to"]) == (0.5, 2)


def test_the_opposite_of_a_flag(folder: Path) -> None:
    (folder / "o.toml").write_text("no-lossless = true\n")
    assert planned("--config", "o.toml")["lossless"] == "off"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ratoi = 0.5", "nearest: ratio"),
        ("ratio = 2", "outside of"),
        ("ratio = true", "a value"),
        ("exact-only = 1", "true or false"),
        ("ratio = [0.5]", "one value"),
        ("[plan]\nno-verify = true", "plan has no option"),
        ("[plna]\nratio = 0.5", "nearest: plan"),
        ("ratio = ", "not TOML"),
    ],
)
def test_a_file_that_is_wrong(folder: Path, text: str, words: str) -> None:
    (folder / "o.toml").write_text(text)
    result = invoke("plan", "model.onnx", "-o", "plan.json", "--config", "o.toml")
    assert result.exit_code == 2 and words in result.stderr, result.output
    assert not (folder / "plan.json").exists()


def test_a_file_that_is_not_there(folder: Path) -> None:
    result = invoke("plan", "model.onnx", "-o", "plan.json", "--config", "none.toml")
    assert result.exit_code == 2 and "none.toml" in result.stderr


def test_quiet(folder: Path) -> None:
    for arguments in (
        ("plan", "model.onnx", "-o", "plan.json"),
        ("prune", "model.onnx", "-o", "out.onnx", "--no-benchmark"),
        ("apply", "model.onnx", "plan.json", "-o", "out2.onnx", "--no-benchmark"),
        ("mask", "model.onnx", "-o", "masked.onnx"),
        ("compare", "model.onnx", "model.onnx"),
    ):
        assert invoke(*arguments).output
        result = invoke(*arguments, *["--force"] * ("-o" in arguments), "-q")
        assert (result.exit_code, result.output) == (0, ""), arguments
    result = invoke("prune", "model.onnx", "-o", "out.onnx", "-q")
    assert result.exit_code == 2 and "--force" in result.stderr


def test_completion(folder: Path) -> None:
    environment = {**os.environ, "_ONNXPRUNE_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "onnxprune prune --no-", "COMP_CWORD": "2"}
    code = "from onnxprune.cli import main; main(prog_name='onnxprune')"
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "--no-provenance" in found.stdout
