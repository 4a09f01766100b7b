"""The notation of rules: what patterns mean, and what is said of those that mean nothing."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from onnxprune.errors import RuleError
from onnxprune.notation import Merge, Name, Number, Operand, Runs, Star, parse

A, B, C, G, H, I, N, O = map(Name, "abcghino")  # noqa: E741


def operand(*axes: Name | Number | Star | Merge | Runs) -> Operand:
    return Operand(axes)


VALID = {
    "a -> a": ([operand(A)], [operand(A)]),
    "n c -> c n": ([operand(N, C)], [operand(C, N)]),
    "*x -> *x": ([operand(Star("x"))], [operand(Star("x"))]),
    "*b n c, c -> *b n": ([operand(Star("b"), N, C), operand(C)], [operand(Star("b"), N)]),
    "a, b? -> a": ([operand(A), Operand((B,), optional=True)], [operand(A)]),
    "a, a b? -> a": ([operand(A), Operand((A, B), optional=True)], [operand(A)]),
    "a, . -> a": ([operand(A), Operand((), ignored=True)], [operand(A)]),
    "a, .? -> a": ([operand(A), Operand((), ignored=True, optional=True)], [operand(A)]),
    "*x... -> *x": ([Operand((Star("x"),), repeated=True)], [operand(Star("x"))]),
    "a, *x... -> a": ([operand(A), Operand((Star("x"),), repeated=True)], [operand(A)]),
    "(g i) -> (g o)": ([operand(Merge((G, I)))], [operand(Merge((G, O)))]),
    "(4 h) -> h": ([operand(Merge((Number(4), H)))], [operand(H)]),
    "(4h) -> h": ([operand(Merge((Number(4), H)))], [operand(H)]),
    "12 a -> a": ([operand(Number(12), A)], [operand(A)]),
    "(a + b) -> a, b": ([operand(Runs((A, B)))], [operand(A), operand(B)]),
    "(a+b+a) -> a": ([operand(Runs((A, B, A)))], [operand(A)]),
    "(a) -> a": ([operand(Merge((A,)))], [operand(A)]),
    "((a + b) c) -> c": ([operand(Merge((Runs((A, B)), C)))], [operand(C)]),
    "((a b) + c) -> c": ([operand(Runs((Merge((A, B)), C)))], [operand(C)]),
    "n [c] -> n c": ([operand(N, Name("c", statistical=True))], [operand(N, C)]),
    "n c [*s] -> n c": ([operand(N, C, Star("s", statistical=True))], [operand(N, C)]),
    "(g [c]) -> (g c)": (
        [operand(Merge((G, Name("c", statistical=True))))],
        [operand(Merge((G, C)))],
    ),
    "-> a": ([], [operand(A)]),
    "a ->": ([operand(A)], []),
    "a -> a, , ": ([operand(A)], [operand(A), operand(), operand()]),
    ", a -> a": ([operand(), operand(A)], [operand(A)]),
    "  n   c->c  ": ([operand(N, C)], [operand(C)]),
    "row_1 é -> row_1": ([operand(Name("row_1"), Name("é"))], [operand(Name("row_1"))]),
}


@pytest.mark.parametrize("text", VALID)
def test_what_a_pattern_means(text: str) -> None:
    pattern = parse(text)
    inputs, outputs = VALID[text]
    assert list(pattern.inputs) == inputs
    assert list(pattern.outputs) == outputs
    assert pattern.text == text


#: pattern, the column that is pointed at, and words of the message
INVALID = [
    ("", 0, "`->` was expected"),
    ("n c", 3, "`->` was expected"),
    ("n c - > c", 4, "a name was expected"),
    ("n c > c", 4, "a name was expected"),
    ("n c -> c -> n", 9, "the end was expected"),
    ("n c, (g i -> g", 10, "a name was expected"),
    ("n (g i", 2, "never closed"),
    ("n ((a b) c", 2, "never closed"),
    ("n g) -> g", 3, "a name was expected"),
    ("n () -> n", 2, "nothing stands between"),
    ("n [c -> n", 5, "`]` was expected"),
    ("n [] -> n", 3, "a name was expected"),
    ("n [c d] -> n", 5, "`]` was expected"),
    ("n [4] -> n", 3, "a name was expected"),
    ("* -> n", 2, "a name was expected"),
    ("*4 -> n", 1, "a name was expected"),
    ("*a n *b -> n", 5, "one operand can have one `*` only"),
    ("*a [*b] -> n", 3, "one operand can have one `*` only"),
    ("(a *b) -> a", 3, "a name was expected"),
    ("(a + ) -> a", 5, "a name was expected"),
    ("(+ a) -> a", 1, "a name was expected"),
    ("(a b + c) -> a", 5, "can't be mixed"),
    ("(a + b c) -> a", 7, "can't be mixed"),
    ("n c! -> n", 3, "a name was expected"),
    ("a? b -> a", 3, "`->` was expected"),
    ("?? -> a", 1, "`->` was expected"),
    (". a -> a", 2, "`->` was expected"),
    ("*x..., y -> y", 5, "`->` was expected"),
    ("a, *x..., b -> a", 8, "`->` was expected"),
    ("a -> *x..., b", 10, "the end was expected"),
    ("a b -> a²=", 9, "a name was expected"),
]


@pytest.mark.parametrize(("text", "column", "words"), INVALID)
def test_an_error_quotes_the_pattern_and_points_at_the_character(
    text: str, column: int, words: str
) -> None:
    with pytest.raises(RuleError) as caught:
        parse(text)
    message, quoted, pointer = str(caught.value).split("\n")
    assert words in message
    assert quoted == f"    {text}"
    assert pointer == f"    {' ' * column}^"


def test_the_names_of_a_pattern() -> None:
    pattern = parse("n (g i) *s, (g o) i *k, (g o)? -> n (g o) *t")
    assert pattern.names == set("ngisokt")
    assert pattern.contracted == {"i", "s", "k"}
    assert parse("n c [*s], (c + [d]) -> n c").contracted == {"s", "d"}


def test_where_the_star_stands() -> None:
    (x, y, z), _ = parse("*x c, n *s, a b -> n").inputs, None
    assert (x.star, y.star, z.star) == (0, 1, None)


def test_parsing_is_cached() -> None:
    assert parse("n c -> c") is parse("n c -> c")


def test_what_is_not_marked_is_nothing_special() -> None:
    (operand,) = parse("a *s -> a").inputs
    assert not (operand.optional or operand.ignored or operand.repeated)
    name, star = operand.axes
    assert isinstance(name, Name) and not name.statistical
    assert isinstance(star, Star) and not star.statistical


def test_patterns_are_values() -> None:
    """What is cached is read by many, and changed by none."""
    pattern = parse("n (4 [c]) (a + b), *s -> n")
    assert len({pattern, parse("n (4 [c]) (a + b), *s -> n")}) == 1
    whole, starred = pattern.inputs
    name, merge, runs = whole.axes
    assert isinstance(merge, Merge)
    for each in (pattern, whole, name, merge, runs, merge.factors[0], starred.axes[0]):
        assert isinstance(hash(each), int)
        for field in fields(each):
            with pytest.raises(FrozenInstanceError):
                setattr(each, field.name, None)
