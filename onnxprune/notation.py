"""The notation of rules: `n (g i) *s, (g o) i *k, (g o)? -> n (g o) *t`.

    n c *s      named axes; `*s` is any number of axes, matched from the right
    (g i)       one axis, the row-major product of two; a number is a fixed factor: `(4 h)`
    (a + b)     one axis made of runs laid end to end
    [c]         statistical: a subset of the axis is meaningful but changes the result
    c?          an optional operand
    .           an operand whose axes the rule says nothing about
    *s...       the last operand, repeated any number of times

A name means the same axis wherever it stands. The letters are those of einops and einx. Parsing is
cached, so a pattern costs nothing when the next node uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from .errors import RuleError


@dataclass(frozen=True)
class Name:
    """An axis by name, or a factor or run of one."""

    name: str
    statistical: bool = False


@dataclass(frozen=True)
class Number:
    """A fixed size."""

    value: int


@dataclass(frozen=True)
class Star:
    """Any number of axes."""

    name: str
    statistical: bool = False


@dataclass(frozen=True)
class Merge:
    """`(a b)`: the row-major product of its factors."""

    factors: tuple[Term, ...]


@dataclass(frozen=True)
class Runs:
    """`(a + b)`: its runs laid end to end."""

    runs: tuple[Term, ...]


Term = Name | Number | Star | Merge | Runs


@dataclass(frozen=True)
class Operand:
    """The axes of one input or output."""

    axes: tuple[Term, ...]
    optional: bool = False
    ignored: bool = False
    repeated: bool = False

    @cached_property
    def star(self) -> int | None:
        """Where the starred term stands among `axes`."""
        for i, term in enumerate(self.axes):
            if isinstance(term, Star):
                return i
        return None


@dataclass(frozen=True)
class Pattern:
    """A parsed rule: the axes of the inputs and of the outputs of one operator."""

    text: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name that stands in the pattern, stars included."""
        return frozenset(
            name for operand in (*self.inputs, *self.outputs) for name in _names(operand.axes)
        )

    @cached_property
    def contracted(self) -> frozenset[str]:
        """Names that stand in an input and in no output: what the operator sums over."""
        outputs = {name for operand in self.outputs for name in _names(operand.axes)}
        return frozenset(
            name for operand in self.inputs for name in _names(operand.axes) if name not in outputs
        )


def _names(terms: tuple[Term, ...]) -> list[str]:
    found = []
    for term in terms:
        if isinstance(term, (Name, Star)):
            found.append(term.name)
        elif isinstance(term, Merge):
            found += _names(term.factors)
        elif isinstance(term, Runs):
            found += _names(term.runs)
    return found


@cache
def parse(text: str) -> Pattern:
    """Read a pattern.

    Raises RuleError, which quotes the pattern and points at the character.
    """
    reader = _Reader(text)
    inputs = reader.operands()
    reader.expect("->")
    outputs = reader.operands()
    if reader.at < len(text):
        reader.fail("an operand, `,` or the end was expected here")
    return Pattern(text, inputs, outputs)


class _Reader:
    """One pass over the characters of a pattern."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._skip()

    def fail(self, message: str, at: int | None = None) -> None:
        at = self.at if at is None else at
        raise RuleError(f"{message}\n    {self.text}\n    {' ' * at}^")

    def _skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def sees(self, token: str) -> bool:
        return self.text.startswith(token, self.at)

    def sees_digit(self) -> bool:
        return self.text[self.at : self.at + 1] in set("0123456789")

    def take(self, token: str) -> bool:
        if not self.sees(token):
            return False
        self.at += len(token)
        self._skip()
        return True

    def expect(self, token: str) -> None:
        if not self.take(token):
            self.fail(f"`{token}` was expected here")

    def operands(self) -> tuple[Operand, ...]:
        if self.at == len(self.text) or self.sees("->"):
            return ()
        found = [self.operand()]
        while not found[-1].repeated and self.take(","):
            found.append(self.operand())  # after a comma there is one, a scalar if it is empty
        return tuple(found)

    def operand(self) -> Operand:
        if self.take("."):
            return Operand((), optional=self.take("?"), ignored=True)
        axes: list[Term] = []
        while self.at < len(self.text) and not any(map(self.sees, (",", "->", "?", "..."))):
            at = self.at
            axes.append(self.axis())
            if isinstance(axes[-1], Star) and any(isinstance(term, Star) for term in axes[:-1]):
                self.fail("one operand can have one `*` only", at)
        return Operand(tuple(axes), optional=self.take("?"), repeated=self.take("..."))

    def axis(self) -> Term:
        if self.take("*"):
            return Star(self.word())
        if self.sees("["):
            return self.bracketed()
        return self.term()

    def bracketed(self) -> Term:
        self.expect("[")
        term: Term = (
            Star(self.word(), statistical=True)
            if self.take("*")
            else Name(self.word(), statistical=True)
        )
        self.expect("]")
        return term

    def term(self) -> Term:
        start = self.at
        if self.take("("):
            return self.group(start)
        if self.sees_digit():
            while self.sees_digit():
                self.at += 1
            value = int(self.text[start : self.at])
            self._skip()
            return Number(value)
        return Name(self.word())

    def group(self, start: int) -> Term:
        """What stands in round brackets: factors, or runs with a `+` between each two of them."""
        terms: list[Term] = []
        plus: bool | None = None
        while not self.sees(")"):
            if self.at >= len(self.text):
                self.fail("this bracket is never closed", start)
            at = self.at
            if terms:
                plus = plus if plus is not None else self.sees("+")
                if self.take("+") != plus:
                    self.fail("runs (`+` between all) and factors (none) can't be mixed", at)
            terms.append(self.bracketed() if self.sees("[") else self.term())
        self.expect(")")
        if not terms:
            self.fail("nothing stands between these brackets", start)
        return Runs(tuple(terms)) if plus else Merge(tuple(terms))

    def word(self) -> str:
        start = self.at
        while self.at < len(self.text) and (self.text[self.at].isalnum() or self.sees("_")):
            self.at += 1
        if start == self.at or self.text[start].isdigit():
            self.fail("a name was expected here", start)
        word = self.text[start : self.at]
        self._skip()
        return word
