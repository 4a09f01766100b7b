"""What `--json` prints is what the published schemas say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest
from click.testing import CliRunner

from models import resnet, vit
from onnxprune import schemas
from onnxprune.cli import main
from tests.graphs import two_convs

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "models" / "digits_cnn.onnx"


def printed(*arguments: object) -> Any:
    result = CliRunner().invoke(main, [str(each) for each in (*arguments, "--json")])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def check(document: Any, name: str) -> None:
    jsonschema.Draft202012Validator(schemas.schema(name)).validate(document)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(two_convs(), path)
    return path


@pytest.mark.parametrize("name", schemas.names())
def test_they_are_schemas(name: str) -> None:
    found = schemas.schema(name)
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$id"].endswith(name) and found["title"]


def test_every_file_belongs_to_a_verb() -> None:
    files = {path.stem for path in Path(schemas.__file__).parent.glob("*.json")}
    assert files == set(schemas.names())
    assert {verb.split()[0] for verb in schemas.VERBS} <= set(main.commands)


def test_prune_and_apply(model: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "out.onnx", tmp_path / "plan.json"
    data = ROOT / "models" / "digits_test.npz"
    options = ["--target", "macs=0.5", "--scope", "global", "--eval", data, "--plan-out", plan]
    check(printed("prune", DIGITS, "-o", out, *options), "prune")
    check(json.loads(plan.read_text()), "plan")
    check(printed("apply", DIGITS, plan, "-o", out, "--force", "--no-benchmark"), "apply")
    check(printed("prune", model, "-o", out, "--force", "--no-benchmark", "--no-verify"), "prune")


@pytest.mark.parametrize("build", [vit.build, resnet.build, two_convs])
def test_plan_inspect_and_mask(build: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(build(), path)
    check(printed("plan", path, "-o", tmp_path / "plan.json"), "plan")
    check(printed("inspect", path), "inspect")
    check(printed("inspect", path, "--time"), "inspect")
    check(printed("mask", path, "-o", tmp_path / "masked.onnx", "--no-verify"), "mask")
    for structure in ("2:4", "block:4x1"):
        out = tmp_path / f"{structure[0]}.onnx"
        check(printed("mask", path, "-o", out, "--structure", structure, "--no-verify"), "mask")


def test_compare_bench_and_rules(model: Path) -> None:
    check(printed("compare", model, model), "compare")
    check(printed("bench", model, "--seconds", "0.05"), "bench")
    check(printed("bench", model, model, "--seconds", "0.05"), "bench")
    check(printed("rules"), "rules")
    check(printed("rules", "--missing", model), "rules --missing")
    check(printed("rules", "--coverage"), "rules --coverage")


def test_sensitivity_and_sweep(tmp_path: Path) -> None:
    data = ROOT / "models" / "digits_test.npz"
    words = ["--journal", tmp_path / "curves.jsonl", "--at", "0.5,0.75"]
    check(printed("sensitivity", DIGITS, "--eval", data, *words), "sensitivity")
    refit = ["--calibration", data, "--reconstruct", "--include", "conv1*"]
    check(printed("sensitivity", DIGITS, *words, *refit), "sensitivity")
    words = ["--journal", tmp_path / "sweep.jsonl", "--jobs", "1", "--ratio", "0.01,0.5"]
    found = printed("sweep", DIGITS, "--eval", data, "--cost", "latency", "--max-drop", "1", *words)
    check(found, "sweep")
    assert {trial["status"] for trial in found["trials"]} == {"done", "failed"}


def test_a_schema_refuses_what_it_does_not_say(model: Path) -> None:
    found = printed("inspect", model)
    for damaged in ({**found, "more": 1}, {k: v for k, v in found.items() if k != "groups"}):
        with pytest.raises(jsonschema.ValidationError):
            check(damaged, "inspect")
