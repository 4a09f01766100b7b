"""The examples do what they say: the pipeline, a workflow's steps, the layers of an image."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.markdown import ROOT, Block, Reader, lay_out
from tests.test_docs import stage

EXAMPLES = ROOT / "examples"


def pipeline(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    tools = f"{folder / '.tools'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [EXAMPLES / "pipeline.sh", "build"],
        cwd=folder,
        env={**os.environ, "PATH": tools, "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lay_out(tmp_path)
    stage(tmp_path)
    return tmp_path


def test_pipeline(folder: Path) -> None:
    done = pipeline(folder, MIN_SPEEDUP="0.5")
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "build" / "prune.json").read_text())
    assert report["after"]["macs"] <= 0.26 * report["before"]["macs"]
    onnx.checker.check_model(str(folder / "build" / "smaller.onnx"))
    assert [line for line in done.stderr.splitlines() if line.startswith("==")] == [
        "== export",
        "== prune",
        "== benchmark",
        "== gate",
    ]


def test_its_accuracy_gate_can_be_shut(folder: Path) -> None:
    done = pipeline(folder, TARGET="macs=0.03")
    assert done.returncode == 1 and "top-1 fell by" in done.stderr
    assert not (folder / "build" / "smaller.onnx").exists()
    assert "== benchmark" not in done.stderr


def test_its_speed_gate_can_be_shut(folder: Path) -> None:
    done = pipeline(folder, MIN_SPEEDUP="1000")
    assert done.returncode == 1 and "1000 is wanted" in done.stdout


def test_a_workflow_of_github(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    document = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())
    steps = document["jobs"]["prune"]["steps"]
    # GitHub reads `on` as a word; YAML 1.1 as a truth value.
    assert document[True] == ["push"] and all("uses" in step or "run" in step for step in steps)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    shell = [Block("sh", step["run"], 0) for step in steps if "run" in step]
    Reader(folder).follow(shell)
    assert "faster" in (folder / "summary.md").read_text()
    kept = steps[-1]["with"]["path"].split()
    assert all((folder / name).stat().st_size for name in kept)


def test_layers_of_the_image(folder: Path) -> None:
    text = (EXAMPLES / "Dockerfile").read_text().replace("\\\n", "")
    steps = re.findall(r"^(FROM|RUN|COPY|WORKDIR) (.*)$", text, re.MULTILINE)
    copied = next(words for step, words in steps if step == "COPY")
    assert all((folder / name).exists() for name in copied.split()[:-1])
    Reader(folder).follow([Block("sh", words, 0) for step, words in steps[:-1] if step == "RUN"])
    # What the last stage copies is what the first one wrote.
    source = next(words for step, words in steps if words.startswith("--from"))
    made = folder / Path(source.split()[1]).name
    last = steps[-1][1].replace("/srv/model.onnx", str(made))
    subprocess.run(last.replace("python", sys.executable, 1), shell=True, check=True)
