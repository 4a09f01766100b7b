"""The pass for Microsoft Olive, in a workflow that Olive itself runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

pytest.importorskip("olive", reason="olive-ai is not installed")
import olive.workflows

import onnxprune
from models import resnet
from onnxprune.integrations.olive import OnnxPruning, package

pytestmark = pytest.mark.olive
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a workflow runs: with a model and data, and Olive's cache in it."""
    for source, name in (("digits_cnn.onnx", "model.onnx"), ("digits_test.npz", "test.npz")):
        (tmp_path / name).write_bytes((ROOT / "models" / source).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLIVE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("OLIVE_DISABLE_TELEMETRY", "1")
    return tmp_path


def workflow(**options: Any) -> dict[str, Any]:
    return {
        "input_model": {"type": "OnnxModel", "model_path": "model.onnx"},
        "passes": {"prune": {"type": "OnnxPruning", "benchmark": False, **options}},
        "output_dir": "pruned",
        "cache_dir": "cache",
    }


def written(folder: Path) -> list[Path]:
    return sorted((folder / "pruned").rglob("*.onnx"))


def test_the_example_runs_from_the_command_line(folder: Path) -> None:
    """What the documentation says, word for word."""
    (folder / "workflow.json").write_bytes((ROOT / "examples" / "olive.json").read_bytes())
    made = [sys.executable, "-m", "onnxprune.integrations.olive"]
    (folder / "package.json").write_text(subprocess.check_output(made, text=True))
    command = ["--config", "workflow.json", "--package-config", "package.json"]
    done = subprocess.run(
        [sys.executable, "-m", "olive", "run", *command], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = written(folder)
    written_down = {each.key for each in onnx.load(path).metadata_props}
    assert "onnxprune.plan_sha256" in written_down
    assert path.stat().st_size < 0.7 * Path("model.onnx").stat().st_size


def test_the_result_is_that_of_prune(folder: Path) -> None:
    olive.workflows.run(workflow(ratio=0.5), package_config=package())
    (path,) = written(folder)
    ours = onnxprune.prune("model.onnx", ratio=0.5, benchmark=False)
    assert onnx.load(path).SerializeToString() == ours.model.SerializeToString()


def test_with_a_pass_of_olives_own(folder: Path) -> None:
    config = workflow(ratio=0.5)
    config["passes"]["half"] = {"type": "OnnxFloatToFloat16"}
    olive.workflows.run(config, package_config=package())
    (path,) = written(folder)
    ours = onnxprune.prune("model.onnx", ratio=0.5, benchmark=False)
    ours.save("pruned.onnx")
    assert path.stat().st_size < 0.6 * Path("pruned.onnx").stat().st_size


def test_weights_in_a_file_of_their_own(folder: Path) -> None:
    onnx.save(
        resnet.build(),
        "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    olive.workflows.run(workflow(ratio=0.5), package_config=package())
    (path,) = written(folder)
    assert onnxprune.inspect(path).groups


def test_options_are_those_of_prune() -> None:
    params = OnnxPruning.default_config(None)
    assert params["ratio"].description.startswith("the share of channels to remove")
    assert params["exclude"].description and params["scope"].default_value == "local"
    assert all(param.description for param in params.values())


def test_nothing_comes_through_a_shut_gate(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"ratio": 0.9, "eval": "test.npz", "max_drop": 0.1}
    olive.workflows.run(workflow(**options), package_config=package())
    assert "no more than 0.1 may be lost" in caplog.text
    assert written(folder) == []
