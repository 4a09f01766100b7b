"""Patterns applied to one node: the sizes that they give, and what is said where they do not fit.

The operators are made up: a table is all that is known of them, and onnxruntime runs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxprune.axes import leaves
from onnxprune.errors import RuleError
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.network import Network
from onnxprune.tables import built_in, read_tables
from tests.equivariance import graph_case, one
from tests.graphs import make

Shape = Sequence[int]


def follow(table: str, *operands: Shape, output: Shape | None = None, **attributes: Any) -> Network:
    """The axes of one node: its operands are x0, x1, ..., its output y, declared or not."""
    feeds = {f"x{i}": np.ones(shape, np.float32) for i, shape in enumerate(operands)}
    node = helper.make_node("Op", list(feeds), ["y"], domain="my", **attributes)
    model = graph_case("made up", [node], feeds, ["y"]).model
    if output is not None:
        declared = helper.make_tensor_value_info("y", TensorProto.FLOAT, output)
        model.graph.output[0].CopyFrom(declared)
    rules = dict(built_in()) | read_tables(f"['my.Op']\n{table}\n", "mine.toml")
    return infer(load(model), rules, pin_interface=False)


def reasons(network: Network) -> list[str]:
    return [reason for _, reason in network.refused]


@pytest.mark.parametrize(
    ("pattern", "operands", "output", "wanted"),
    [
        # what is left of an axis, by its product or its sum
        ("a, (a b) -> b", [[3], [12]], None, "[4]"),
        ("a, (a + b) -> b", [[3], [12]], None, "[9]"),
        ("a, (a + b) -> b", [[3], [3]], None, "[0]"),
        ("(3 b) -> b", [[12]], None, "[4]"),
        ("a, b, ((a b) + c) -> c", [[2], [3], [10]], None, "[4]"),
        ("a, b, ((a + b) c) -> c", [[2], [3], [10]], None, "[2]"),
        ("a, b -> (a b) (a + b)", [[2], [3]], None, "[(2 3), (2 + 3)]"),
        ("a, b, (a b) -> a b", [[1], [1], [1]], None, "[1, 1]"),
        ("a, *x... -> *x", [[2], [3, 4], [3, 4], [3, 4]], None, "[3, 4]"),
        # new names have the sizes that are declared where they stand
        ("a -> b a c", [[4]], [3, 4, 7], "[3, 4, 7]"),
        ("n *s c -> n *t c", [[2, 6, 8, 5]], [2, 3, 4, 5], "[2, 3, 4, 5]"),
        ("n *s c -> n *t c", [[2, 6, 8, 5]], [2, 7, 5], "[2, 7, 5]"),
        ("n *s c -> n *t c", [[2, 6, 8, 5]], [2, 5], "[2, 5]"),
        ("a *s -> *t a b", [[4, 5]], [9, 4, 7], "[9, 4, 7]"),
        ("n *s, *k -> n *t", [[2, 3, 4], [5]], None, "[2, !?, !?]"),
        ("a *s -> *t (a b) a", [[4, 5]], [9, 8, 4], "[9, (4 2), 4]"),
    ],
)
def test_sizes_that_a_pattern_gives(
    pattern: str, operands: list[Shape], output: Shape | None, wanted: str
) -> None:
    network = follow(f"axes = '{pattern}'", *operands, output=output)
    assert reasons(network) == []
    assert repr(network.axes_of("y")) == wanted


@pytest.mark.parametrize(
    ("pattern", "operands", "output", "reason"),
    [
        ("a, (a b) -> b", [[3], [7]], None, "an axis of 7 is not a multiple of 3"),
        ("a, (a b) -> b", [[0], [7]], None, "an axis of 7 is not a multiple of 0"),
        ("a, (a + b) -> b", [[4], [3]], None, "an axis of 3 is too short for runs of 4"),
        ("(a b) -> a", [[6]], None, "the sizes of two factors of one axis are unknown"),
        ("a b -> a", [[6]], None, "rank 1 of 'x0' does not fit the rule"),
        ("a -> a", [[6, 2]], None, "rank 2 of 'x0' does not fit the rule"),
        ("a *s b -> a", [[6]], None, "rank 1 of 'x0' does not fit the rule"),
        ("a, b -> a", [[6]], None, "operand 1 is missing"),
        ("a -> a", [[6], [6]], None, "2 operands do not fit the pattern 'a -> a'"),
        ("a -> *t", [[6]], None, "the rank of 'y' is unknown"),
        (
            "a -> a b",
            *([[4]], [4]),
            "its rule gives 'y' the shape [4, None], shape inference [4]",
        ),
        (
            "*s a -> b c d *s",
            *([[5, 4]], [9]),
            "its rule gives 'y' the shape [9, None, None, 5], shape inference [9]",
        ),
        (
            "a *s -> *t b c d",
            *([[4, 5]], [9, 8]),
            "its rule gives 'y' the shape [None, None, 9, 8], shape inference [9, 8]",
        ),
    ],
)
def test_what_is_said_of_a_pattern_that_does_not_fit(
    pattern: str, operands: list[Shape], output: Shape | None, reason: str
) -> None:
    assert reasons(follow(f"axes = '{pattern}'", *operands, output=output)) == [reason]


GROUPED = "axes = 'n (g c) -> n c'\nbind = { g = 'NAME' }"


def test_a_group_that_is_left_out_is_one() -> None:
    """As in Conv, also of operators whose schema is not known."""
    assert repr(follow(GROUPED.replace("NAME", "group"), [2, 12]).axes_of("y")) == "[2, 12]"


@pytest.mark.parametrize("name", ["copies", "num_heads"])
def test_any_other_attribute_that_is_left_out_says_nothing(name: str) -> None:
    table = GROUPED.replace("NAME", name)
    assert repr(follow(table, [2, 12], **{name: 3}).axes_of("y")) == "[2, 4]"
    for none in ({}, {name: 0}, {name: -3}):
        network = follow(table, [2, 12], **none)
        assert reasons(network) == ["the sizes of two factors of one axis are unknown"]


@pytest.mark.parametrize(
    ("attribute", "wanted"),
    [("p", "[2, (2 3), 8]"), ("strides", "[!2, !6, !8]"), ("q", "[!2, !6, !8]")],
)
def test_an_attribute_that_is_left_out_has_the_default_of_its_schema(
    attribute: str, wanted: str
) -> None:
    """Where it has one; where it has none, all that is said is that a size is missing."""
    case = one("LpPool", np.ones((2, 6, 8)), kernel_shape=[1])
    table = f"[LpPool]\naxes = 'n (g c) *s -> n (g c) *s'\nbind = {{ g = '{attribute}' }}"
    network = infer(load(case.model), read_tables(table, "mine.toml"), pin_interface=False)
    assert repr(network.axes_of("y0")) == wanted
    assert set(reasons(network)) <= {"the sizes of two factors of one axis are unknown"}


def test_one_name_is_one_axis() -> None:
    """Before a star and after it; and a factor, as it is built."""
    network = follow("axes = 'g, n *s (g c), c n -> c'", [3], [2, 5, 12], [4, 2])
    (g,), (n, s, whole), (c, n_too), (y,) = (
        network.axes_of(name) or () for name in ("x0", "x1", "x2", "y")
    )
    assert [*leaves(whole)] == [*leaves(g), *leaves(c)]
    assert [*leaves(n)] == [*leaves(n_too)] and [*leaves(y)] == [*leaves(c)]
    (record,) = network.records
    summed = {dim for axis in record.contracted for dim in leaves(axis)}
    assert summed == {*leaves(n), *leaves(g)} and not summed & {*leaves(s)}


def test_one_group_leaves_an_axis_as_it_is() -> None:
    """[N, 12] made one axis: the run time knows its size, and its 12 can still be pruned."""
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["r"]),
        helper.make_node("Op", ["r"], ["y"], domain="my"),
    ]
    model = make(
        nodes, {"x": ["N", 12]}, {"y": [None]}, {"flat": np.array([-1])}, domains={"my": 1}
    )
    table = "['my.Op']\naxes = '(g c) -> (g c)'\nbind = { g = 'group' }\n"
    rules = dict(built_in()) | read_tables(table, "mine.toml")
    (axis,) = infer(load(model), rules, pin_interface=False).axes_of("y") or ()
    assert [(dim.size, bool(dim.pins)) for dim in leaves(axis)] == [(None, True), (12, False)]


def test_what_is_marked_is_statistical_and_nothing_else() -> None:
    network = follow("axes = 'c, a [b] [*s] (c [d]), *t -> a b c d'", [4], [2, 3, 5, 12], [6])
    found = [dim.size for axis, _ in network.statistical for dim in leaves(axis)]
    assert found == [3, 5, 3]


def test_a_function_that_needs_a_pattern_asks_for_one() -> None:
    with pytest.raises(RuleError) as caught:
        follow("function = 'conv'", [2, 4, 5, 5], [6, 4, 3, 3])
    assert str(caught.value) == (
        "mine.toml: [my.Op]: the function 'conv' needs a pattern: give `axes` as well"
    )
