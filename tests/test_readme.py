"""What README says is so: its commands and its Python run, its rule is the project's."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from models import resnet, vit
from onnxprune.cli import main
from onnxprune.tables import tables_folder
from tests.markdown import ROOT, Block, Reader, blocks
from tests.test_docs import stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


#: Replaces outputs, and leaves latency to the blocks that are about it.
CONFIGURATION = """
[tool.onnxprune]
force = true

[tool.onnxprune.prune]
no-benchmark = true
"""
SCORE = """
def score(session):
    import numpy as np

    data = np.load("test.npz")
    logits = session.run(None, {"images": data["images"]})[0]
    return float((logits.argmax(1) == data["labels"]).mean())
"""


def stage_readme(folder: Path) -> None:
    """All that README's lines name: models, data, files of options."""
    stage(folder)
    model = onnx.load(folder / "model.onnx")
    for each in model.graph.initializer:  # one channel that carries nothing
        if each.name in ("stages.0.0.bn1.weight", "stages.0.0.bn1.bias"):
            value = numpy_helper.to_array(each).copy()
            value[0] = 0
            each.CopyFrom(numpy_helper.from_array(value, each.name))
    onnx.save(model, folder / "model.onnx")
    data = np.load(folder / "test.npz")
    images = data["images"][:64]
    np.savez(folder / "arrays.npz", x=images, z=data["labels"])
    np.savez(folder / "other.npz", images=data["images"], y=data["labels"])
    (folder / "samples").mkdir()
    np.save(folder / "samples" / "first.npy", images)
    (folder / "photos").mkdir()
    for i, image in enumerate(images[:4, 0]):
        grey = Image.fromarray((255 * image).astype(np.uint8))
        grey.convert("RGB").resize((300, 280)).save(folder / "photos" / f"{i}.png")
    onnx.save(vit.build(), folder / "vit.onnx")
    onnx.save(resnet.build(widths=(16, 32), blocks=1, image=224), folder / "resnet.onnx")
    onnx.save(onnxprune.permute(folder / "model.onnx"), folder / "twin.onnx")
    for each in model.graph.initializer:  # another checkpoint of the same network
        value = numpy_helper.to_array(each)
        each.CopyFrom(numpy_helper.from_array(value * np.float32(1.01), each.name))
    onnx.save(model, folder / "finetuned.onnx")
    (folder / "out.onnx").write_bytes((folder / "twin.onnx").read_bytes())
    (folder / "grid.toml").write_text('target = ["macs=0.7", "macs=0.5"]\n')
    (folder / "ratios.toml").write_text('"stages.0*" = 0.1\n')
    (folder / "factors.json").write_text('{"stages.0*": 2.0}')
    (folder / "mine.py").write_text(SCORE)
    (folder / "my_ops.toml").write_bytes((ROOT / "examples" / "my_ops.toml").read_bytes())
    (folder / "pyproject.toml").write_text(CONFIGURATION)


def steps() -> list[list[Block]]:
    """Each `sh` block, with what it is said to print."""
    found: list[list[Block]] = []
    for block in blocks(TEXT):
        if block.language == "sh" and not block.test.startswith("skip"):
            found.append([block])
        elif block.language == "text" and found:
            found[-1].append(block)
    return found


@pytest.mark.parametrize("step", steps(), ids=lambda step: f"line{step[0].line}")
def test_commands_run(step: list[Block], tmp_path: Path) -> None:
    stage_readme(tmp_path)
    Reader(tmp_path).follow(step)


def test_every_option_is_shown() -> None:
    """Each option of `prune` stands in README, but for help and verbosity."""
    for parameter in main.commands["prune"].params:
        names = [name for name in parameter.opts if name.startswith("-")]
        assert not names or "--verbose" in names or any(name in TEXT for name in names), names


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    for block in blocks(TEXT, "python"):
        exec(block.code, {})
    assert (tmp_path / "smaller.onnx").exists() and (tmp_path / "plan.json").exists()


def test_the_rule_shown_is_the_rule() -> None:
    shown = tomllib.loads(blocks(TEXT, "toml")[0].code)["Conv"]
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
