"""`onnxprune inspect`: what could go, what holds the parameters, what would free the rest."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

import onnxprune
from models import resnet
from onnxprune.advice import advice
from onnxprune.attribution import numbered, origins
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
    assert result.exit_code == 2 and "nearest: " in result.stderr and "w1" in result.stderr


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


def test_times_are_those_of_the_kernels_on_a_group_s_channels() -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="one", pads=[1] * 4),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], name="two", pads=[1] * 4),
        node("Relu", ["c2"], ["r2"]),
        node("Conv", ["r2", "w3"], ["y"], name="three"),
    ]
    # The group of w2 and w3 has next to nothing to do but in `two`, which w1 is read by, too.
    weights = {"w1": weight("w1", 64, 64, 3, 3), "w2": weight("w2", 16, 64, 3, 3)}
    weights["w3"] = weight("w3", 4, 16, 1, 1)
    model = make(nodes, {"x": [1, 64, 32, 32]}, {"y": [1, 4, 32, 32]}, weights)
    plain, found = onnxprune.inspect(model), onnxprune.inspect(model, time=True)
    assert plain.ms is None and all(group.ms is None for group in plain.groups)
    ms = {group.name: group.ms or 0.0 for group in found.groups}
    assert found.ms is not None and ms.keys() == {"w1", "w2"}
    assert 0 < ms["w2"] < ms["w1"] <= found.ms
    assert sum(found.ms_elsewhere.values()) < found.ms - ms["w1"] + 1e-9


def test_kernels_stand_for_the_nodes_that_they_were_made_of() -> None:
    graph = make(
        [
            node("Conv", ["x", "w1"], ["a"]),
            node("Conv", ["x", "w2"], ["b"]),
            node("Add", ["a", "b"], ["s"]),
            node("Relu", ["s"], ["r"]),
            node("MatMul", ["r", "v"], ["y"]),
        ],
        {"x": [1, 16, 4, 4]},
        {"y": [1, 16, 4, 4]},
        {
            "w1": weight("w1", 16, 16, 1, 1),
            "w2": weight("w2", 16, 16, 1, 1),
            "v": weight("v", 4, 4),
        },
    ).graph
    names = [("Conv", "r_nchwc"), ("Conv", "a_nchwc_token_3"), ("ReorderOutput", "ReorderOutput")]
    names += [("FusedMatMul", "#4#/MatMulScaleFusion/"), ("QLinearConv", "#0##1#")]
    names += [("AveragePool", "x_nchwc"), ("Conv", "unheard_nchwc")]
    found = origins(dict.fromkeys(names[:4], (1.0, 1.0)), graph)
    # The sum and its activation are one kernel with that convolution which is not its own.
    assert list(found.values()) == [[1], [0], [], [4]]
    assert list(origins(dict.fromkeys(names[4:], (1.0, 1.0)), graph).values()) == [[0, 1], [], []]


def test_bodies_are_called_as_the_node_around_them() -> None:
    body = helper.make_graph(
        [node("Neg", ["x"], ["b"])], "body", [], [helper.make_tensor_value_info("b", 1, [2])]
    )
    branch = node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    model = make([node("Abs", ["x"], ["z"]), branch], {"x": [2]}, {"y": [2]}, {})
    found = numbered(model).graph.node
    assert [each.name for each in found] == ["#0#", "#1#"]
    assert {a.g.node[0].name for a in found[1].attribute} == {"#1#"}
    assert [each.name for each in model.graph.node] == ["", ""]


def test_time_is_shown_where_it_is_asked_for(model: Path) -> None:
    plain, timed = invoke("inspect", model), invoke("inspect", model, "--time")
    assert "of one run" not in plain.stdout and " ms (" not in plain.stdout
    assert re.search(r"w1 .* ms \(\d+ %\)", timed.stdout), timed.stdout
    assert "in kernels of one run" in timed.stdout
    shown = invoke("inspect", model, "--time", "--group", "w1")
    assert "of the time" in shown.stdout
    wrong = invoke("inspect", model, "--time", "--input-shapes", "x:1,3,9")
    assert wrong.exit_code == 2 and "'x'" in wrong.stderr
