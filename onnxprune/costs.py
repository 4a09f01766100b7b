"""What a choice of widths costs: MACs, parameters, bytes, milliseconds, all in one form.

A *width* is the number of indices that a dim keeps. A `Cost` is a sum of `Term`s, and a term is any
function of the sizes of a few axes: a convolution's MACs are the product of its output's and its
kernel's sizes, its time a table of the channels that go in and come out. Widths that a mapping
leaves out are full.

`Cost.tally` keeps the sizes of all axes and the values of all terms, so what one dim's width
changes is found in microseconds, whatever the model's size: only the terms that the dim is part of
are computed anew.

Who brings a cost of their own (the latency model does: `latency_cost(network, shapes, threads)`)
writes terms, and nothing else:

    Cost([Term("conv1", (x_channels, y_channels), lambda i, o: table[i, o])], "ms")

Nothing here knows ONNX.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from .axes import Axis, Concat, Dim, Pin, Product, resolve

#: How many indices each dim keeps; a dim that is not in it keeps all.
Widths = Mapping[Dim, int]

#: A polynomial in the widths of dims: coefficient of each monomial, a sorted tuple of dim numbers.
_Polynomial = dict[tuple[int, ...], int]


@dataclass(frozen=True)
class Term:
    """`value(*sizes)`, where `sizes` are those of `axes` under the widths in question.

    The sizes of all axes must be known: see `at_size` for those that only the run time knows.
    """

    #: The node or tensor that causes it: for messages.
    where: str
    axes: tuple[Axis, ...]
    value: Callable[..., float]


@dataclass(frozen=True)
class Scaled:
    """A term's value that is the product of its sizes, times a factor."""

    factor: float = 1

    def __call__(self, *sizes: int) -> float:
        return math.prod(sizes) * self.factor


class Cost:
    """A sum of terms, and of what no width changes."""

    def __init__(self, terms: Iterable[Term], unit: str, fixed: float = 0) -> None:
        self.terms = tuple(terms)
        self.unit = unit
        self.fixed = fixed

    def total(self, widths: Widths | None = None) -> float:
        """The cost at these widths, in `unit`."""
        return self.tally(widths).total

    def tally(self, widths: Widths | None = None) -> Tally:
        """The cost at these widths, ready to be changed width by width."""
        return Tally(self._compiled, widths or {})

    def terms_of(self, dim: Dim) -> list[Term]:
        """The terms that the width of `dim` changes."""
        compiled = self._compiled
        number = compiled.numbers.get(dim)
        return [] if number is None else [self.terms[i] for i, _, _ in compiled.terms_of[number]]

    @cached_property
    def _compiled(self) -> _Compiled:
        return _Compiled(self)


class Tally:
    """A cost at certain widths; `after` asks what a change would make of it, `set` makes it."""

    def __init__(self, compiled: _Compiled, widths: Widths) -> None:
        self._compiled = compiled
        self._widths = [widths.get(dim, dim.size or 0) for dim in compiled.dims]
        self._sizes = [_evaluate(form, self._widths) for form in compiled.forms]
        self._values = [value(*[self._sizes[i] for i in sizes]) for sizes, value in compiled.values]
        #: The cost, in the cost's unit.
        self.total: float = compiled.fixed + sum(self._values)

    def width(self, dim: Dim) -> int:
        """How many indices of `dim` are kept."""
        number = self._compiled.numbers.get(dim)
        return dim.size or 0 if number is None else self._widths[number]

    def after(self, dim: Dim, width: int) -> float:
        """The cost if `dim` had this width and all others stayed."""
        number = self._compiled.numbers.get(dim)
        if number is None:
            return self.total
        new, old, total = self._resized(number, width), self._sizes, self.total
        for i, parts, value in self._compiled.terms_of[number]:
            total += value(*[new[p] if p in new else old[p] for p in parts]) - self._values[i]
        return total

    def set(self, dim: Dim, width: int) -> None:
        """Give `dim` this width."""
        number = self._compiled.numbers.get(dim)
        if number is None:
            return
        for i, size in self._resized(number, width).items():
            self._sizes[i] = size
        self._widths[number] = width
        for i, parts, value in self._compiled.terms_of[number]:
            now = value(*[self._sizes[p] for p in parts])
            self.total += now - self._values[i]
            self._values[i] = now

    def _resized(self, number: int, width: int) -> dict[int, int]:
        """The sizes of axes that a dim's width would change."""
        widths = self._widths
        step = width - widths[number]
        sizes = {}
        for i, slope in self._compiled.forms_of[number]:
            if isinstance(slope, int):
                sizes[i] = self._sizes[i] + step * slope
            elif slope is not None:
                sizes[i] = self._sizes[i] + step * _evaluate(slope, widths)
            else:
                before, widths[number] = widths[number], width
                sizes[i] = _evaluate(self._compiled.forms[i], widths)
                widths[number] = before
        return sizes


class _Compiled:
    """A cost's axes as polynomials in numbered dims, each distinct one once."""

    def __init__(self, cost: Cost) -> None:
        self.fixed = cost.fixed
        self.dims: list[Dim] = []
        self.numbers: dict[Dim, int] = {}
        self.forms: list[_Polynomial] = []
        known: dict[tuple[tuple[tuple[int, ...], int], ...], int] = {}
        self.values: list[tuple[tuple[int, ...], Callable[..., float]]] = []
        for term in cost.terms:
            parts = []
            for axis in term.axes:
                form = self._polynomial(axis)
                key = tuple(sorted(form.items()))
                if key not in known:
                    known[key] = len(self.forms)
                    self.forms.append(form)
                parts.append(known[key])
            self.values.append((tuple(parts), term.value))
        #: By dim: the forms that it is in, each with its slope (None where that is not linear).
        self.forms_of: list[list[tuple[int, int | _Polynomial | None]]] = [[] for _ in self.dims]
        for i, form in enumerate(self.forms):
            for number in {n for monomial in form for n in monomial}:
                self.forms_of[number].append((i, _slope(form, number)))
        #: By dim: the terms that it is in: number, forms, function.
        self.terms_of: list[list[tuple[int, tuple[int, ...], Callable[..., float]]]] = [
            [] for _ in self.dims
        ]
        for i, (forms, value) in enumerate(self.values):
            for number in {n for form in forms for monomial in self.forms[form] for n in monomial}:
                self.terms_of[number].append((i, forms, value))

    def _polynomial(self, axis: Axis) -> _Polynomial:
        axis = resolve(axis)
        if isinstance(axis, Dim):
            if axis.size is None:
                raise ValueError("the size of an axis of a cost's term is not known")
            if axis.pinned or axis.size <= 1:
                return {(): axis.size}
            if axis not in self.numbers:
                self.numbers[axis] = len(self.dims)
                self.dims.append(axis)
            return {(self.numbers[axis],): 1}
        found: _Polynomial = {(): 1} if isinstance(axis, Product) else {}
        for part in axis.parts:
            other = self._polynomial(part)
            if isinstance(axis, Concat):
                for monomial, factor in other.items():
                    found[monomial] = found.get(monomial, 0) + factor
            else:
                merged: dict[tuple[int, ...], int] = defaultdict(int)
                for a, x in found.items():
                    for b, y in other.items():
                        merged[tuple(sorted(a + b))] += x * y
                found = dict(merged)
        return found


def _evaluate(form: _Polynomial, widths: list[int]) -> int:
    total = 0
    for monomial, factor in form.items():
        for number in monomial:
            factor *= widths[number]
        total += factor
    return total


def _slope(form: _Polynomial, number: int) -> int | _Polynomial | None:
    """By how much one more index of a dim widens an axis: a number, or it depends on other dims."""
    slope: _Polynomial = {}
    for monomial, factor in form.items():
        if monomial.count(number) > 1:
            return None
        if number in monomial:
            rest = tuple(n for n in monomial if n != number)
            slope[rest] = slope.get(rest, 0) + factor
    return slope[()] if slope.keys() == {()} else slope


def at_size(axis: Axis, size: int) -> Axis:
    """`axis` for a run in which it has `size` indices: what only the run time knows is fixed.

    `(n 12)` at 24 is `(2 12)`. Where the size contradicts the axis, or there is no telling which
    part of it is how large, the result is a dim of that size that can't be pruned.
    """
    axis = resolve(axis)
    if axis.size == size:
        return axis
    if axis.size is None and not isinstance(axis, Dim):
        unknown = [part for part in axis.parts if part.size is None]
        known = axis._combine([part.size for part in axis.parts if part.size is not None])
        if isinstance(axis, Product) and known and size % known == 0:
            rest = size // known
        elif isinstance(axis, Concat) and size > known:
            rest = size - known
        else:
            rest = 0
        if rest and len(unknown) == 1:
            fixed = at_size(unknown[0], rest)
            return type(axis)([fixed if p.size is None else p for p in axis.parts])
        if rest and isinstance(axis, Product):
            # Their sizes one by one do not matter, only their product.
            return Product([*(p for p in axis.parts if p.size is not None), _whole(rest)])
    return _whole(size)


def _whole(size: int) -> Dim:
    """A dim that no width changes."""
    return Dim(size, (Pin("its size is only known at run time"),))
