"""Targets, scopes, rounding and stages: what is asked for is what comes out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import onnxprune
from models import FAMILIES
from models.graph import Graph
from onnxprune import work
from onnxprune.axes import Dim, kept_size
from onnxprune.budgets import Budget, read_numbers
from onnxprune.cli import main
from onnxprune.costs import Cost, Term
from onnxprune.errors import CheckFailed, UsageError
from onnxprune.groups import Group
from onnxprune.importance import Importance
from onnxprune.measure import count
from onnxprune.model_costs import macs_cost, parameters_cost
from onnxprune.ranking import classes_of
from onnxprune.rounding import admissible, fitting, nearest, steps_of
from onnxprune.selection import Space, within
from onnxprune.targets import Target, parse_target
from tests.graphs import two_convs
from tests.test_costs import read

DIGITS = Path(__file__).resolve().parent.parent / "models" / "digits_cnn.onnx"


def quick(model: Any, **options: Any) -> onnxprune.Result:
    return onnxprune.prune(model, verify=False, benchmark=False, **options)


# -- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "share", "amount"),
    [
        ("macs=0.5", "macs", 0.5, None),
        ("params=40%", "params", 0.4, None),
        ("bytes=20MB", "bytes", None, 20e6),
        ("bytes=1.5 GiB", "bytes", None, 1.5 * 2**30),
        ("bytes=300kb", "bytes", None, 300e3),
        ("bytes=0.25", "bytes", 0.25, None),
        ("macs=3.5G", "macs", None, 3.5e9),
        ("latency=0.5", "latency", 0.5, None),
        ("latency=8ms", "latency", None, 8.0),
        ("latency=250us", "latency", None, 0.25),
        ("speedup=2", "latency", 0.5, None),
        ("speedup=2x", "latency", 0.5, None),
    ],
)
def test_targets(text: str, kind: str, share: float | None, amount: float | None) -> None:
    assert parse_target(text) == Target(kind, share, amount, text)


@pytest.mark.parametrize(
    "text",
    ["", "macs", "macs=", "macs=2", "macs=0", "macs=1", "macs=-0.5", "macs=nan", "flips=0.5",
     "bytes=20XB", "latency=8MB", "latency=-8ms", "speedup=1", "speedup=0.5", "bytes=0MB",
     "macs=0.5,params=0.4", "latency=1e", "bytes=infMB"],
)  # fmt: skip
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(UsageError, match="target"):
        parse_target(text)


def test_exactly_one() -> None:
    with pytest.raises(UsageError, match="exclude"):
        Budget(ratio=0.5, target="macs=0.5")
    arguments = [str(DIGITS), "-o", "x.onnx", "--ratio", "0.3", "--target", "macs=0.5"]
    assert CliRunner().invoke(main, ["prune", *arguments]).exit_code == 2


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("kind", ["macs", "params", "bytes"])
@pytest.mark.parametrize("family", ["resnet", "mobilenet", "densenet", "vit", "swin", "shufflenet"])
def test_targets_are_met_within_two_percent(family: str, kind: str, scope: str) -> None:
    """As counted in the pruned model, not as predicted."""
    model = FAMILIES[family](0)
    before = count(model)
    name = {"params": "parameters"}.get(kind, kind)
    for share in (0.7, 0.4):
        result = quick(model, target=f"{kind}={share}", scope=scope)
        found = result.report.target
        after = count(result.model)
        assert found is not None and found.met
        if kind != "macs":  # those depend on dynamic sizes: as the report has them
            assert getattr(after, name) / getattr(before, name) == pytest.approx(share, rel=0.021)


def test_an_amount_of_bytes_is_met_in_the_file(tmp_path: Path) -> None:
    result = quick(DIGITS, target="bytes=300KB")
    result.save(tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size == pytest.approx(300e3, rel=0.02)


def test_out_of_reach_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"the least is .* MACs \(0\.2% of"):
        quick(DIGITS, target="macs=0.001")
    with pytest.raises(CheckFailed, match="met already"):
        quick(DIGITS, target="bytes=20MB")
    arguments = ["prune", str(DIGITS), "-o", str(tmp_path / "x.onnx"), "--target", "macs=0.001"]
    assert CliRunner().invoke(main, arguments).exit_code == 1
    assert not list(tmp_path.iterdir())


def test_the_report_says_what_was_asked_for(tmp_path: Path) -> None:
    arguments = ["prune", str(DIGITS), "-o", str(tmp_path / "x.onnx"), "--target", "params=0.4"]
    plain = CliRunner().invoke(main, [*arguments, "--no-benchmark"])
    assert "Target params=0.4: " in plain.output and "40.0 % wanted" in plain.output
    found = CliRunner().invoke(main, [*arguments, "--no-benchmark", "--force", "--json"])
    target = json.loads(found.stdout)["target"]
    assert target["met"] and target["achieved"] == pytest.approx(0.4, rel=0.02)
    assert json.loads(found.stdout)["options"]["target"] == "params=0.4"


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("family", ["resnet", "mobilenet", "vit"])
def test_a_tighter_budget_keeps_nothing_that_a_looser_one_dropped(family: str, scope: str) -> None:
    model = FAMILIES[family](0)
    before: dict[str, set[Any]] = {}
    for share in (0.9, 0.75, 0.6, 0.45, 0.3, 0.2):
        plan = onnxprune.plan(
            model, target=f"macs={share}", scope=scope, round_to=1, common_choice=True
        )
        kept: dict[str, set[Any]] = {group.name: set(group.kept) for group in plan.groups}
        for name, indices in before.items():
            assert kept[name] <= indices
        before = kept


# -- rounding ------------------------------------------------------------------------------------


def test_admissible_widths() -> None:
    assert admissible(64, 16) == [16, 32, 48, 64]
    assert admissible(29, 4) == [4, 8, 12, 16, 20, 24, 28, 29]
    assert admissible(10, 16) == [10]
    assert admissible(64, 16, least=20) == [32, 48, 64]
    assert [nearest(n, [16, 32, 29 + 20]) for n in (1, 23, 24, 40, 41, 99)] == [
        16,
        16,
        32,
        32,
        49,
        49,
    ]
    assert [fitting(16, n) for n in (64, 63, 24, 12, 7, 3)] == [16, 8, 4, 2, 1, 1]


def test_default_steps() -> None:
    """16 where a convolution reads or writes the channels, 8 in matrix products."""
    network, groups = read(FAMILIES["resnet"](0))
    for group, step in zip(groups, steps_of(network, groups, None), strict=True):
        assert step == fitting(16, group.size)
    network, groups = read(FAMILIES["decoder"](0))
    for group, step in zip(groups, steps_of(network, groups, None), strict=True):
        assert step == fitting(8, group.size)
    assert set(steps_of(network, groups, 5)) == {5}


def test_widths_are_rounded_by_default_and_not_with_1() -> None:
    model = FAMILIES["resnet"](0)
    for group in onnxprune.plan(model, ratio=0.4).groups:
        assert group.width % fitting(16, group.size) == 0
    for group in onnxprune.plan(model, ratio=0.4, round_to=1).groups:
        assert group.width == group.size - int(group.size * 0.4)


# -- scopes --------------------------------------------------------------------------------------


def test_isomorphic_classes_are_blocks_of_one_shape() -> None:
    g = Graph("blocks", 0)
    x = g.node("Relu", g.conv("stem", g.input("x", "N", 3, 8, 8), 3, 16))
    for i in range(3):
        y = g.node("Relu", g.conv(f"b{i}.1", x, 16, 24))
        x = g.node("Add", x, g.conv(f"b{i}.2", y, 24, 16))
    g.output(g.conv("head", x, 16, 5), "y", "N", 5, 8, 8)
    network, groups = read(g.model())
    classes = classes_of(network, groups, "isomorphic")
    inner = [key for group, key in zip(groups, classes, strict=True) if group.size == 24]
    assert len(inner) == 3 and len(set(inner)) == 1 and len(set(classes)) == 2


def test_isomorphic_removes_the_same_share_of_each_class() -> None:
    groups = [Group(f"g{i}", Dim(n), "channels") for i, n in enumerate((8, 8, 4))]
    scores = [np.arange(8.0), np.arange(8.0) + 4, np.arange(4.0) + 100]
    budget = Budget(ratio=0.5, scope="isomorphic", round_to=1)
    ladders = [np.sort(each) for each in scores]
    from onnxprune.ranking import pressures

    found = pressures(ladders, [1, 1, 1], ["a", "a", "b"])
    space = Space(
        groups, budget, ladders, [list(range(1, 9)), list(range(1, 9)), [1, 2, 3, 4]], found
    )
    # 8 of the class of 16 go: six of the first, two of the second; and 2 of the 4.
    assert space.at_ratio(0.5) == [2, 6, 2]


def test_no_group_collapses() -> None:
    """One group that scores far below the others still keeps a sixteenth."""
    groups = [Group(f"g{i}", Dim(64), "channels") for i in range(2)]
    scores = [np.arange(64.0), np.arange(64.0) + 1000]
    space = Space.of(None, groups, scores, Budget(ratio=0.6, scope="global", round_to=1))
    assert space.at_ratio(0.6) == [4, 128 - int(128 * 0.6) - 4]


def test_ratios_of_single_groups(tmp_path: Path) -> None:
    model = FAMILIES["resnet"](0)
    names = [group.name for group in onnxprune.inspect(model).groups]
    (tmp_path / "ratios.toml").write_text(f'"{names[0]}" = 0.0\n"{names[1]}" = 0.25\n')
    plan = onnxprune.plan(model, ratio=0.5, ratios=tmp_path / "ratios.toml", round_to=1)
    left = {group.name: group.width / group.size for group in plan.groups}
    assert names[0] not in left and left[names[1]] == 0.75
    assert all(abs(left[name] - 0.5) < 0.05 for name in names[2:])
    # With a target, the others make up for it.
    result = quick(model, target="macs=0.5", ratios={names[0]: 0.0})
    assert result.report.target is not None and result.report.target.met
    assert names[0] not in {group.name for group in result.plan.groups}
    with pytest.raises(UsageError, match="nearest"):
        onnxprune.plan(model, ratios={names[0] + "s": 0.5})


def test_sensitivity_protects_a_group(tmp_path: Path) -> None:
    model = FAMILIES["resnet"](0)
    name = onnxprune.inspect(model).groups[2].name
    (tmp_path / "s.json").write_text(json.dumps({name: 100}))

    def width(**options: Any) -> int:
        plan = onnxprune.plan(model, ratio=0.5, scope="global", round_to=1, **options)
        return next((g.width for g in plan.groups if g.name == name), 10**6)

    assert width(sensitivity=tmp_path / "s.json") == 10**6 > width()


@pytest.mark.parametrize(
    "text", ["[layer1]\nconv = 0.3", '"a" = "much"', "not toml", '"a" = true', '"a" = 1.0']
)
def test_files_of_ratios_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UsageError, match=r"r\.toml|ratios"):
        Budget(ratios=read_numbers(tmp_path / "r.toml", "ratios"))
    with pytest.raises(UsageError, match="can't be read"):
        read_numbers(tmp_path / "missing.toml", "ratios")


# -- measured widths -----------------------------------------------------------------------------


def stairs(network: Any) -> Cost:
    """A made-up time: convolutions cost whole blocks of 16 channels on both sides."""
    from onnxprune.shapes import infer

    terms = []
    for graph, shapes in infer(network.model.proto):
        for node in graph.node:
            if node.op_type == "Conv":
                i, o = (network.axes[name][1] for name in (node.input[0], node.output[0]))
                work = float(np.prod(shapes[node.output[0]][2:]))
                terms.append(
                    Term(node.name, (i, o), lambda a, b, f=work: f * -(-a // 16) * -(-b // 16))
                )
    return Cost(terms, "ms", fixed=10)


@pytest.mark.parametrize("share", [0.7, 0.5, 0.3])
@pytest.mark.parametrize("family", ["resnet", "densenet", "unet"])
def test_measured_widths_beat_uniform_ones(family: str, share: float) -> None:
    """At the same MACs: more importance, and no slower than the fastest uniform widths."""
    network, groups = read(FAMILIES[family](0))
    scores = Importance().scores(network, groups)
    macs, time = macs_cost(network), stairs(network)
    amount = share * macs.total()
    space = Space.of(network, groups, scores, Budget(target=f"macs={share}", round_to="auto"))
    found = within(space, macs, amount, 0.02, time)
    assert macs.total(space.named(found)) == pytest.approx(amount, rel=0.02)
    for step, ratio in itertools.product((8, 16, 32), np.linspace(0.02, 0.9, 60)):
        widths = [
            nearest(round(g.size * (1 - ratio)), admissible(g.size, fitting(step, g.size)))
            for g in groups
        ]
        if abs(macs.total(space.named(widths)) / amount - 1) > 0.015:
            continue
        slower = time.total(space.named(found)) > time.total(space.named(widths)) * 1.03
        assert not slower
        if time.total(space.named(widths)) <= time.total(space.named(found)):
            assert space.importance(found) >= space.importance(widths) * (1 - 1e-9)


# -- stages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["resnet", "mobilenet", "vit", "decoder"])
def test_stages_compose_to_one_plan(family: str) -> None:
    """Scored anew in between, but one plan of the original: certified, and replayable."""
    model = FAMILIES[family](0)
    result = onnxprune.prune(model, target="params=0.4", steps=3, scope="global", benchmark=False)
    certificate = result.report.certificate
    assert certificate is not None and certificate.ok
    assert result.report.target is not None and result.report.target.met
    assert not [note for note in result.report.notes if "first scores" in note]
    again = onnxprune.apply(model, result.plan, verify=False)
    assert again.model.SerializeToString() == result.model.SerializeToString()
    single = quick(model, target="params=0.4", scope="global")
    assert [g.kept for g in single.plan.groups] != [g.kept for g in result.plan.groups]


def test_a_ratio_in_stages_is_the_ratio() -> None:
    model = FAMILIES["resnet"](0)
    one, three = (onnxprune.plan(model, ratio=0.5, steps=n) for n in (1, 3))
    assert [g.width for g in one.groups] == [g.width for g in three.groups]


# -- guards --------------------------------------------------------------------------------------


def test_a_model_that_is_slower_gets_wider_stairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is made up: only widths of whole blocks of 32 are fast."""
    from onnxprune.latency import Benchmark, Latency

    def fake(a: Any, b: Any, **_: Any) -> Benchmark:
        fast = next(t.dims[0] for t in b.graph.initializer if t.name == "w1") % 32 == 0
        speedup = 1.5 if fast else 0.8
        one = Latency(1.0, 1.0, 1.0, 1)
        other = Latency(1 / speedup, 1.0, 1.0, 1)
        interval = (speedup - 0.05, speedup + 0.05)
        return Benchmark(one, other, speedup, interval, 1, 1, 1, {})

    monkeypatch.setattr(work, "benchmark_models", fake)
    result = onnxprune.prune(two_convs(64), ratio=0.3, verify=False)
    assert result.report.latency is not None and (result.report.latency.speedup or 0) > 1
    assert any("steps" in note for note in result.report.notes)
    # Widths that the user gave stay, and the report says what they cost.
    given = onnxprune.prune(two_convs(64), ratio=0.3, verify=False, round_to=8)
    assert any("slower" in note for note in given.report.notes)


@pytest.mark.parametrize(
    ("target", "steps"),
    [("latency=0.7", 1), ("speedup=1.3", 1), ("latency=28ms", 1), ("latency=0.75", 2)],
)
def test_a_target_of_time_is_met_as_measured(
    monkeypatch: pytest.MonkeyPatch, target: str, steps: int
) -> None:
    """The prediction knows nothing of a fifth of the time; what is measured corrects it."""
    from onnxprune import planning, timing
    from onnxprune.latency import Benchmark, Latency

    def ms(model: Any) -> float:
        return stairs(read(model)[0]).total()

    model = FAMILIES["resnet"](0)
    whole = ms(model)

    def fake(a: Any, b: Any, **_: Any) -> Benchmark:
        first, second = 40.0, 40 * (0.2 + 0.8 * ms(b) / whole)
        one, two = (Latency(t, t, t, 1) for t in (first, second))
        return Benchmark(one, two, first / second, None, 1, 1, 1, {})

    def latency_cost(network: Any, *_: Any, **__: Any) -> timing.Measured:
        return timing.Measured(stairs(network), 40.0, 1)

    monkeypatch.setattr(timing, "latency_cost", latency_cost)
    monkeypatch.setattr(planning, "benchmark", fake)
    monkeypatch.setattr(work, "benchmark_models", fake)
    result = onnxprune.prune(model, target=target, steps=steps, verify=False)
    found, wanted = result.report.target, parse_target(target)
    assert found is not None and found.met and abs(found.off - 1) < 0.05
    assert found.achieved == pytest.approx(wanted.share or wanted.amount, rel=0.05)
    with pytest.raises(CheckFailed, match="can't be met"):
        onnxprune.prune(model, target="latency=0.05", verify=False)
    with pytest.raises(CheckFailed, match="met already"):
        onnxprune.prune(model, target="latency=50ms", verify=False)


def test_kept_sizes_are_the_plan() -> None:
    plan = onnxprune.plan(FAMILIES["vit"](0), ratio=0.5)
    assert all(group.width == kept_size(np.array(group.kept)) for group in plan.groups)


def test_parameters_left_are_predicted() -> None:
    network, groups = read(DIGITS)
    cost = parameters_cost(network)
    result = quick(DIGITS, ratio=0.5)
    widths = {group.dim: group.size for group in groups}
    widths |= {g.dim: p.width for g in groups for p in result.plan.groups if p.name == g.name}
    assert result.report.after is not None
    assert cost.total(widths) == result.report.after.parameters
