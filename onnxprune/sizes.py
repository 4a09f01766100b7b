"""Sizes that only the run time knows, as elements that shapes are computed with.

An element is a number, a `Size` (a sum of products of such sizes) or `UNKNOWN`. They are added and
multiplied, and a size is compared with a number as far as this holds whatever the size is: none is
below zero. Two sizes are never compared, nor is their difference a number: where one dim may be
broadcast along another, or a file gives two dims one name, they are taken for one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .axes import Axis, Concat, Dim, product, resolve


class _Unknown:
    """An element of which nothing is known; so is everything computed from it."""

    def _same(self, *_: object) -> _Unknown:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _same
    __floordiv__ = __rfloordiv__ = __truediv__ = __rtruediv__ = __mod__ = __rmod__ = _same
    __neg__ = __abs__ = __pow__ = __rpow__ = _same

    def __repr__(self) -> str:
        return "?"


UNKNOWN = _Unknown()

#: A product of sizes that only the run time knows: a number, and the dims.
Term = tuple[int, tuple[Axis, ...]]


@dataclass(frozen=True)
class Size:
    """A sum of products of sizes that only the run time knows, as `2 n t + 1`.

    Terms, and dims in them, are in the order in which they came.
    """

    terms: tuple[Term, ...]

    def _plus(self, other: Any) -> Any:
        mine, terms = _terms(self), _terms(other)
        found = UNKNOWN if mine is None or terms is None else _sum(mine + terms)
        return found if isinstance(found, Size) else UNKNOWN

    __add__ = __radd__ = _plus

    def _times(self, other: Any) -> Any:
        mine, terms = _terms(self), _terms(other)
        if mine is None or terms is None:
            return UNKNOWN
        return _sum([(f * g, a + b) for f, a in mine for g, b in terms])

    __mul__ = __rmul__ = _times

    def __neg__(self) -> Any:
        return self * -1

    def __sub__(self, other: Any) -> Any:
        return self + other * -1

    def __rsub__(self, other: Any) -> Any:
        return other + self * -1

    def __floordiv__(self, other: Any) -> Any:
        """What times `other` is this size, whatever its dims are; UNKNOWN where nothing is."""
        mine, terms = _terms(self), _terms(other)
        if mine is None or not terms:
            return UNKNOWN
        if len(terms) == 1:
            parts = [part for term in mine if (part := _quotient(term, terms[0]))]
            return _sum(parts) if len(parts) == len(mine) else UNKNOWN
        for term in mine:  # (2 n t + 2 n) // (t + 1): one term for each of the divisor's
            part = _quotient(term, terms[0])
            if part is not None and same(_sum([part]) * other, self):
                return _sum([part])
        return UNKNOWN

    __truediv__ = __floordiv__

    def _unknown(self, *_: object) -> object:
        return UNKNOWN

    __mod__ = __rmod__ = __rfloordiv__ = __rtruediv__ = __abs__ = _unknown
    __pow__ = __rpow__ = _unknown


#: A size of more terms, or of a product of more sizes, is not followed.
_TERMS = 16


def _terms(element: object) -> tuple[Term, ...] | None:
    """The terms of an element, in dims as they are now; None where it is no whole number."""
    if isinstance(element, Size):
        found = normal(element)
        return found.terms if isinstance(found, Size) else _terms(found)
    if is_number(element) and float(element).is_integer():  # type: ignore[arg-type]
        return ((int(element), ()),) if element else ()  # type: ignore[call-overload]
    return None


def _sum(terms: Iterable[Term]) -> Any:
    """The terms added up: a Size, or a number where no dim is left; UNKNOWN if too long."""
    found: dict[tuple[int, ...], Term] = {}
    for factor, dims in terms:
        key = tuple(sorted(map(id, dims)))
        before, dims = found.get(key, (0, dims))
        found[key] = before + factor, dims
    left = [term for term in found.values() if term[0]]
    if len(left) > _TERMS or any(len(dims) > _TERMS for _, dims in left):
        return UNKNOWN
    if any(abs(factor) >= 2**63 for factor, _ in left):
        return UNKNOWN  # no size is as large
    if any(dims for _, dims in left):
        return Size(tuple(left))
    return left[0][0] if left else 0


def _quotient(term: Term, by: Term) -> Term | None:
    (factor, dims), (divisor, others) = term, by
    rest = list(dims)
    for dim in others:
        if dim not in rest:
            return None
        rest.remove(dim)
    return (factor // divisor, tuple(rest)) if factor % divisor == 0 else None


def normal(size: Size) -> Any:
    """`size` in dims as they are now: those that have become something else are written out."""
    dims = [axis for _, each in size.terms for axis in each]
    if all(isinstance(axis, Dim) and axis.bound is None for axis in dims):  # mostly so
        return size
    return sum(math.prod(map(size_of, each), start=factor) for factor, each in size.terms)


def ratio(above: Sequence[Any], below: Sequence[Any]) -> Any:
    """One product of sizes over another; UNKNOWN where it is not whole, whatever the sizes are."""
    above, divisor = list(above), 1
    for each in below:
        # Mostly they are the same, and no arithmetic is needed.
        if each in above and each is not UNKNOWN and each != 0:
            above.remove(each)
        else:
            divisor = divisor * each
    total = math.prod(above)
    if isinstance(total, int) and isinstance(divisor, int):
        return total // divisor if divisor and total % divisor == 0 else UNKNOWN
    return total // divisor if isinstance(total, Size) else UNKNOWN


def same(a: object, b: object) -> bool:
    """True where two elements are one number, whatever the sizes are at run time."""
    if is_number(a) and is_number(b):
        return a == b
    one, other = _terms(a), _terms(b)
    return one is not None and other is not None and _alike(one) == _alike(other)


def _alike(terms: Iterable[Term]) -> set[tuple[int, tuple[int, ...]]]:
    return {(factor, tuple(sorted(map(id, dims)))) for factor, dims in terms}


def axis_of(element: object) -> Axis | None:
    """A new axis as long as `element` says, for a tensor that is the same all along it.

    Since it is the same everywhere, it may be read as any axis of that length: as that of the
    tensor whose Shape the element is, or as the usual order of batch and heads.
    """
    if isinstance(element, Size):
        if len(element.terms) > 1:
            return None
        ((factor, dims),) = element.terms
        return product((*dims, Dim(factor))) if factor > 0 else None
    return Dim(int(element)) if is_number(element) else None  # type: ignore[call-overload]


def size_of(axis: Axis) -> Any:
    """The size of an axis as an element."""
    if axis.size is not None:
        return axis.size
    axis = resolve(axis)
    if isinstance(axis, Dim):
        return Size(((1, (axis,)),))
    if len(axis.parts) > _TERMS:
        return UNKNOWN
    sizes = map(size_of, axis.parts)
    if isinstance(axis, Concat):
        return sum(sizes)
    return math.prod(sizes)


def is_number(element: object) -> bool:
    """True where an element is known."""
    return isinstance(element, (int, float, np.integer, np.floating, bool, np.bool_))


def range_of(element: object) -> tuple[float, float]:
    """The least and the greatest number that an element may be: no size is below zero."""
    if is_number(element):
        return element, element  # type: ignore[return-value]
    if not isinstance(element, Size):
        return -math.inf, math.inf
    alone = sum(factor for factor, dims in element.terms if not dims)
    factors = [factor for factor, dims in element.terms if dims]
    return (
        alone if min(factors) > 0 else -math.inf,
        alone if max(factors) < 0 else math.inf,
    )


def difference(a: Any, b: Any) -> tuple[float, float]:
    """The least and the greatest number that `a - b` may be."""
    if isinstance(a, Size) and isinstance(b, Size):
        return -math.inf, math.inf
    return range_of(a - b)


def equal(a: Any, b: Any) -> Any:
    """Whether two elements are one number; UNKNOWN where that hangs on the sizes."""
    if is_number(a) and is_number(b):
        return a == b
    least, most = difference(a, b)
    return False if least > 0 or most < 0 else UNKNOWN


def larger(a: Any, b: Any) -> Any:
    """The larger of two elements; UNKNOWN where that hangs on the sizes."""
    if is_number(a) and is_number(b):
        return max(a, b)
    least, most = difference(a, b)
    return a if least >= 0 else b if most <= 0 else UNKNOWN


def smaller(a: Any, b: Any) -> Any:
    """The smaller of two elements; UNKNOWN where that hangs on the sizes."""
    if is_number(a) and is_number(b):
        return min(a, b)
    least, most = difference(a, b)
    return b if least >= 0 else a if most <= 0 else UNKNOWN
