"""Where an output comes from stands in it, and --check says whether there would be one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

import onnxprune
from onnxprune import provenance
from onnxprune.cli import main
from tests.graphs import make, node, two_convs, weight

QUICK = ["--no-benchmark"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    proto = two_convs()
    proto.metadata_props.add(key="author", value="somebody")
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


def test_hashes_are_those_of_the_files(model: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "out.onnx", tmp_path / "plan.json"
    assert invoke("prune", model, "-o", out, "--plan-out", plan, *QUICK).exit_code == 0
    assert metadata(onnx.load(out)) == {
        "author": "somebody",
        provenance.SOURCE: hashlib.sha256(model.read_bytes()).hexdigest(),
        provenance.PLAN: hashlib.sha256(plan.read_bytes()).hexdigest(),
        provenance.VERSION: onnxprune.__version__,
    }


def test_the_same_bytes_twice_and_from_the_plan(model: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.onnx" for i in range(3)]
    plan = tmp_path / "plan.json"
    for file in files[:2]:
        assert invoke("prune", model, "-o", file, *QUICK).exit_code == 0
    assert invoke("plan", model, "-o", plan).exit_code == 0
    assert invoke("apply", model, plan, "-o", files[2], *QUICK).exit_code == 0
    assert len({file.read_bytes() for file in files}) == 1


def test_it_can_be_left_out(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert invoke("prune", model, "-o", out, "--no-provenance", *QUICK).exit_code == 0
    assert metadata(onnx.load(out)) == {"author": "somebody"}


def test_pruned_again_it_is_said_once(model: Path) -> None:
    once = onnxprune.prune(model, ratio=0.25, round_to=1, benchmark=False).model
    twice = onnxprune.prune(once, ratio=0.25, round_to=1, benchmark=False).model
    keys = [entry.key for entry in twice.metadata_props]
    assert len(keys) == len(set(keys)) and metadata(twice)["author"] == "somebody"
    assert metadata(twice)[provenance.PLAN] != metadata(once)[provenance.PLAN]


@pytest.mark.parametrize("verb", ["prune", "plan"])
def test_check_says_it_by_the_exit_code(verb: str, model: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = invoke(verb, model, "--check")
    assert (result.exit_code, result.output) == (0, "")
    pinned = tmp_path / "pinned.onnx"
    onnx.save(
        make([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 4]}, {"y": [2, 3]},
             {"w": weight("w", 4, 3)}),
        pinned,
    )  # fmt: skip
    result = invoke(verb, pinned, "--check")
    assert result.exit_code == 3 and not result.stdout and "nothing can be pruned" in result.stderr
    assert invoke(verb, model, "--check", "--ratio", "0.01", "--no-lossless").exit_code == 3
    assert sorted(tmp_path.iterdir()) == sorted([*before, pinned])


def test_check_leaves_alone_what_is_there(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"mine")
    assert invoke("prune", model, "-o", out, "--check").exit_code == 0
    assert out.read_bytes() == b"mine"


def test_without_check_an_output_is_needed(model: Path) -> None:
    for verb in ("prune", "plan"):
        result = invoke(verb, model)
        assert result.exit_code == 2 and "--output" in result.stderr
