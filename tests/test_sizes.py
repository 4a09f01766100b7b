"""Sizes that only the run time knows are computed with as numbers are, whatever they will be."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from onnxprune.axes import Concat, Dim, Product
from onnxprune.sizes import UNKNOWN, Size, axis_of, normal, ratio, same, size_of
from onnxprune.values import OPERATORS

Expression = tuple[Any, ...] | int | str


def _expressions() -> st.SearchStrategy[Expression]:
    leaf = st.sampled_from(["a", "b", "c", "pair", "runs"]) | st.integers(0, 6)
    return st.recursive(
        leaf, lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner), max_leaves=7
    )


def _evaluated(expression: Expression, given: dict[str, Any]) -> Any:
    if isinstance(expression, tuple):
        operation, *operands = expression
        a, b = (_evaluated(each, given) for each in operands)
        return a + b if operation == "+" else a - b if operation == "-" else a * b
    return given[expression] if isinstance(expression, str) else expression


@given(_expressions(), _expressions(), st.permutations([2, 3, 5]), st.booleans())
def test_sizes_are_computed_as_numbers_are(
    one: Expression, other: Expression, sizes: list[int], late: bool
) -> None:
    """Sums, differences and products of sizes; what divides exactly does so for all sizes."""
    a, b, c, pair, runs = dims = [Dim(None) for _ in range(5)]
    symbols = {name: size_of(dim) for name, dim in zip("abc", dims, strict=False)}
    symbols |= {"pair": size_of(pair), "runs": size_of(runs)}
    if not late:  # else what the dims become is only known once they have been computed with
        pair.bound, runs.bound = Product((a, b)), Concat((a, c, Dim(4)))
    x, y = _evaluated(one, symbols), _evaluated(other, symbols)
    pair.bound, runs.bound = Product((a, b)), Concat((a, c, Dim(4)))
    numbers = dict(zip("abc", sizes, strict=True))
    numbers |= {"pair": sizes[0] * sizes[1], "runs": sizes[0] + sizes[2] + 4}
    m, n = _evaluated(one, numbers), _evaluated(other, numbers)

    def number(element: Any) -> int | None:
        if isinstance(element, Size):
            element = normal(element)
        if isinstance(element, Size):
            known = {a: sizes[0], b: sizes[1], c: sizes[2]}
            return sum(
                math.prod([known[dim] for dim in each if isinstance(dim, Dim)], start=factor)
                for factor, each in element.terms
            )
        assert isinstance(element, int) or element is UNKNOWN
        return element if isinstance(element, int) else None

    assume(number(x) is not None and number(y) is not None)  # else they have too many terms
    assert (number(x), number(y)) == (m, n)
    assert not same(x, y) or m == n
    if isinstance(x, Size) and not same(y, 0):
        product, plain = x * y, normal(x)
        if number(product) is not None and (isinstance(plain, int) or len(plain.terms) == 1):
            assert same(product // y, x)
        quotient = x // y
        assert quotient is UNKNOWN or number(quotient) * n == m
    for name, compare in {
        **{"Equal": operator.eq, "Less": operator.lt, "LessOrEqual": operator.le},
        **{"Greater": operator.gt, "GreaterOrEqual": operator.ge, "Max": max, "Min": min},
    }.items():
        operands = (np.array([each, None], dtype=object)[:1] for each in (x, y))
        (found,) = OPERATORS[name](None, *operands).tolist()
        assert found is UNKNOWN or number(found) == compare(m, n), name  # type: ignore[operator]


def test_what_is_known_of_sizes_that_are_not() -> None:
    """No size is below zero: exporters ask whether one is -1, and what is larger, it or 0."""
    size = size_of(Dim(None))

    def ask(name: str, a: object, b: object) -> object:
        operands = (np.array([each, None], dtype=object)[:1] for each in (a, b))
        return OPERATORS[name](None, *operands).item()

    assert ask("Equal", size, -1) is False
    assert ask("Equal", size * 3 + 1, 0) is False
    assert ask("Equal", size, 1) is UNKNOWN
    assert ask("Less", size * 2 + 1, 1) is False
    assert ask("Greater", size, -1) is True
    assert ask("GreaterOrEqual", 0, size * -1) is True
    assert ask("Less", size, 4) is UNKNOWN
    assert ask("Max", size, 0) is size
    assert ask("Min", size, 0) == 0
    assert ask("Max", size, UNKNOWN) is UNKNOWN


def test_sizes_are_not_compared_with_each_other() -> None:
    """One that may be broadcast along another is taken for it: they need not be equal."""
    size = size_of(Dim(None))
    operands = [np.array([each, None], dtype=object)[:1] for each in (size, size * 2)]
    for name in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Max", "Min"):
        assert OPERATORS[name](None, operands[0], operands[1]).item() is UNKNOWN
        assert OPERATORS[name](None, operands[0], operands[0]).item() is UNKNOWN
    assert size - size is UNKNOWN
    assert size * 2 - size == size


def test_dims_stay_in_the_order_in_which_they_came() -> None:
    """A flat tensor of `n t 8` elements is read as one of n, t and 8, wherever these lie."""
    for _ in range(20):
        n, t = Dim(None), Dim(None)
        found = axis_of(size_of(n) * size_of(t) * 8)
        assert isinstance(found, Product) and list(found.parts[:2]) == [n, t]
        found = axis_of(size_of(t) * 8 * size_of(n))
        assert isinstance(found, Product) and list(found.parts[:2]) == [t, n]
        assert same(size_of(t) * size_of(n), size_of(n) * size_of(t))


def test_sizes_do_not_grow_without_end() -> None:
    """A damaged file may square a size forty times over, or add up thousands."""
    size = size_of(Dim(None))
    for _ in range(40):
        size = size * size
    assert size is UNKNOWN
    total = size_of(Dim(None))
    for _ in range(100):
        total = total + size_of(Dim(None))
    assert total is UNKNOWN
    assert size_of(Dim(None)) * 2**62 * 2 is UNKNOWN


def test_a_ratio_is_whole_or_unknown() -> None:
    n, t = size_of(Dim(None)), size_of(Dim(None))
    assert ratio([n, t, 12], [t, 4, n]) == 3
    assert same(ratio([n, 2 * t, 64], [2, n]), 64 * t)
    assert same(ratio([n * t], [t]), n)
    assert ratio([12], [5]) is UNKNOWN
    assert ratio([n, 4], [t]) is UNKNOWN
    assert ratio([UNKNOWN, 4], [UNKNOWN]) is UNKNOWN
    assert ratio([0, n], [0]) is UNKNOWN
    assert ratio([n, 0], [n]) == 0
