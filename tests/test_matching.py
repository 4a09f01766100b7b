"""Patterns applied to one node: the sizes that they give, and what is said where they do not fit.

The operators are made up: a table is all that is known of them, and onnxruntime runs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxprune.errors import RuleError
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.network import Network
from onnxprune.tables import built_in, read_tables
from tests.equivariance import graph_case

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
        # new names have the sizes that are declared where they stand
        ("a -> b a c", [[4]], [3, 4, 7], "[3, 4, 7]"),
        ("n *s c -> n *t c", [[2, 6, 8, 5]], [2, 3, 4, 5], "[2, 3, 4, 5]"),
        ("n *s c -> n *t c", [[2, 6, 8, 5]], [2, 7, 5], "[2, 7, 5]"),
        ("n *s c -> n *t c", [[2, 6, 8, 5]], [2, 5], "[2, 5]"),
        ("a *s -> *t a b", [[4, 5]], [9, 4, 7], "[9, 4, 7]"),
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
        ("a, (a + b) -> b", [[5], [3]], None, "an axis of 3 is too short for runs of 5"),
        ("(a b) -> a", [[6]], None, "the sizes of two factors of one axis are unknown"),
        ("a b -> a", [[6]], None, "rank 1 of 'x0' does not fit the rule"),
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


def test_any_other_attribute_that_is_left_out_says_nothing() -> None:
    table = GROUPED.replace("NAME", "num_heads")
    assert repr(follow(table, [2, 12], num_heads=3).axes_of("y")) == "[2, 4]"
    unknown = "the sizes of two factors of one axis are unknown"
    assert reasons(follow(table, [2, 12])) == [unknown]
    assert reasons(follow(table, [2, 12], num_heads=0)) == [unknown]


def test_a_function_that_needs_a_pattern_asks_for_one() -> None:
    with pytest.raises(RuleError) as caught:
        follow("function = 'conv'", [2, 4, 5, 5], [6, 4, 3, 3])
    assert str(caught.value) == (
        "mine.toml: [my.Op]: the function 'conv' needs a pattern: give `axes` as well"
    )
