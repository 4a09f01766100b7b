"""Every family of architectures, pruned end to end at ratio 0.5."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from models import FAMILIES
from models.graph import Graph
from onnxprune.measure import count

#: Families in which all but the interface is free: halved widths leave about a quarter.
CONVOLUTIONAL = (
    *("resnet", "resnext", "densenet", "mobilenet", "unet", "shufflenet", "superres"),
    *("autoencoder", "dgcnn"),
)


@pytest.fixture(scope="module")
def pruned() -> dict[str, onnxprune.Result]:
    return {
        name: onnxprune.prune(build(0), ratio=0.5, benchmark=False)
        for name, build in FAMILIES.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_certified(pruned: dict[str, onnxprune.Result], family: str) -> None:
    certificate = pruned[family].report.certificate
    assert certificate is not None
    assert certificate.permutation is not None and certificate.permutation < 1e-4
    assert certificate.masking is not None and certificate.masking < 1e-4
    assert certificate.proves, "a wrong coupling would not have been seen"


@pytest.mark.parametrize("family", FAMILIES)
def test_loses_what_free_widths_allow(pruned: dict[str, onnxprune.Result], family: str) -> None:
    report = pruned[family].report
    assert report.parameters_left is not None and report.free_widths_allow is not None
    assert abs(report.parameters_left - report.free_widths_allow) < 0.03


@pytest.mark.parametrize("family", CONVOLUTIONAL)
def test_halved_widths_leave_a_quarter_of_a_cnn(
    pruned: dict[str, onnxprune.Result], family: str
) -> None:
    left = pruned[family].report.parameters_left
    assert left is not None and 0.23 < left < 0.33


@pytest.mark.parametrize("family", CONVOLUTIONAL)
def test_every_hidden_width_is_halved(pruned: dict[str, onnxprune.Result], family: str) -> None:
    """Counted from outside: no matrix keeps more than half of an axis that is not interface."""
    result = pruned[family]
    before = {t.name: t.dims for t in result.reference.graph.initializer}
    after = {t.name: t.dims for t in result.model.graph.initializer}
    whole = [
        name
        for name, dims in before.items()
        if len(dims) > 1 and dims[0] > 3 and after.get(name, [0])[0] == dims[0]
    ]
    # What keeps its first axis is the last layer, or the side of a table that an input indexes.
    assert len(whole) <= 2, whole


def test_interface_stays(pruned: dict[str, onnxprune.Result]) -> None:
    for family, result in pruned.items():
        for side in ("input", "output"):
            before = [v.SerializeToString() for v in getattr(FAMILIES[family](0).graph, side)]
            after = [v.SerializeToString() for v in getattr(result.model.graph, side)]
            assert before == after, family


def test_report_counts_the_file(pruned: dict[str, onnxprune.Result]) -> None:
    for result in pruned.values():
        assert result.report.after is not None
        assert count(result.model).parameters == result.report.after.parameters


@pytest.mark.parametrize("family", ["vit", "swin", "decoder"])
def test_transformer_widths_are_groups_of_their_own(family: str) -> None:
    """Heads, head dimension, feed-forward and hidden width: none is coupled to another."""
    found = onnxprune.inspect(FAMILIES[family](0))
    roles = {group.role for group in found.groups}
    assert {"heads", "head-dim", "ffn", "hidden"} <= roles
    for role in ("heads", "head-dim", "ffn", "hidden"):
        result = onnxprune.prune(FAMILIES[family](0), only=[role], benchmark=False)
        assert {group.role for group in result.plan.groups} == {role}
        assert result.report.certificate is not None and result.report.certificate.ok


def test_heads_are_removed_whole() -> None:
    """Only heads: each projection loses whole runs of head_dim columns, in Q, K and V alike."""
    result = onnxprune.prune(FAMILIES["vit"](0), only=["heads"], benchmark=False)
    heads, width, hidden = 4, 16, 64
    for name, axes in result.plan.kept.items():
        if name.endswith("attn.qkv.weight"):
            kept = axes[1].reshape(3, heads // 2, width)
            assert (np.diff(kept, axis=2) == 1).all(), "a head keeps all of its columns"
            assert (kept % width == np.arange(width)).all()
            assert (kept[0] + hidden == kept[1]).all() and (kept[1] + hidden == kept[2]).all()
            projection = result.plan.kept[name.replace("qkv", "proj")][0]
            assert (projection == kept[0].ravel()).all()


def test_dynamic_sequence_stays_dynamic() -> None:
    model = FAMILIES["decoder"](0, dynamic_sequence=True)  # type: ignore[call-arg]
    result = onnxprune.prune(model, benchmark=False)
    certificate = result.report.certificate
    assert certificate is not None and certificate.ok and certificate.proves
    fixed = onnxprune.prune(FAMILIES["decoder"](0), benchmark=False)
    assert result.report.parameters_left == pytest.approx(fixed.report.parameters_left, abs=0.001)


def test_grouped_convolutions_keep_their_groups() -> None:
    result = onnxprune.prune(FAMILIES["resnext"](0), benchmark=False)
    groups = {
        a.i
        for node in result.model.graph.node
        if node.op_type == "Conv"
        for a in node.attribute
        if a.name == "group" and a.i > 1
    }
    assert groups == {8}


def test_depthwise_convolutions_follow_their_channels() -> None:
    result = onnxprune.prune(FAMILIES["mobilenet"](0), benchmark=False)
    weights = {t.name: t.dims for t in result.model.graph.initializer}
    depthwise = 0
    for node in result.model.graph.node:
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.op_type == "Conv" and group > 1:
            depthwise += 1
            assert group == weights[node.input[1]][0]
    assert depthwise > 2


def test_deterministic() -> None:
    first, second = (
        onnxprune.prune(FAMILIES["resnet"](0), verify=False, benchmark=False) for _ in "ab"
    )
    assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(
        deterministic=True
    )
    assert first.plan.to_json() == second.plan.to_json()
    onnx.checker.check_model(first.model, full_check=True)


def test_a_depthwise_multiplier_halves_a_width_once() -> None:
    """A downsampling depthwise convolution that doubles channels: width = channels x 2.

    Halving the channels halves the width; halving the multiplier as well would leave a quarter.
    """
    g = Graph("multiplier", 0)
    x = g.input("x", "N", 3, 8, 8)
    x = g.node("Relu", g.conv("stem", x, 3, 16))
    x = g.conv("down", x, 16, 32, 3, stride=2, groups=16)
    x = g.node("Relu", g.conv("mix", x, 32, 24))
    g.output(g.conv("head", x, 24, 5), "y", "N", 5, 4, 4)
    result = onnxprune.prune(g.model(), benchmark=False)
    shapes = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert shapes["down.weight"] == [16, 1, 3, 3]
    assert shapes["mix.weight"][:2] == [12, 16]
    assert result.report.certificate is not None and result.report.certificate.ok
