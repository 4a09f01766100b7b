"""Plans: written and read, carried out on this model and on others, or refused."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune
from models import FAMILIES, example_inputs
from onnxprune import Plan, PlanMismatch, UsageError
from onnxprune.errors import NotPrunable
from onnxprune.groups import find_groups
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.plans import make_plan
from onnxprune.tables import built_in
from tests.graphs import (
    assert_same,
    constants,
    make,
    node,
    perceptron,
    shapes,
    take,
    tensors,
    two_convs,
    weight,
)

Build = Callable[..., ModelProto]
families = pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES.keys())


# -- what it says --------------------------------------------------------------------------------


def test_it_says_what_is_kept_of_each_group() -> None:
    model = two_convs()
    plan = onnxprune.plan(model, ratio=0.25)
    (group,) = plan.groups
    assert (group.name, group.size, group.kind, group.role) == ("w1", 8, "exact", "channels")
    assert group.members == [("w1", 0), ("b1", 0), ("w2", 1)]
    worst = np.argsort(group.scores)[:2]
    assert group.kept == [i for i in range(8) if i not in worst]
    assert {name: list(axes) for name, axes in plan.kept.items()} == {
        **{"w1": [0], "b1": [0], "w2": [1]}
    }
    for axes in plan.kept.values():
        for index in axes.values():
            assert index.dtype == np.int64
            assert index.tolist() == group.kept


def test_options_and_the_model_are_in_it(tmp_path: Path) -> None:
    onnx.save(two_convs(), tmp_path / "net.onnx")
    plan = onnxprune.plan(tmp_path / "net.onnx", ratio=0.25, round_to=2, only=["channels"])
    document = plan.to_dict()
    assert document["schema"] == 1
    assert document["version"] == onnxprune.__version__
    assert document["model"]["name"] == "net.onnx"
    assert len(document["model"]["sha256"]) == 64
    assert (document["options"]["ratio"], document["options"]["round_to"]) == (0.25, 2)
    assert document["options"]["criterion"] == "group-l2"


@families
def test_it_survives_json(build: Build, tmp_path: Path) -> None:
    plan = onnxprune.plan(build(0))
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again.to_json() == plan.to_json() == (tmp_path / "plan.json").read_text("utf-8")
    assert json.loads(plan.to_json()) == json.loads(json.dumps(plan.to_dict()))
    assert again.groups == plan.groups
    assert again.kept.keys() == plan.kept.keys()
    for name, axes in plan.kept.items():
        for axis, index in axes.items():
            np.testing.assert_array_equal(again.kept[name][axis], index)


def test_names_of_any_alphabet(tmp_path: Path) -> None:
    model = two_convs()
    for each in model.graph.initializer:
        each.name = f"слой/{each.name}\x1b"
    for each in model.graph.node:
        for i, name in enumerate(each.input):
            each.input[i] = f"слой/{name}\x1b" if name[0] in "wb" else name
    plan = onnxprune.plan(model)
    plan.save(tmp_path / "plan.json")
    # Plans are UTF-8 wherever they are read.
    code = "import sys, onnxprune; print(ascii(list(onnxprune.Plan.load(sys.argv[1]).kept)))"
    printed = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, tmp_path / "plan.json"],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == ascii(list(plan.kept))


# -- the same input gives the same bytes ---------------------------------------------------------

_PRUNE = """
import sys, onnxprune
for i, path in enumerate(sys.argv[2:]):
    result = onnxprune.prune(path, verify=False, benchmark=False)
    result.save(f"{sys.argv[1]}/{i}.onnx")
    result.plan.save(f"{sys.argv[1]}/{i}.json")
"""


def test_the_same_input_and_options_give_the_same_bytes(tmp_path: Path) -> None:
    """In two processes that order sets and dictionaries of strings differently."""
    paths = []
    for name, build in FAMILIES.items():
        paths.append(str(tmp_path / f"{name}.onnx"))
        onnx.save(build(0), paths[-1])
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", _PRUNE, folder, *paths],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(written[0]) == 2 * len(FAMILIES)
    assert written[0].keys() == written[1].keys()
    assert [name for name in written[0] if written[0][name] != written[1][name]] == []


# -- `kept`, `model` and `reference` agree -------------------------------------------------------


@families
def test_kept_is_all_that_differs_between_model_and_reference(build: Build) -> None:
    result = onnxprune.prune(build(0), verify=False, benchmark=False)
    kept = result.plan.kept
    before, after = constants(result.reference), constants(result.model)
    assert kept.keys() <= after.keys()
    for name, value in after.items():
        if name not in before:
            # What the model has of its own are sizes, written anew.
            assert value.dtype in (np.int64, np.int32, np.bool_), name
            continue
        np.testing.assert_array_equal(value, take(before[name], kept.get(name, {})), name)
        assert value.dtype == before[name].dtype
    gone = before.keys() - after.keys()
    assert all(before[name].dtype.kind in "ib" for name in gone), gone


@families
def test_state_dict_slices_cut_a_checkpoint_of_the_same_names(build: Build) -> None:
    result = onnxprune.prune(build(0), verify=False, benchmark=False)
    slices = result.plan.to_state_dict_slices()
    json.dumps(slices)
    state = constants(result.reference)
    after = constants(result.model)
    for name, cuts in slices.items():
        value = state[name]
        for axis, indices in cuts:
            value = np.take(value, indices, axis=axis)
        np.testing.assert_array_equal(value, after[name])


@families
def test_permuting_keeps_the_function_and_moves_the_weights(build: Build) -> None:
    model = build(0)
    twin = onnxprune.permute(model, seed=3)
    assert_same(model, twin, example_inputs(model), rtol=1e-4)
    before, after = constants(model), constants(twin)
    moved = [n for n in before if n in after and not np.array_equal(before[n], after[n])]
    # Every weight with a free axis has moved; the same values are in it, in another order.
    assert set(moved) >= set(onnxprune.plan(model).kept) & before.keys()
    for name in moved:
        np.testing.assert_array_equal(np.sort(before[name], None), np.sort(after[name], None))
    other = onnxprune.permute(model, seed=4)
    assert twin.SerializeToString() != other.SerializeToString()
    again = onnxprune.permute(model, seed=3)
    assert twin.SerializeToString() == again.SerializeToString()


# -- on other models -----------------------------------------------------------------------------


@families
def test_a_plan_fits_a_fine_tuned_twin(build: Build) -> None:
    model = build(0)
    result = onnxprune.prune(model, verify=False, benchmark=False)
    twin = build(1)
    applied = onnxprune.apply(twin, result.plan, verify=False)
    before, after = constants(applied.reference), constants(applied.model)
    assert shapes(applied.model) == shapes(result.model)
    assert any(not np.array_equal(after[n], v) for n, v in constants(result.model).items())
    for name, axes in result.plan.kept.items():
        np.testing.assert_array_equal(after[name], take(before[name], axes))


def test_applying_a_plan_to_its_model_is_pruning_it(tmp_path: Path) -> None:
    model = FAMILIES["resnet"](0)
    result = onnxprune.prune(model, ratio=0.3, verify=False, benchmark=False)
    result.plan.save(tmp_path / "plan.json")
    for plan in (result.plan, tmp_path / "plan.json", str(tmp_path / "plan.json")):
        applied = onnxprune.apply(model, plan, verify=False)
        assert applied.model.SerializeToString() == result.model.SerializeToString()


def test_a_plan_fits_a_twin_of_another_exporter() -> None:
    """The same names, but the weight comes transposed, as a Constant, and through an Identity."""
    plan = onnxprune.plan(perceptron())
    twin = perceptron()
    values = constants(twin)
    kept = [tensor for tensor in twin.graph.initializer if tensor.name == "b1"]
    del twin.graph.initializer[:]
    twin.graph.initializer.extend(kept)
    for i, name in enumerate(("w1", "w2")):
        value = numpy_helper.from_array(values[name])
        twin.graph.node.insert(i, node("Constant", [], [name], value=value))
    applied = onnxprune.apply(twin, plan)
    assert shapes(applied.model) == {"b1": (4,), "w1": (6, 4), "w2": (4, 4)}


def test_a_plan_edited_by_hand_is_carried_out() -> None:
    plan = onnxprune.plan(two_convs())
    document = json.loads(plan.to_json())
    document["groups"][0]["kept"] = [0, 7]
    edited = Plan.from_dict(document)
    result = onnxprune.apply(two_convs(), edited)
    np.testing.assert_array_equal(
        constants(result.model)["w1"], constants(two_convs())["w1"][[0, 7]]
    )


def narrower() -> ModelProto:
    return two_convs(6)


def renamed() -> ModelProto:
    model = two_convs()
    for tensor in model.graph.initializer:
        tensor.name = "other." + tensor.name
    for each in model.graph.node:
        for i, name in enumerate(each.input):
            each.input[i] = "other." + name if name[0] in "wb" else name
    return model


def fixed_width() -> ModelProto:
    """The same tensors, but the hidden channels are an output: they can't be cut."""
    model = two_convs()
    model.graph.output.append(onnx.helper.make_tensor_value_info("r", 1, ["N", 8, 8, 8]))
    return model


def less_coupled() -> ModelProto:
    """A second branch, where the plan's model had one, has no bias: the group is another."""
    return make(
        [
            node("Conv", ["x", "w1"], ["c"], pads=[1] * 4),
            node("Conv", ["c", "w2", "b2"], ["d"], pads=[1] * 4),
            node("Conv", ["x", "w3", "b1"], ["e"], pads=[1] * 4),
            node("Conv", ["e", "w4"], ["f"], pads=[1] * 4),
            node("Add", ["d", "f"], ["y"]),
        ],
        {"x": ["N", 3, 8, 8]},
        {"y": ["N", 4, 8, 8]},
        {
            **constants(two_convs()),
            "w3": weight("w3", 8, 3, 3, 3),
            "w4": weight("w4", 4, 8, 3, 3),
        },
    )


@pytest.mark.parametrize("other", [narrower, renamed, fixed_width, perceptron])
def test_a_plan_of_another_model_is_refused(other: Callable[[], ModelProto]) -> None:
    plan = onnxprune.plan(two_convs())
    with pytest.raises(PlanMismatch, match=r"'(w1|b1|w2)'"):
        onnxprune.apply(other(), plan)


def test_a_plan_is_refused_where_its_couplings_are_not_the_model_s() -> None:
    """`b1` belongs to another layer there: a plan with other indices for it would still fit."""
    plan = onnxprune.plan(two_convs())
    applied = onnxprune.apply(less_coupled(), plan)
    assert applied.report.certificate is not None and applied.report.certificate.ok


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_a_plan_of_one_family_does_not_fit_another(name: str) -> None:
    plan = onnxprune.plan(FAMILIES[name](0))
    for other, build in FAMILIES.items():
        if other != name:
            with pytest.raises(PlanMismatch, match="'"):
                onnxprune.apply(build(0), plan, verify=False)


def test_a_model_that_can_lose_nothing_has_no_plan() -> None:
    model = make(
        [node("MatMul", ["x", "w"], ["y"])],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {"w": weight("w", 6, 4)},
    )
    with pytest.raises(NotPrunable, match=r"an axis of the model's (input|output)"):
        onnxprune.plan(model)


# -- damaged -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """A plan with every kind of axis: groups, runs, products."""
    plan = onnxprune.plan(FAMILIES["shufflenet"](0))
    found: dict[str, Any] = json.loads(plan.to_json())
    assert "+" in json.dumps(found["tensors"]) and "*" in json.dumps(found["tensors"])
    return found


@pytest.mark.parametrize("field", ["schema", "model", "options", "groups", "tensors"])
def test_a_plan_without_a_field(document: dict[str, Any], field: str) -> None:
    damaged = {key: value for key, value in document.items() if key != field}
    with pytest.raises(UsageError, match=field):
        Plan.from_dict(damaged, "plan.json")


@pytest.mark.parametrize("field", ["name", "size", "kept", "kind", "role", "scores", "members"])
def test_a_group_without_a_field(document: dict[str, Any], field: str) -> None:
    damaged = copy.deepcopy(document)
    del damaged["groups"][0][field]
    with pytest.raises(UsageError, match=field) as caught:
        Plan.from_dict(damaged, "plan.json")
    assert "plan.json" in str(caught.value)
    assert "__init__" not in str(caught.value)


@pytest.mark.parametrize(
    "kept", [[], [-1], [0, 0], [3, 1], [10**6], [0.5], ["0"], "01", None, {"0": 1}, [[0]], [True]]
)
def test_kept_indices_that_can_not_be(document: dict[str, Any], kept: Any) -> None:
    damaged = copy.deepcopy(document)
    damaged["groups"][0]["kept"] = kept
    with pytest.raises(UsageError, match=r"plan\.json"):
        Plan.from_dict(damaged, "plan.json")


@pytest.mark.parametrize("schema", [0, 2, "1", None, [1]])
def test_another_schema(document: dict[str, Any], schema: Any) -> None:
    with pytest.raises(UsageError, match="schema"):
        Plan.from_dict({**document, "schema": schema})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document; of long lists the first two entries."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(2, len(value))):
            yield from places(value[i], (*path, i))


@pytest.mark.parametrize(
    "wrong",
    [None, -1, 3, 1.5, "x", "*", True, [], {}, ["*"], ["+", "x"], [None], {"0": "x"}, float("nan")],
    ids=str,
)
def test_a_wrong_value_anywhere_is_a_clear_error_or_harmless(
    document: dict[str, Any], wrong: Any
) -> None:
    tried = 0
    for path in places(document):
        # Put the wrong value in its place, try, and put back what was there.
        whole: dict[str, Any] = {"plan": document}
        holder: Any = whole
        for step in (full := ("plan", *path))[:-1]:
            holder = holder[step]
        right, holder[full[-1]] = holder[full[-1]], wrong
        tried += 1
        try:
            Plan.from_dict(whole["plan"], "plan.json").to_json()
        except UsageError as error:
            assert "\n" not in str(error) and "Error" not in str(error)
        finally:
            holder[full[-1]] = right
    assert tried > 300


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\x89PNG\r\n", b"[]", b"null", b"3", b'"plan"', b"{}", b"\xff\xfe", b"[" * 10**5],
    ids=lambda data: repr(data[:10]),
)
def test_files_that_are_no_plan(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"plan\.json: not a plan"):
        Plan.load(path)


def test_no_file_and_a_directory(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(UsageError, match="can't be read"):
            Plan.load(path)


def test_a_plan_cut_anywhere_is_no_plan(tmp_path: Path) -> None:
    text = onnxprune.plan(two_convs()).to_json().rstrip()
    for end in range(0, len(text), 7):
        (tmp_path / "plan.json").write_text(text[:end])
        with pytest.raises(UsageError, match="not a plan"):
            Plan.load(tmp_path / "plan.json")


def test_sizes_that_are_not_the_model_s(document: dict[str, Any]) -> None:
    """A plan whose groups are larger than the tensors is refused when it is applied."""
    plan = json.loads(onnxprune.plan(two_convs()).to_json())
    plan["groups"][0]["size"], plan["groups"][0]["kept"] = 100, [0, 99]
    with pytest.raises(PlanMismatch, match=r"'w1'.*another model"):
        onnxprune.apply(two_convs(), Plan.from_dict(plan))


def test_tensors_are_not_changed_by_reading_them() -> None:
    model = two_convs()
    before = model.SerializeToString()
    assert dict(tensors(model)).keys() == shapes(model).keys()
    assert model.SerializeToString() == before


# -- names, and plans that were edited -----------------------------------------------------------


def test_groups_have_names_of_their_own() -> None:
    """A tensor may be called like a second group of another one."""
    model = make(
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("Reshape", ["h", "shape"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
            node("MatMul", ["t", "w#2"], ["k"]),
            node("MatMul", ["k", "w3"], ["m"]),
            node("ReduceSum", ["m", "axis"], ["y"], keepdims=0),
        ],
        {"x": [7, 5]},
        {"y": [7, 2]},
        {
            **{"w": weight("w", 5, 24), "shape": np.array([7, 4, 6]), "axis": np.array([1])},
            **{"w#2": weight("w#2", 4, 8), "w3": weight("w3", 8, 2)},
        },
    )
    result = onnxprune.prune(model, benchmark=False)
    assert len({group.name for group in result.plan.groups}) == len(result.plan.groups) == 3
    assert shapes(result.model)["w#2"] == (2, 4)


def test_a_plan_may_be_edited_to_keep_all_of_a_group() -> None:
    model = FAMILIES["resnet"]()
    document = json.loads(onnxprune.plan(model).to_json())
    first = document["groups"][0]
    first["kept"] = list(range(first["size"]))
    result = onnxprune.apply(model, Plan.from_dict(document))
    assert shapes(result.model)[first["name"]] == shapes(model)[first["name"]]


@pytest.mark.parametrize("inner", [[0, 2, 1], [0, 1, 1], [1, 0, 0]])
def test_a_zero_in_a_reshape_copies_a_size_of_other_channels(inner: list[int]) -> None:
    """[2, 6, 2] read as [4, 0]: 6 is (2 3) before and (3 2) after, and they lose unlike much."""
    model = make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Reshape", ["h", "before"], ["b"]),
            node("Reshape", ["b", "after"], ["a"]),
            node("ReduceSum", ["a", "axis"], ["s"], keepdims=0),
            node("MatMul", ["s", "w2"], ["y"]),
        ],
        {"x": [7, 5]},
        {"y": [7, 3]},
        {
            **{"w1": weight("w1", 5, 24), "w2": weight("w2", 6, 3), "axis": np.array([1])},
            **{"before": np.array([7, 2, 6, 2]), "after": np.array([7, 4, 0])},
        },
    )
    network = infer(load(model), built_in())
    groups = find_groups(network)
    assert [group.size for group in groups] == [2, 2, 3, 2]
    kept = [np.arange(group.size - lost) for group, lost in zip(groups, [1, *inner], strict=True)]
    scores = [np.ones(group.size) for group in groups]
    plan = make_plan(network, groups, kept, scores, {}, "")
    result = onnxprune.apply(model, plan)
    assert result.report.certificate is not None and result.report.certificate.ok


def test_one_name_where_several_may_be_given_is_one() -> None:
    model = two_convs()
    assert onnxprune.plan(model, only="channels").groups
    with pytest.raises(UsageError, match="'nothing'"):
        onnxprune.plan(model, exclude="nothing")
    with pytest.raises(NotPrunable):
        onnxprune.plan(model, exclude="w1")
