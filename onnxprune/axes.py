"""The algebra of axes: every tensor axis is an expression over *dims*, every operator an equation.

    Axis := Dim                one run of channels
          | Concat(Axis, ...)  runs laid end to end
          | Product(Axis, ...) the row-major merge of several axes

`unify` makes two axes equal, as a type checker unifies types: dims merge, are cut (`split`) or are
factored until both sides read the same. What has no common form is *pinned*, with its reason, and
a pinned dim keeps all of its indices: that is always safe. Once every equation of a graph has been
unified, a dim that is not pinned can lose any subset of its indices, and `select` gives the
positions that remain on every axis it occurs in.

Sizes never change. A size of `None` is one that only the run time knows; such dims are pinned.

Nothing here knows ONNX. The idea of coupled channels is DepGraph's ("Towards Any Structural
Pruning", CVPR 2023); coupling by unification with index mapping is this project's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import product as combinations
from operator import is_
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
T = TypeVar("T")


class Pin(NamedTuple):
    """Why a dim keeps all of its indices: a sentence, and the node or tensor that says so."""

    reason: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.where})" if self.where else self.reason


class Dim:
    """One run of `size` channels; the atom that is pruned as a whole or in part.

    A dim that has been merged, cut or factored is `bound` to what it has become: read it through
    `resolve`.
    """

    __slots__ = ("_size", "bound", "pins")

    #: Several reasons may pin one dim; this many are kept for the person who asks.
    MAX_PINS = 3

    def __init__(self, size: int | None, pins: tuple[Pin, ...] = ()) -> None:
        self._size = size
        self.pins = pins
        self.bound: Axis | None = None

    @property
    def size(self) -> int | None:
        if self._size is None and self.bound is not None:
            self._size = self.bound.size
        return self._size

    @property
    def pinned(self) -> bool:
        return bool(self.pins)

    def __repr__(self) -> str:
        if self.bound is not None:
            return repr(resolve(self))
        return f"{'!' if self.pins else ''}{'?' if self._size is None else self._size}"


class _Compound:
    """What Concat and Product share: children, and a size that is computed once it is known."""

    __slots__ = ("_size", "parts")

    def __init__(self, parts: Sequence[Axis]) -> None:
        self.parts = tuple(parts)
        self._size: int | None = None

    @property
    def size(self) -> int | None:
        if self._size is None:
            sizes = [part.size for part in self.parts]
            if None not in sizes:
                self._size = self._combine([s for s in sizes if s is not None])
        return self._size

    @staticmethod
    def _combine(sizes: list[int]) -> int:
        raise NotImplementedError


class Concat(_Compound):
    """Runs laid end to end."""

    __slots__ = ()

    @staticmethod
    def _combine(sizes: list[int]) -> int:
        return sum(sizes)

    def __repr__(self) -> str:
        return "(" + " + ".join(map(repr, self.parts)) + ")"


class Product(_Compound):
    """The row-major merge of several axes, the outermost first. The empty product has size 1."""

    __slots__ = ()

    @staticmethod
    def _combine(sizes: list[int]) -> int:
        return reduce(lambda a, b: a * b, sizes, 1)

    def __repr__(self) -> str:
        return "(" + " ".join(map(repr, self.parts)) + ")"


Axis = Dim | Concat | Product


# -- reading -------------------------------------------------------------------------------------


def concat(parts: Iterable[Axis]) -> Axis:
    """The runs `parts` end to end, in normal form: flat, without empty runs."""
    flat: list[Axis] = []
    todo = [iter(parts)]
    while todo:  # a stack, not recursion: a dim that was cut 2,000 times is a chain of that depth
        for part in todo[-1]:
            while isinstance(part, Dim) and part.bound is not None:
                part = part.bound
            if not isinstance(part, Concat):
                part = resolve(part)
            if isinstance(part, Concat):
                todo.append(iter(part.parts))
                break
            if part.size != 0:
                flat.append(part)
        else:
            todo.pop()
    if len(flat) == 1:
        return flat[0]
    return Concat(flat) if flat else Dim(0)


def product(factors: Iterable[Axis]) -> Axis:
    """The row-major merge of `factors`, in normal form: flat, without factors of size 1."""
    flat: list[Axis] = []
    for factor in factors:
        factor = resolve(factor)
        if isinstance(factor, Product):
            flat.extend(factor.parts)
        elif factor.size != 1:
            flat.append(factor)
    return flat[0] if len(flat) == 1 else Product(flat)


def resolve(axis: Axis) -> Axis:
    """What `axis` has become, in normal form. Bindings met on the way are shortened."""
    if isinstance(axis, Dim):
        if axis.bound is None:
            return axis
        chain = []
        end: Axis = axis
        while isinstance(end, Dim) and end.bound is not None:
            chain.append(end)
            end = end.bound
        if not isinstance(end, Dim):
            end = resolve(end)
        for dim in chain:
            dim.bound = end
        return end
    for part in axis.parts:
        if (isinstance(part, Dim) and part.bound is not None) or not isinstance(part, Dim):
            # Only now can the normal form differ from what is stored. Compounds are always checked
            # since something inside them may have been cut.
            new = (concat if isinstance(axis, Concat) else product)(axis.parts)
            if isinstance(new, type(axis)) and _same_parts(new, axis):
                return axis
            return new
    return axis


def _same_parts(a: _Compound, b: _Compound) -> bool:
    return len(a.parts) == len(b.parts) and all(map(is_, a.parts, b.parts))


def leaves(axis: Axis) -> Iterator[Dim]:
    """The dims that `axis` is made of, in order, each as often as it occurs."""
    axis = resolve(axis)
    for part in (axis,) if isinstance(axis, Dim) else axis.parts:
        if isinstance(part, Dim):
            yield part  # in normal form, so it is not bound to anything
        else:
            yield from leaves(part)


def fold(
    axis: Axis,
    leaf: Callable[[Dim], T],
    join: Callable[[Concat | Product, list[T]], T],
    known: dict[Dim, T],
) -> T:
    """What `join` makes of the parts of `axis`, and `leaf` of the dims that it is made of.

    `known` holds, from one call to the next, what came of the dims that have become something
    else. The axis is not brought in normal form: where it was cut 2,000 times, one after the other,
    each rest is a part of the rest before it, and is gone through once, not 2,000 times.
    """

    if isinstance(axis, Dim):  # most are, and are known at once
        if axis.bound is None:
            return leaf(axis)
        if axis in known:
            return known[axis]

    def value(axis: Axis) -> T:
        if not isinstance(axis, Dim):
            return join(axis, [value(part) for part in axis.parts])
        if axis.bound is None:
            return leaf(axis)
        if axis not in known:
            known[axis] = value(axis.bound)
        return known[axis]

    inner: dict[Dim, None] = {}
    todo = [axis]
    while todo:  # the innermost first, so that `value` does not go deep
        each = todo.pop()
        if not isinstance(each, Dim):
            todo.extend(each.parts)
        elif each.bound is not None and each not in known and each not in inner:
            inner[each] = None
            todo.append(each.bound)
    for dim in reversed(inner):
        value(dim)
    return value(axis)


def is_pinned(axis: Axis) -> bool:
    """True where no index of `axis` can be removed."""
    return all(dim.pins or dim.size == 1 for dim in leaves(axis))


# -- changing ------------------------------------------------------------------------------------


def pin(axis: Axis, why: Pin) -> None:
    """Keep every index of `axis`, because of `why`. Pins are never taken back."""
    axis = resolve(axis)
    for dim in (axis,) if isinstance(axis, Dim) else leaves(axis):
        if len(dim.pins) < Dim.MAX_PINS and why not in dim.pins:
            dim.pins += (why,)


def unify(a: Axis, b: Axis, where: str = "") -> None:
    """Make `a` and `b` the same axis; pin what has no common form, naming `where`."""
    todo = [(a, b)]
    while todo:
        a, b = todo.pop()
        a, b = resolve(a), resolve(b)
        if a is b:
            continue
        m, n = a.size, b.size
        if m is None or n is None:
            rest = cancel(a, b)
            if rest is not None:
                todo.append(rest)
            else:
                _unify_unknown(a, b, where)
        elif m != n:
            _pin_both(a, b, Pin(f"sizes {m} and {n} were to be one axis", where))
        elif isinstance(a, Dim):
            _bind(a, b)
        elif isinstance(b, Dim):
            _bind(b, a)
        elif m <= 1:
            continue  # there is nothing in either that could be pruned
        elif isinstance(a, Product) and isinstance(b, Product):
            todo += _common_factors(a, b, where)
        else:
            todo += _common_runs(a, b)


def split(axis: Axis, at: int) -> tuple[Axis, Axis]:
    """Cut `axis` in two runs, the first of `at` indices: `0 <= at <= size`. Always exact.

    A product that is cut inside one of its outer indices has that index isolated (and thereby
    kept): `Product(29, 2)` cut at 29 is `Concat(Product(14, 2), 1)` and
    `Concat(1, Product(14, 2))`.
    """
    axis = resolve(axis)
    size = axis.size
    if size is None or not 0 <= at <= size:
        raise ValueError(f"cannot cut an axis of {size} at {at}")
    if at == 0:
        return Dim(0), axis
    if at == size:
        return axis, Dim(0)
    if isinstance(axis, Dim):
        left, right = Dim(at, axis.pins), Dim(size - at, axis.pins)
        axis.bound = Concat((left, right))
        return left, right
    if isinstance(axis, Concat):
        for i, part in enumerate(axis.parts):
            width = part.size or 0
            if at <= width:
                head, tail = split(part, at)
                return concat((*axis.parts[:i], head)), concat((tail, *axis.parts[i + 1 :]))
            at -= width
    outer, inner = axis.parts[0], product(axis.parts[1:])
    index, offset = divmod(at, inner.size or 1)
    before, rest = split(outer, index)
    if offset == 0:
        return product((before, inner)), product((rest, inner))
    straddling, after = split(rest, 1)
    pin(straddling, Pin("a run ends inside this index of an outer axis"))
    head, tail = split(inner, offset)
    inner = concat((head, tail))
    return (
        concat((product((before, inner)), head)) if index else head,
        concat((tail, product((after, inner)))) if after.size else tail,
    )


def factor(axis: Axis, inner: int) -> tuple[Axis, Axis]:
    """Read `axis` as the product of an outer axis and an inner one of `inner` indices.

    Where the axis has no such form it is pinned, and so are the two axes returned.
    """
    size = axis.size
    if size is None or inner <= 0 or size % inner:
        raise ValueError(f"cannot factor an axis of {size} by {inner}")
    if inner == 1:
        return resolve(axis), Dim(1)
    if inner == size:
        return Dim(1), resolve(axis)
    parts = Dim(size // inner), Dim(inner)
    unify(Product(parts), axis)
    return resolve(parts[0]), resolve(parts[1])


def _bind(dim: Dim, axis: Axis) -> None:
    for why in dim.pins:
        pin(axis, why)
    dim.bound = axis


def _pin_both(a: Axis, b: Axis, why: Pin) -> None:
    pin(a, why)
    pin(b, why)


def cancel(a: Axis, b: Axis) -> tuple[Axis, Axis] | None:
    """What is left of two products without the factors they share, outermost and innermost.

    None where even the rest has a size that only the run time knows, or sizes that differ:
    `(n 12)` and `(n 3 4)` are one axis if 12 and `(3 4)` are, whatever n is.
    """
    left, right = (
        list(axis.parts) if isinstance(axis, Product) else [axis] for axis in map(resolve, (a, b))
    )
    for end in (0, -1):
        while left and right and _alike(resolve(left[end]), resolve(right[end])):
            left.pop(end)
            right.pop(end)
    a, b = product(left), product(right)
    return (a, b) if a.size is not None and a.size == b.size else None


def _alike(a: Axis, b: Axis) -> bool:
    """Whether two axes in normal form are one, or the same runs."""
    return a is b or (isinstance(a, Concat) and isinstance(b, Concat) and _same_parts(a, b))


def _unify_unknown(a: Axis, b: Axis, where: str) -> None:
    """One of the sizes is known at run time only: nothing can be cut or factored by it."""
    why = Pin("its size is only known at run time", where)
    _pin_both(a, b, why)
    if not isinstance(a, Dim) or a.size is not None:
        a, b = b, a
    if isinstance(a, Dim) and a.size is None and all(dim is not a for dim in leaves(b)):
        a.bound = b


def _common_runs(a: Axis, b: Axis) -> Iterator[tuple[Axis, Axis]]:
    """Cut two axes of one size, at least one of them a Concat, at each other's boundaries."""
    left, right = _runs(a), _runs(b)
    pairs = []
    left.reverse()
    right.reverse()
    while left:
        x, y = left.pop(), right.pop()
        width = min(x.size or 0, y.size or 0)
        x, rest = split(x, width)
        if rest.size:
            left.append(rest)
        y, rest = split(y, width)
        if rest.size:
            right.append(rest)
        pairs.append((x, y))
    # The pairs go on a stack: reversed, so that they are unified in the order of reading.
    return reversed(pairs)


def _runs(axis: Axis) -> list[Axis]:
    """The runs that `axis` is made of: `Product(Concat(a, b), y)` is `Concat((a y), (b y))`."""
    if isinstance(axis, Concat):
        return list(axis.parts)
    if isinstance(axis, Product) and isinstance(axis.parts[0], Concat):
        return [product((run, *axis.parts[1:])) for run in axis.parts[0].parts]
    return [axis]


def _common_factors(a: Product, b: Product, where: str) -> Iterator[tuple[Axis, Axis]]:
    """Factor two products of one size into common factors, from the innermost outwards."""
    left, right = list(a.parts), list(b.parts)
    pairs: list[tuple[Axis, Axis]] = []
    while left and right:
        x, y = resolve(left.pop()), resolve(right.pop())
        m, n = x.size or 1, y.size or 1
        if m % n == 0 and m > n:
            outer, x = factor(x, n)
            left.append(outer)
        elif n % m == 0 and n > m:
            outer, y = factor(y, m)
            right.append(outer)
        elif m != n:
            # No common refinement here: widen both sides until they cover the same block.
            block: list[Axis] = [x, y]
            while m != n:
                if m < n:
                    block.append(left.pop())
                    m *= block[-1].size or 1
                else:
                    block.append(right.pop())
                    n *= block[-1].size or 1
            for axis in block:
                pin(axis, Pin("two ways of merging axes have no common factors", where))
            continue
        pairs.append((x, y))
    return reversed(pairs)


# -- evaluating ----------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Kept indices of a dim that are others for each index of `outer`: each head has its own.

    Row h of `indices`, `[outer.size, kept]`, is for index h of `outer`.
    """

    outer: Dim
    indices: Index


#: What is kept of each dim, or the order its indices are brought into.
Choice = Mapping[Dim, Index | Rows]


def kept_size(chosen: Index | Rows) -> int:
    """How many indices of a dim are chosen; for `Rows`, in each row."""
    return int((chosen.indices if isinstance(chosen, Rows) else chosen).shape[-1])


def select(axis: Axis, choice: Choice, at: Mapping[Dim, int] | None = None) -> Index:
    """The positions of `axis` that remain, in order, when each dim keeps `choice[dim]`.

    A dim that is not in `choice` keeps all of its indices. A `choice` that permutes instead of
    dropping gives the permuted positions. Of `Rows`, the row is that of the factor `outer` of the
    same product, or the one that `at` names. Raises KeyError where there is neither.
    """
    axis = resolve(axis)
    at = at or {}
    if isinstance(axis, Dim):
        chosen = choice.get(axis)
        if isinstance(chosen, Rows):
            return np.asarray(chosen.indices[at[chosen.outer]])
        return np.arange(axis.size or 0, dtype=np.int64) if chosen is None else chosen
    if isinstance(axis, Concat):
        offset, runs = 0, []
        for part in axis.parts:
            runs.append(select(part, choice, at) + offset)
            offset += part.size or 0
        return np.concatenate(runs)
    positions = np.zeros((1,) * len(axis.parts), dtype=np.int64)
    for i, part in enumerate(axis.parts):
        positions = positions * (part.size or 0) + _factor(axis, i, choice, at)
    return positions.ravel()


def _factor(axis: Product, i: int, choice: Choice, at: Mapping[Dim, int]) -> Index:
    """The kept positions of factor i, along axis i of an array with one axis for each factor.

    Where they depend on other factors, the array is that wide along those, too: with heads and
    channels of them, `[heads kept, channels kept]` instead of `[1, channels kept]`.
    """
    part = axis.parts[i]
    outers = {rows.outer for rows in _rows(part, choice)}.difference(at)
    on = {
        k: other for k, other in enumerate(axis.parts) if isinstance(other, Dim) and other in outers
    }
    kept = [select(outer, choice, at) for outer in on.values()]
    found = np.stack(
        [
            select(part, choice, {**at, **dict(zip(on.values(), each, strict=True))})
            for each in combinations(*kept)
        ]
    ).reshape([*map(len, kept), -1])
    # One axis for each of `on`, and then that of the factor itself: to where they stand.
    missing = (1,) * (len(axis.parts) - found.ndim)
    return np.moveaxis(found.reshape(found.shape + missing), range(found.ndim), [*on, i])


def _rows(axis: Axis, choice: Choice) -> list[Rows]:
    """The choices by row of dims in `axis`."""
    found = (choice.get(dim) for dim in dict.fromkeys(leaves(axis)))
    return [each for each in found if isinstance(each, Rows)]


def selected_size(axis: Axis, sizes: Mapping[Dim, int]) -> int | None:
    """The size of `axis` when each dim in `sizes` has that many indices left."""
    return Sizes(sizes).of(axis)


class Sizes:
    """Sizes of axes when each dim in `left` has that many indices left."""

    def __init__(self, left: Mapping[Dim, int]) -> None:
        self.left = left
        self._known: dict[Dim, int | None] = {}

    def of(self, axis: Axis) -> int | None:
        return fold(axis, self._leaf, self._join, self._known)

    def _leaf(self, dim: Dim) -> int | None:
        return self.left.get(dim, dim.size)

    @staticmethod
    def _join(axis: Concat | Product, sizes: list[int | None]) -> int | None:
        known = [size for size in sizes if size is not None]
        return axis._combine(known) if len(known) == len(sizes) else None


def occurrences(axis: Axis) -> list[tuple[Dim, Index, Index]]:
    """Every occurrence of a dim in `axis`: at which positions, and the dim's index at each.

    With runs of 2 and 3, `occurrences(Concat(a, b))[1]` is `(b, [2, 3, 4], [0, 1, 2])`.
    """
    axis = resolve(axis)
    if isinstance(axis, Dim):
        every = np.arange(axis.size or 0, dtype=np.int64)
        return [(axis, every, every)]
    found: list[tuple[Dim, Index, Index]] = []
    if isinstance(axis, Concat):
        offset = 0
        for part in axis.parts:
            found += [(dim, at + offset, index) for dim, at, index in occurrences(part)]
            offset += part.size or 0
        return found
    before, after = 1, axis.size or 0
    for part in axis.parts:
        width = part.size or 1
        after //= width
        outer = np.arange(before, dtype=np.int64)[:, None, None] * width
        inner = np.arange(after, dtype=np.int64)
        for dim, at, index in occurrences(part):
            whole = (outer + at[:, None]) * after + inner
            found.append((dim, whole.ravel(), np.tile(np.repeat(index, after), before)))
        before *= width
    return found
