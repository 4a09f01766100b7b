"""The latency model: tables over stairs, the cache, and what widths each operator's time hangs on.

Nothing here asserts a time. A fake timer says what an operator takes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.axes import Concat, Dim, Product
from onnxprune.errors import UnsupportedModel
from onnxprune.groups import Group, find_groups
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.network import Network
from onnxprune.rewrite import rewrite
from onnxprune.runtime import find_inputs, session
from onnxprune.tables import with_user_rules
from onnxprune.timing import Measured, hardware, latency_cost
from onnxprune.timing.cache import Cache, default_folder
from onnxprune.timing.executed import Executed, Execution, execute, typical
from onnxprune.timing.stairs import Table, coarse, dense, settled
from onnxprune.timing.templates import Coordinates, Template, evaluate
from onnxprune.timing.tensors import tensor_axes
from onnxprune.timing.timer import Task, onnxruntime_timer
from tests.graphs import make, node, weight


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    yield


# -- a model with every kind of operator -----------------------------------------------------------


def network_of(model: ModelProto) -> tuple[Network, list[Group]]:
    network = infer(load(model), with_user_rules([]))
    return network, [g for g in find_groups(network) if g.role != "second-factor"]


def convolutional() -> ModelProto:
    """Conv, depthwise Conv, residual sum of two Convs, a concatenation, pooling, Gemm."""
    pads: Any = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], **pads),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2", "b2"], ["c2"], group=32, **pads),
        node("Relu", ["c2"], ["r2"]),
        node("Conv", ["r2", "w3"], ["c3"], kernel_shape=[1, 1]),
        node("Conv", ["c3", "w4"], ["c4"], **pads),
        node("Add", ["c3", "c4"], ["s"]),
        node("Relu", ["s"], ["r4"]),
        node("Concat", ["r4", "r2"], ["k"], axis=1),
        node("GlobalAveragePool", ["k"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w5", "b5"], ["y"], transB=1),
    ]
    shapes = {
        **{"w1": (32, 3, 3, 3), "b1": (32,), "w2": (32, 1, 3, 3), "b2": (32,)},
        **{"w3": (48, 32, 1, 1), "w4": (48, 48, 3, 3), "w5": (10, 80), "b5": (10,)},
    }
    weights = {name: weight(name, *shape) for name, shape in shapes.items()}
    return make(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 10]}, weights)


def multiplied(tasks: Sequence[Task]) -> list[float | None]:
    """A fake timer: the multiplications of an operator, and a bit."""
    return [1e-3 + 1e-6 * template.work(at) for template, at in tasks]


def measured(model: ModelProto, **given: object) -> tuple[Measured, list[Group], Execution]:
    network, groups = network_of(model)
    execution = execute(network.model.proto, find_inputs(network.model.proto).feeds[0])
    # Every operator is worth measuring: real times of a small model may be trifles.
    even = [Executed(d.node, 1.0, d.inputs, d.outputs) for d in execution.nodes]
    execution = Execution(even, execution.originals, float(len(even)), execution.constants)
    found = latency_cost(network, execution=execution, **{"timer": multiplied, **given})  # type: ignore[arg-type]
    return found, groups, execution


# -- stairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12, 16, 24, 48, 63, 64, 100, 128, 320, 1000, 2048])
@pytest.mark.parametrize("step", [8, 16])
def test_the_grid_ends_at_the_full_width_and_lies_on_edges(size: int, step: int) -> None:
    for edges in (dense(size, step), coarse(size, step)):
        assert edges == sorted(set(edges)) and edges[-1] == size and edges[0] >= 1
        assert all(edge % step == 0 for edge in edges[:-1] if edge > 2 * step)
        assert len(edges) <= 14


def test_between_edges_time_is_linear_and_on_a_stair_it_is_level() -> None:
    edges = (16, 32, 64, 128)
    table = Table([edges], {(n,): float(n) for n in edges}, [16])
    assert [table(n) for n in (16, 32, 64, 128)] == [16, 32, 64, 128]
    assert table(17) == table(24) == table(32) == 32
    assert table(40) == table(48) == 48
    assert table(4) == 16 and table(500) == 128
    smooth = Table([edges], {(n,): float(n) for n in edges}, [1])
    assert smooth(24) == 24 and smooth(40) == 40


def test_two_axes_are_interpolated_both_ways() -> None:
    ins, outs = (8, 16, 64), (16, 32)
    table = Table([ins, outs], {(i, o): float(i * o) for i in ins for o in outs}, [16, 16])
    assert table.full == 64 * 32
    for i, o in ((16, 16), (32, 32), (48, 16), (33, 17)):
        up = math.ceil(i / 16) * 16, math.ceil(o / 16) * 16
        assert table(i, o) == pytest.approx(up[0] * up[1])


def test_the_pattern_of_four_blocks_repeats() -> None:
    """One block more than fours costs what it did where it was measured, not a quarter of four."""
    edges = dense(512, 16)
    cost = {0: 0.0, 1: 0.4, 2: 0.6, 3: 0.8}
    table = Table([edges], {(n,): n // 64 + cost[n % 64 // 16] + 0.1 for n in edges}, [16])
    for n in range(16, 513, 16):
        if n >= 64:
            assert table(n) == pytest.approx(n // 64 + cost[n % 64 // 16] + 0.1), n
    assert table(209) == table(224) and table(130) == table(144)


def test_blocked_tensors_count_in_whole_blocks() -> None:
    found, groups, _ = measured(convolutional(), timer=lambda tasks: [None] * len(tasks))
    block = hardware.block()
    (wide,) = (group.dim for group in groups if group.size == 48)
    times = [found.cost.total({wide: n}) for n in range(1, block + 1)]
    assert times[-1] - times[0] < (found.cost.total({wide: 48}) - times[-1]) / 4


def test_what_is_wider_bounds_what_is_narrower() -> None:
    noisy: dict[tuple[int, ...], float] = {(16,): 1.0, (32,): 9.0, (64,): 3.0, (66,): 8.0}
    assert settled(noisy) == {(16,): 1.0, (32,): 3.0, (64,): 3.0, (66,): 8.0}


def test_what_preempts_a_run_does_not_count() -> None:
    assert typical([0.3, 0.2, 9.0, 0.25]) == 0.2
    assert typical([0.004, 0.003, 0.003, 0.002, 0.9, 0.9, 0.9, 0.9]) == pytest.approx(0.0025)


# -- the cache -------------------------------------------------------------------------------------


def test_times_come_back_and_are_added_to(tmp_path: Path) -> None:
    here = {"cpu": "a", "threads": 1}
    first, second = Cache(here, tmp_path), Cache(here, tmp_path)
    first.add("conv", {(64, 32): 0.5})
    first.save()
    second.add("conv", {(16, 32): 0.25})
    second.add("gemm", {(8,): 0.125})
    second.save()
    last = Cache(here, tmp_path)
    assert last.times("conv") == {(64, 32): 0.5, (16, 32): 0.25}
    assert last.times("gemm") == {(8,): 0.125} and last.times("other") == {}
    assert [path.name for path in tmp_path.iterdir()] == [last.path.name]  # nothing half written


def test_other_hardware_has_another_file(tmp_path: Path) -> None:
    one, two = (Cache({"cpu": "a", "threads": n}, tmp_path) for n in (1, 2))
    one.add("conv", {(1,): 1.0})
    one.save()
    assert two.path != one.path and two.times("conv") == {}
    fingerprint = hardware.fingerprint(1)
    assert fingerprint != hardware.fingerprint(2)
    assert {"cpu", "features", "cores", "onnxruntime", "provider", "threads"} == set(fingerprint)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "\x00\xff", '{"schema": 1}', '{"schema": 9, "operators": {}}'),
        '{"schema": 1, "hardware": {"cpu": "b"}, "operators": {}}',
        '{"schema": 1, "hardware": {"cpu": "a"}, "operators": {"k": {"x": 1}}}',
        '{"schema": 1, "hardware": {"cpu": "a"}, "operators": {"k": {"1": -1}}}',
        '{"schema": 1, "hardware": {"cpu": "a"}, "operators": {"k": {"1": NaN}}}',
        '{"schema": 1, "hardware": {"cpu": "a"}, "operators": {"k": 3}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_not_used_and_is_noted(tmp_path: Path, text: str) -> None:
    path = Cache({"cpu": "a"}, tmp_path).path
    path.write_text(text, encoding="utf-8")
    notes: list[str] = []
    cache = Cache({"cpu": "a"}, tmp_path, notes.append)
    assert cache.times("k") == {} and str(path) in notes[0]
    cache.add("k", {(1,): 1.0})
    cache.save()
    assert Cache({"cpu": "a"}, tmp_path).times("k") == {(1,): 1.0}


def test_a_folder_that_cant_be_written_is_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / "file").write_text("")
    cache = Cache({"cpu": "a"}, tmp_path / "file" / "folder", notes.append)
    cache.add("k", {(1,): 1.0})
    cache.save()
    assert any("could not be kept" in note for note in notes)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPRUNE_CACHE", "/a/b")
    assert default_folder() == Path("/a/b")
    monkeypatch.delenv("ONNXPRUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert default_folder() == Path("/c/onnxprune")


def test_nothing_is_timed_twice() -> None:
    first, *_ = measured(convolutional())
    asked: list[Task] = []

    def refuses(tasks: Sequence[Task]) -> list[float | None]:
        asked.extend(tasks)
        return [None] * len(tasks)

    again, *_ = measured(convolutional(), timer=refuses)
    assert first.fresh > 0 and first.cached == 0
    assert not asked and again.fresh == 0 and again.cached == first.fresh
    assert again.timed == first.timed > 0


# -- the model -------------------------------------------------------------------------------------


def test_fused_operators_are_one_and_their_axes_are_known() -> None:
    network, _ = network_of(convolutional())
    execution = execute(network.model.proto, find_inputs(network.model.proto).feeds[0])
    kinds = [done.node.op_type for done in execution.nodes]
    assert "Relu" not in kinds and "Add" not in kinds
    assert kinds.count("Conv") + kinds.count("FusedConv") == 4
    assert all(done.ms >= 0 and done.inputs and done.outputs for done in execution.nodes)
    axes = tensor_axes(network, execution)
    for done in execution.nodes:
        for operand in (*done.inputs, *done.outputs):
            assert operand.constant or operand.name in axes, (done.node.op_type, operand)


def test_full_widths_take_what_the_original_takes() -> None:
    found, _, execution = measured(convolutional())
    assert found.cost.total() == pytest.approx(sum(done.ms for done in execution.nodes))
    assert found.cost.unit == "ms" and found.nodes == len(execution.nodes)
    assert found.timed == 5  # four convolutions and the Gemm


def test_each_operator_changes_with_its_own_dims_only() -> None:
    found, groups, _ = measured(convolutional())
    by_size = {group.size: group.dim for group in groups}
    wide, narrow = by_size[48], by_size[32]
    of = {term.where: set(term.axes) for term in found.cost.terms}
    convs = {tuple(sorted(d.size or 0 for d in map(_dim, axes))) for axes in of.values()}
    # First and depthwise; the 1 × 1; the residual; and what reads the concatenation of both.
    assert {(32,), (32, 48), (48,)} <= convs
    assert len(found.cost.terms_of(wide)) >= 4 and len(found.cost.terms_of(narrow)) >= 4


def _dim(axis: object) -> Dim:
    return axis if isinstance(axis, Dim) else Dim(getattr(axis, "size", None))


def test_what_changes_one_width_changes_is_what_all_anew_gives() -> None:
    found, groups, _ = measured(convolutional())
    rng = np.random.default_rng(0)
    tally = found.cost.tally()
    widths: dict[Dim, int] = {}
    for _ in range(50):
        group = groups[rng.integers(len(groups))]
        width = int(rng.integers(1, group.size + 1))
        widths[group.dim] = width
        asked = tally.after(group.dim, width)
        tally.set(group.dim, width)
        assert tally.total == pytest.approx(asked) == pytest.approx(found.cost.total(widths))


def test_less_is_never_predicted_to_take_longer() -> None:
    """Down to a block; below it, tensors have to leave the blocked layout."""
    found, groups, _ = measured(convolutional())
    for group in groups:
        widths = range(hardware.block(), group.size + 1, 4)
        times = [found.cost.total({group.dim: n}) for n in widths]
        assert times == sorted(times) and times[0] < times[-1]


def chain(length: int) -> ModelProto:
    """So many equal convolutions, 32 channels wide, one after the other."""
    nodes, names = [], ["x"]
    for i in range(length):
        nodes.append(node("Conv", [names[-1], f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        names.append(f"c{i}")
    weights = {f"w{i}": weight(f"w{i}", 32, 32, 3, 3) for i in range(length)}
    return make(nodes, {"x": [1, 32, 8, 8]}, {names[-1]: [1, 32, 8, 8]}, weights)


def test_leaving_the_blocked_layout_costs_something() -> None:
    found, _, execution = measured(convolutional())
    reordered = [term for term in found.cost.terms if term.where.endswith(" reordered")]
    if any(done.node.domain == "com.microsoft.nchwc" for done in execution.nodes):
        assert reordered and all(len(term.axes) == 1 for term in reordered)
    for term in reordered:
        assert term.value(hardware.block()) == 0 < term.value(hardware.block() - 1)


def test_identical_operators_are_timed_once(tmp_path: Path) -> None:
    fresh = [measured(chain(n), cache=Cache({"cpu": str(n)}, tmp_path))[0].fresh for n in (3, 4, 9)]
    assert fresh[0] == fresh[1] == fresh[2] > 0


def test_an_operator_that_does_not_run_alone_is_in_proportion() -> None:
    found, groups, execution = measured(convolutional(), timer=lambda tasks: [None] * len(tasks))
    assert found.timed == 0
    assert found.cost.total() == pytest.approx(sum(done.ms for done in execution.nodes))
    assert found.cost.total({g.dim: g.size // 2 for g in groups}) < found.cost.total()


def test_a_model_that_does_not_run_is_named() -> None:
    broken = convolutional()
    broken.graph.node[0].attribute[0].ints[:] = [1, 1]
    with pytest.raises(UnsupportedModel):
        execute(broken, {"x": np.zeros((1, 3, 16, 16), np.float32)})


# -- templates -------------------------------------------------------------------------------------


def test_coordinates_are_the_axes_that_change() -> None:
    a, b, fixed = Dim(12), Dim(64), Dim(3)
    from onnxprune.axes import Pin, pin

    pin(fixed, Pin("fixed"))
    coordinates = Coordinates()
    assert coordinates.size(fixed) == (3, ())
    assert coordinates.size(7) == (7, ())
    assert coordinates.size(Product([a, b])) == (1, (0, 1))
    assert coordinates.size(b) == (1, (1,))
    both = coordinates.size(Concat([a, Product([a, b])]))
    assert both == (1, (2,)) and coordinates.size(Concat([a, Product([a, b])])) == both
    assert coordinates.full == (12, 64, 12 + 12 * 64)
    assert evaluate((2, (0, 1)), (3, 5, 0)) == 30


def test_every_operator_runs_alone_at_any_widths() -> None:
    """What the templates build is what onnxruntime runs, at each corner of the grid."""
    seen: list[Template] = []

    def remember(tasks: Sequence[Task]) -> list[float | None]:
        seen.extend(template for template, _ in tasks)
        return [1.0] * len(tasks)

    measured(convolutional(), timer=remember)
    distinct = {template.key: template for template in seen}
    assert len(distinct) == 5
    tasks = [(t, tuple(e[i] for e in t.edges)) for t in distinct.values() for i in (0, -1)]
    times = onnxruntime_timer(1)(tasks)
    assert all(ms is not None and ms > 0 for ms in times)


def test_a_pruned_model_has_the_operators_that_were_timed() -> None:
    """The shapes that a template has at some widths are those of the model cut to them."""
    network, groups = network_of(convolutional())
    widths = {48: 16, 32: 8}
    choice = {g.dim: np.arange(widths[g.size]) for g in groups}
    pruned = rewrite(network, choice)
    assert session(pruned, optimize=True)
    execution = execute(pruned, find_inputs(pruned).feeds[0])
    channels = {done.outputs[0].shape[1] for done in execution.nodes if "Conv" in done.node.op_type}
    assert channels <= {8, 16, 10}


def test_the_cache_file_is_plain_json() -> None:
    measured(convolutional())
    (path,) = default_folder().glob("times-*.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["schema"] == 1 and document["hardware"] == hardware.fingerprint(1)
    assert all(ms > 0 for times in document["operators"].values() for ms in times.values())
