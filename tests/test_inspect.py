"""`onnxprune inspect`: what could go, what holds the parameters, what would free the rest."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from models import resnet
from onnxprune.advice import advice
from onnxprune.cli import main
from onnxprune.dot import dot
from tests.graphs import make, node, two_convs, weight


def invoke(*arguments: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(two_convs(), path)
    return path


def test_the_least_that_can_be_left_is_one_channel_of_each_group() -> None:
    found = onnxprune.inspect(two_convs(8))
    result = onnxprune.prune(two_convs(8), ratio=0.99, round_to=1, benchmark=False, lossless=False)
    assert [group.kept for group in result.report.groups] == [1]
    assert found.least_left == pytest.approx(result.report.parameters_left)
    assert 0 < found.least_left < found.left_at_half < 1


def test_macs_are_those_that_are_counted() -> None:
    found = onnxprune.inspect(two_convs(8))
    result = onnxprune.prune(two_convs(8), ratio=0.5, round_to=1, benchmark=False, lossless=False)
    before, after = result.report.before, result.report.after
    assert before is not None and after is not None
    assert found.macs == before.macs
    assert found.macs_left_at_half == pytest.approx((after.macs or 0) / (before.macs or 1))
    # Both convolutions read or write the one group.
    assert found.groups[0].macs == before.macs


def test_advice_on_a_cache() -> None:
    reason = "an axis of the model's input"
    assert "KV cache" in advice(reason, ["past_key_values.0.key"])[0]
    assert advice(reason, ["images"]) == []
    for name in ("present.0.value", "kv_cache", "past_key_values.3.key"):
        assert "KV cache" in advice(reason, [name])[0]
    for name in ("h0", "hidden", "c_n", "cn", "lstm/state_in", "hidden_state"):
        assert "a state" in advice(reason, [name])[0], name
    for name in ("last_hidden_state", "encoder_hidden_states", "representation", "value"):
        assert advice(reason, [name]) == [], name
    assert "--rules" in advice("no rule for operator my.domain.X", [])[0]
    assert advice("kernel", ["conv"]) == []


def test_advice_is_shown_where_a_cache_fixes_heads(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "past_key"], ["present_key"]),
        node("MatMul", ["h", "v"], ["y"]),
    ]
    outputs = {"present_key": [2, 8], "y": [2, 3]}
    constants = {"w": weight("w", 4, 8), "v": weight("v", 8, 3)}
    model = make(nodes, {"x": [2, 4], "past_key": [2, 8]}, outputs, constants)
    path = tmp_path / "cache.onnx"
    onnx.save(model, path)
    result = invoke("inspect", path)
    assert result.exit_code == 0, result.stderr
    assert "What you can do" in result.stdout and "use_cache=False" in result.stdout


def test_one_group_with_its_members(model: Path) -> None:
    result = invoke("inspect", model, "--group", "w1")
    assert result.exit_code == 0
    for words in ("w1", "w2", "b1", "channels", "of the MACs"):
        assert words in result.stdout


def test_a_group_may_be_named_by_a_member(model: Path) -> None:
    found = json.loads(invoke("inspect", model, "--group", "w2", "--json").stdout)
    assert [group["name"] for group in found["groups"]] == ["w1"]
    assert len(found["grouping"]) == 1 and not found["complete"]


def test_a_misspelt_group_has_suggestions(model: Path) -> None:
    result = invoke("inspect", model, "--group", "w11")
    assert result.exit_code == 2 and "did you mean" in result.stderr and "w1" in result.stderr


def test_dot_has_every_group_and_member_once(tmp_path: Path) -> None:
    found = onnxprune.inspect(resnet.build())
    text = dot(found)
    names = {tensor for group in found.groups for tensor, _, _ in group.members}
    assert len(re.findall(r"shape=ellipse", text)) == len(found.groups)
    assert len(re.findall(r"shape=box\]", text)) == len(names)
    assert text.count("->") == sum(len(group.members) for group in found.groups)
    assert text.count("{") == text.count("}") == 1
    assert text == dot(onnxprune.inspect(resnet.build()))


def test_names_are_quoted_in_dot(tmp_path: Path) -> None:
    evil = two_convs()
    for each in evil.graph.initializer:
        each.name = each.name.replace("w1", 'w"1\\')
    for op in evil.graph.node:
        for i, name in enumerate(op.input):
            op.input[i] = name.replace("w1", 'w"1\\')
    text = dot(onnxprune.inspect(evil))
    assert r"w\"1\\" in text


def test_dot_file_and_json_together(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "graph.dot"
    result = invoke("inspect", model, "--dot", target, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["groups"]
    assert target.read_text().startswith("digraph")
    assert invoke("inspect", model, "--dot", target).exit_code == 2
    assert invoke("inspect", model, "--dot", target, "--force").exit_code == 0
    assert invoke("inspect", model, "--dot", model, "--force").exit_code == 2
