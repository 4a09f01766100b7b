"""The laws of the axes algebra, on random systems of equations and against two brute-force models.

A system is drawn as data (sizes of dims, and pairs of expressions over them), so that the same one
can be built afresh, in another order, or be evaluated without the algebra. The systems are the same
every time; `ONNXPRUNE_LONG=1` draws many others.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxprune.axes import (
    Axis,
    Concat,
    Dim,
    Index,
    Pin,
    Product,
    Sizes,
    concat,
    factor,
    is_pinned,
    leaves,
    occurrences,
    pin,
    product,
    resolve,
    select,
    selected_size,
    split,
    unify,
)

#: ("dim", number) | ("+", part, ...) | ("*", part, ...)
Term = tuple[Any, ...]
Mask = NDArray[np.bool_]

LONG = os.environ.get("ONNXPRUNE_LONG", "") not in ("", "0")
law = settings(
    deadline=None,
    max_examples=3000 if LONG else 200,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class System:
    """Equations between expressions over dims."""

    sizes: list[int]
    equations: list[tuple[Term, Term]]

    def dims(self) -> list[Dim]:
        return [Dim(size) for size in self.sizes]


def build(term: Term, dims: Sequence[Dim]) -> Axis:
    """The axis that `term` describes."""
    kind, *rest = term
    if kind == "dim":
        return dims[rest[0]]
    parts = [build(part, dims) for part in rest]
    return Concat(parts) if kind == "+" else Product(parts)


def size_of(term: Term, sizes: Sequence[int]) -> int:
    kind, *rest = term
    if kind == "dim":
        return sizes[rest[0]]
    parts = [size_of(part, sizes) for part in rest]
    return sum(parts) if kind == "+" else int(np.prod(parts))


def evaluate(term: Term, masks: Sequence[Mask]) -> Mask:
    """The mask of `term` from those of its dims, by the definition of the expressions alone."""
    kind, *rest = term
    if kind == "dim":
        return masks[rest[0]]
    parts = [evaluate(part, masks) for part in rest]
    if kind == "+":
        return np.concatenate(parts)
    whole = np.ones(1, dtype=bool)
    for part in parts:
        whole = (whole[:, None] & part[None, :]).ravel()
    return whole


@st.composite
def terms(draw: st.DrawFn, size: int, sizes: list[int], products: bool, depth: int = 2) -> Term:
    """An expression of `size` positions; new dims are added to `sizes`."""
    kinds = ["dim"]
    if depth and size > 1:
        kinds.append("+")
        divisors = [n for n in range(2, size) if size % n == 0]
        if products and divisors:
            kinds.append("*")
    kind = draw(st.sampled_from(kinds))
    if kind == "dim":
        same = [i for i, each in enumerate(sizes) if each == size]
        if same and draw(st.booleans()):
            return ("dim", draw(st.sampled_from(same)))
        sizes.append(size)
        return ("dim", len(sizes) - 1)
    if kind == "*":
        outer = draw(st.sampled_from(divisors))
        parts = [outer, size // outer]
    else:
        cut = draw(st.integers(1, size - 1))
        parts = [cut, size - cut]
        if parts[1] > 1 and draw(st.booleans()):
            cut = draw(st.integers(1, parts[1] - 1))
            parts = [parts[0], cut, parts[1] - cut]
    return (kind, *(draw(terms(part, sizes, products, depth - 1)) for part in parts))


@st.composite
def systems(
    draw: st.DrawFn,
    products: bool = True,
    widths: Sequence[int] = (2, 3, 4, 6, 8, 12),
    equations: int = 4,
) -> System:
    sizes: list[int] = []
    pairs = []
    for _ in range(draw(st.integers(1, equations))):
        size = draw(st.sampled_from(widths))
        pairs.append((draw(terms(size, sizes, products)), draw(terms(size, sizes, products))))
    return System(sizes, pairs)


def solve(system: System, order: Sequence[int] | None = None) -> list[Dim]:
    """The system's dims, after all of its equations were unified."""
    dims = system.dims()
    for i in order if order is not None else range(len(system.equations)):
        a, b = system.equations[i]
        unify(build(a, dims), build(b, dims), f"equation {i}")
    return dims


def free(axes: Sequence[Axis]) -> list[Dim]:
    """The dims that may lose indices, each once."""
    found = dict.fromkeys(dim for axis in axes for dim in leaves(axis))
    return [dim for dim in found if not dim.pinned and (dim.size or 0) > 1]


def subset(dims: Sequence[Dim], seed: int, least: int = 1) -> dict[Dim, Index]:
    """Random indices of every dim, in order; at least `least` of each."""
    rng = np.random.default_rng(seed)
    choice = {}
    for dim in dims:
        count = int(rng.integers(least, (dim.size or 0) + 1))
        choice[dim] = np.sort(rng.permutation(dim.size or 0)[:count]).astype(np.int64)
    return choice


def permutation(dims: Sequence[Dim], seed: int) -> dict[Dim, Index]:
    rng = np.random.default_rng(seed)
    return {dim: rng.permutation(dim.size or 0).astype(np.int64) for dim in dims}


def mask_of(axis: Axis, choice: dict[Dim, Index]) -> Mask:
    mask = np.zeros(axis.size or 0, dtype=bool)
    mask[select(axis, choice)] = True
    return mask


def atoms(axes: Sequence[Axis]) -> list[list[frozenset[tuple[Dim, int]]]]:
    """For every position of every axis: the (dim, index) pairs that it stands or falls with."""
    found = []
    for axis in axes:
        here: list[set[tuple[Dim, int]]] = [set() for _ in range(axis.size or 0)]
        for dim, positions, index in occurrences(axis):
            for position, i in zip(positions.tolist(), index.tolist(), strict=True):
                if not dim.pinned and (dim.size or 0) > 1:
                    here[position].add((dim, i))
        found.append([frozenset(each) for each in here])
    return found


def coupling(axes: Sequence[Axis]) -> set[frozenset[tuple[int, int]]]:
    """What is coupled with what, whatever the dims are called: each atom's set of positions."""
    places: dict[tuple[Dim, int], set[tuple[int, int]]] = {}
    for number, axis in enumerate(atoms(axes)):
        for position, here in enumerate(axis):
            for atom in here:
                places.setdefault(atom, set()).add((number, position))
    return {frozenset(each) for each in places.values()}


# -- laws ----------------------------------------------------------------------------------------


@law
@given(systems())
def test_sizes_never_change(system: System) -> None:
    dims = system.dims()
    sides = [build(side, dims) for pair in system.equations for side in pair]
    before = [axis.size for axis in sides]
    for a, b in system.equations:
        unify(build(a, dims), build(b, dims))
        assert [dim.size for dim in dims] == system.sizes
        # Not from what was stored: from what the axes have become.
        assert [selected_size(resolve(axis), {}) for axis in sides] == before
        assert [len(select(axis, {})) for axis in sides] == before


@law
@given(systems(), st.integers(0, 2**32 - 1))
def test_both_sides_of_an_equation_keep_the_same_positions(system: System, seed: int) -> None:
    dims = solve(system)
    for choice in (subset(free(dims), seed), permutation(free(dims), seed)):
        for a, b in system.equations:
            kept = select(build(a, dims), choice)
            assert kept.tolist() == select(build(b, dims), choice).tolist()


@law
@given(systems(), st.integers(0, 2**32 - 1))
def test_what_is_kept_is_what_the_expressions_mean(system: System, seed: int) -> None:
    """The kept masks of the first dims solve the equations, evaluated without the algebra."""
    dims = solve(system)
    choice = subset(free(dims), seed)
    masks = [mask_of(dim, choice) for dim in dims]
    for a, b in system.equations:
        assert (evaluate(a, masks) == evaluate(b, masks)).all()
        assert (evaluate(a, masks) == mask_of(build(a, dims), choice)).all()


@law
@given(systems(), st.randoms(use_true_random=False))
def test_the_order_of_unification_does_not_matter_where_nothing_is_pinned(
    system: System, random: Any
) -> None:
    order = list(range(len(system.equations)))
    random.shuffle(order)
    first, second = solve(system), solve(system, order)
    pinned = any(dim.pinned for dims in (first, second) for axis in dims for dim in leaves(axis))
    event(f"pinned: {pinned}")
    if not pinned:
        assert coupling(first) == coupling(second)


@law
@given(systems())
def test_the_order_of_the_two_sides_does_not_matter(system: System) -> None:
    first = solve(system)
    second = solve(System(system.sizes, [(b, a) for a, b in system.equations]))
    if not any(dim.pinned for dims in (first, second) for axis in dims for dim in leaves(axis)):
        assert coupling(first) == coupling(second)


@law
@given(systems(), st.data())
def test_pinning_only_grows(system: System, data: st.DataObject) -> None:
    dims = system.dims()

    def pinned() -> set[tuple[int, int]]:
        return {
            (number, position)
            for number, here in enumerate(atoms(dims))
            for position, each in enumerate(here)
            if not each and system.sizes[number] > 1
        }

    before: set[tuple[int, int]] = set()
    for a, b in system.equations:
        if data.draw(st.booleans()):
            pin(dims[data.draw(st.integers(0, len(dims) - 1))], Pin("because"))
            assert before <= pinned()
            before = pinned()
        unify(build(a, dims), build(b, dims))
        assert before <= pinned()
        before = pinned()


@law
@given(systems())
def test_unifying_again_changes_nothing(system: System) -> None:
    dims = solve(system)
    if any(dim.pinned for axis in dims for dim in leaves(axis)):
        return
    once = coupling(dims)
    for a, b in system.equations:
        unify(build(a, dims), build(b, dims))
    assert coupling(dims) == once


@law
@given(systems(), st.data(), st.integers(0, 2**32 - 1))
def test_splitting_is_exact(system: System, data: st.DataObject, seed: int) -> None:
    dims = solve(system)
    whole = build(data.draw(st.sampled_from(system.equations))[0], dims)
    size = whole.size or 0
    at = data.draw(st.integers(0, size))
    left, right = split(whole, at)
    assert (left.size, right.size) == (at, size - at)
    for choice in (subset(free([whole]), seed), permutation(free([whole]), seed)):
        kept = select(whole, choice)
        both = np.concatenate([select(left, choice), select(right, choice) + at])
        assert kept.tolist() == both.tolist()


@law
@given(systems(), st.data(), st.integers(0, 2**32 - 1))
def test_factoring_is_exact(system: System, data: st.DataObject, seed: int) -> None:
    dims = solve(system)
    whole = build(data.draw(st.sampled_from(system.equations))[0], dims)
    size = whole.size or 0
    inner_size = data.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    outer, inner = factor(whole, inner_size)
    assert (outer.size, inner.size) == (size // inner_size, inner_size)
    for choice in (subset(free([whole]), seed), permutation(free([whole]), seed)):
        kept = select(whole, choice)
        merged = select(outer, choice)[:, None] * inner_size + select(inner, choice)
        assert kept.tolist() == merged.ravel().tolist()


@law
@given(systems(), st.integers(0, 2**32 - 1))
def test_occurrences_say_what_select_does(system: System, seed: int) -> None:
    dims = solve(system)
    choice = subset(free(dims), seed)
    for pair in system.equations:
        for side in pair:
            axis = build(side, dims)
            kept = np.ones(axis.size or 0, dtype=bool)
            for dim, positions, index in occurrences(axis):
                assert len(set(positions.tolist())) == len(positions) == len(index)
                if dim in choice:
                    kept[positions] &= np.isin(index, choice[dim])
            assert (kept == mask_of(axis, choice)).all()
            sizes = {dim: len(index) for dim, index in choice.items()}
            assert selected_size(axis, sizes) == kept.sum()


# -- against brute force -------------------------------------------------------------------------


class Glue:
    """Union-find over single positions."""

    def __init__(self) -> None:
        self.parent: dict[Any, Any] = {}

    def find(self, x: Any) -> Any:
        while self.parent.setdefault(x, x) != x:
            x = self.parent[x]
        return x

    def join(self, x: Any, y: Any) -> None:
        self.parent[self.find(x)] = self.find(y)

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        return ((x, self.find(x)) for x in list(self.parent))


def positions(term: Term, sizes: Sequence[int]) -> list[Any]:
    """The positions of `term`: those of a dim by name, of a product as tuples of them."""
    kind, *rest = term
    if kind == "dim":
        return [(rest[0], i) for i in range(sizes[rest[0]])]
    parts = [positions(part, sizes) for part in rest]
    if kind == "+":
        return [each for part in parts for each in part]
    return [("*", *each) for each in itertools.product(*parts)]


def glued(system: System) -> Glue:
    """Every equation glues the positions of its sides one to one."""
    glue = Glue()
    for k, size in enumerate(system.sizes):
        for i in range(size):
            glue.find((k, i))
    for a, b in system.equations:
        left, right = positions(a, system.sizes), positions(b, system.sizes)
        for x, y in zip(left, right, strict=True):
            glue.join(x, y)
    return glue


@law
@given(systems(products=False, widths=(2, 3, 5, 8, 12), equations=5))
def test_runs_couple_what_union_find_couples_and_no_more(system: System) -> None:
    dims = solve(system)
    glue = glued(system)
    found = {
        (number, position): (dim, i)
        for number, axis in enumerate(dims)
        for dim, positions, index in occurrences(axis)
        for position, i in zip(positions.tolist(), index.tolist(), strict=True)
    }
    assert not any(dim.pinned for axis in dims for dim in leaves(axis))
    for x, y in itertools.combinations(found, 2):
        assert (glue.find(x) == glue.find(y)) == (found[x] == found[y])


@law
@given(systems(equations=5))
def test_positions_that_are_glued_stand_and_fall_together(system: System) -> None:
    dims = solve(system)
    here = atoms(dims)

    def together(position: Any) -> frozenset[tuple[Dim, int]]:
        if position[0] == "*":
            return frozenset().union(*(together(each) for each in position[1:]))
        number, i = position
        return here[number][i]

    for x, y in glued(system).pairs():
        assert together(x) == together(y)


@law
@given(systems(widths=(2, 3, 4, 6), equations=2))
def test_no_freedom_is_lost_where_nothing_is_pinned(system: System) -> None:
    """Two indices that every solution keeps or drops together are all that is coupled.

    A solution keeps something of every run that the dims were cut into: with nothing of the outer
    factor, a product says nothing of the inner one.
    """
    if sum(system.sizes) > 14:
        return
    dims = solve(system)
    if any(dim.pinned for axis in dims for dim in leaves(axis)):
        return
    runs = [[positions for _, positions, _ in occurrences(dim)] for dim in dims]
    every = [np.array(bits) for bits in itertools.product([False, True], repeat=sum(system.sizes))]
    ends = np.cumsum(system.sizes)[:-1]
    solutions = []
    for bits in every:
        masks = np.split(bits, ends)
        if all(
            mask[run].any() for mask, here in zip(masks, runs, strict=True) for run in here
        ) and all((evaluate(a, masks) == evaluate(b, masks)).all() for a, b in system.equations):
            solutions.append(bits)
    columns = np.array(solutions).T
    here = [each for axis in atoms(dims) for each in axis]
    for (p, x), (q, y) in itertools.combinations(enumerate(here), 2):
        if x == y and x:
            assert (columns[p] == columns[q]).all()


# -- examples ------------------------------------------------------------------------------------


def same(a: Axis, b: Axis) -> bool:
    return repr(resolve(a)) == repr(resolve(b)) and list(leaves(a)) == list(leaves(b))


def test_a_dim_becomes_what_it_is_unified_with() -> None:
    x, a, b = Dim(64), Dim(16), Dim(48)
    unify(x, Concat((a, b)))
    assert list(leaves(x)) == [a, b]
    heads, width = Dim(12), Dim(64)
    y = Dim(768)
    unify(y, Product((heads, width)))
    assert list(leaves(y)) == [heads, width]
    assert repr(resolve(y)) == "(12 64)"


def test_two_runs_are_cut_at_each_others_boundaries() -> None:
    a, b, c, d = Dim(3), Dim(5), Dim(4), Dim(4)
    unify(Concat((a, b)), Concat((c, d)))
    assert [dim.size for dim in leaves(Concat((a, b)))] == [3, 1, 4]
    assert list(leaves(Concat((a, b)))) == list(leaves(Concat((c, d))))


def test_two_products_are_factored_to_common_factors() -> None:
    a, b = Product((Dim(4), Dim(6))), Product((Dim(12), Dim(2)))
    unify(a, b)
    assert [dim.size for dim in leaves(a)] == [4, 3, 2]
    assert list(leaves(a)) == list(leaves(b))
    assert not any(dim.pinned for dim in leaves(a))


def test_products_without_common_factors_are_pinned_with_the_reason() -> None:
    a, b = Product((Dim(4), Dim(6))), Product((Dim(6), Dim(4)))
    unify(a, b, "Reshape node_7")
    assert is_pinned(a)
    assert is_pinned(b)
    (why,) = next(leaves(a)).pins
    assert "no common factors" in why.reason
    assert str(why).endswith("(Reshape node_7)")


def test_only_the_block_without_common_factors_is_pinned() -> None:
    a = Product((Dim(5), Dim(4), Dim(6), Dim(7)))
    b = Product((Dim(5), Dim(6), Dim(4), Dim(7)))
    unify(a, b)
    assert [dim.pinned for dim in leaves(a)] == [False, True, True, False]
    assert [*leaves(a)][::3] == [*leaves(b)][::3]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_block_reaches_as_far_as_its_factors_overlap(swapped: bool) -> None:
    """4 and 6 end together at 48 only: the outermost 4 stands against a part of the 8."""
    a, b = Product((Dim(4), Dim(3), Dim(4))), Product((Dim(8), Dim(6)))
    unify(*((b, a) if swapped else (a, b)))
    assert all(dim.pinned for dim in (*leaves(a), *leaves(b)))


def test_channel_shuffle_isolates_the_index_that_straddles_the_cut() -> None:
    outer, inner = Dim(29), Dim(2)
    left, right = split(Product((outer, inner)), 29)
    assert (left.size, right.size) == (29, 29)
    assert [dim.size for dim in leaves(outer)] == [14, 1, 14]
    before, straddling, after = leaves(outer)
    assert straddling.pinned
    assert not before.pinned
    assert not after.pinned
    kept = select(left, {before: np.array([0, 13])})
    assert kept.tolist() == [0, 1, 26, 27, 28]
    assert select(right, {before: np.array([0])}).tolist() == list(range(29))
    assert select(right, {after: np.array([0])}).tolist() == [0, 1, 2]


def test_fused_qkv_has_one_dim_for_heads_and_one_for_head_width() -> None:
    q, k, v = Dim(64), Dim(64), Dim(64)
    three, heads, width = Dim(3), Dim(4), Dim(16)
    unify(Concat((q, k, v)), Product((three, heads, width)))
    assert same(q, k)
    assert same(k, v)
    assert list(leaves(q)) == [heads, width]
    assert [dim.size for dim in leaves(three)] == [1, 1, 1]
    kept = select(q, {heads: np.array([1]), width: np.array([0, 2])})
    assert kept.tolist() == [16, 18]


def test_a_run_per_copy_need_not_be_one_factor() -> None:
    """Concat(16, 48) read as 4 x 16: the outer factor is cut, nothing is pinned."""
    a, b, outer, inner = Dim(16), Dim(48), Dim(4), Dim(16)
    unify(Concat((a, b)), Product((outer, inner)))
    assert same(a, inner)
    assert [dim.size for dim in leaves(b)] == [3, 16]
    assert [dim.size for dim in leaves(outer)] == [1, 3]
    assert not any(dim.pinned for dim in leaves(b))


def test_rotary_halves_become_one_dim() -> None:
    a, b = Dim(32), Dim(32)
    unify(Concat((b, a)), Concat((a, b)))
    assert same(a, b)
    assert not a.pinned


def test_a_concat_with_itself_has_one_dim_twice() -> None:
    x, y = Dim(8), Dim(16)
    both = concat((x, x))
    unify(y, both)
    assert list(leaves(y)) == [x, x]
    assert select(y, {x: np.array([1, 5])}).tolist() == [1, 5, 9, 13]
    assert [(at.tolist(), index.tolist()) for _, at, index in occurrences(y)] == [
        ([*range(8)], [*range(8)]),
        ([*range(8, 16)], [*range(8)]),
    ]


def test_unlike_runs_of_one_dim_become_shorter() -> None:
    """(a + b) ~ (b + a) with runs of 4 and 6: what is 4 apart, modulo 10, is one."""
    a, b = Dim(4), Dim(6)
    unify(Concat((a, b)), Concat((b, a)))
    dims = set(leaves(Concat((a, b))))
    assert [dim.size for dim in dims] == [2]


def test_dense_blocks_keep_their_runs() -> None:
    """DenseNet: every layer reads all runs before it, and adds one."""
    runs = [Dim(16)]
    weights = []
    x: Axis = runs[0]
    for _ in range(24):
        reads, writes = Dim(x.size), Dim(4)
        unify(reads, x)
        weights.append(reads)
        runs.append(writes)
        x = concat((x, writes))
    assert list(leaves(x)) == runs
    assert list(leaves(weights[-1])) == runs[:-1]
    kept = select(x, {runs[1]: np.array([3]), runs[24]: np.array([], dtype=np.int64)})
    assert len(kept) == 16 + 24 * 4 - 3 - 4


def test_x_times_its_transpose_has_one_dim_on_two_axes() -> None:
    x = Dim(6)
    square = product((x, x))
    assert select(square, {x: np.array([1, 4])}).tolist() == [7, 10, 25, 28]


@pytest.mark.parametrize("grow", ["new", "old"])
def test_a_deep_chain_of_equalities_is_no_recursion(grow: str) -> None:
    first = last = Dim(8)
    for _ in range(3000):
        fresh = Dim(8)
        unify(fresh, last) if grow == "new" else unify(last, fresh)
        last = fresh
    assert same(first, last)
    pin(last, Pin("the end"))
    assert is_pinned(first)


def test_a_deep_chain_of_concats_is_no_recursion() -> None:
    runs = [Dim(1)]
    x: Axis = runs[0]
    for _ in range(3000):
        runs.append(Dim(1))
        y = Dim((x.size or 0) + 1)
        unify(y, Concat((x, runs[-1])))
        x = y
    assert x.size == 3001
    assert list(leaves(x)) == runs
    assert len(select(x, {})) == 3001


def test_a_dim_cut_three_thousand_times_is_no_recursion() -> None:
    whole = Dim(6000)
    rest: Axis = whole
    runs = []
    for _ in range(2999):
        run, rest = split(rest, 2)
        runs.append(run)
    # First, while it is still a chain: to resolve it is to flatten it.
    assert selected_size(whole, {run: 1 for run in runs[:-1] if isinstance(run, Dim)}) == 3002
    assert [resolve(run) for run in (*runs, rest)] == list(leaves(whole))
    assert len(select(whole, {dim: np.array([0]) for dim in leaves(whole)})) == 3000


def test_many_runs_are_cut_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in dims and parts that are made: 2,000 runs against as many, and a product."""
    made = 0
    plain, compound = Dim.__init__, Concat.__init__

    def counted(self: Dim, *args: Any, **more: Any) -> None:
        nonlocal made
        made += 1
        plain(self, *args, **more)

    def counted_parts(self: Concat, parts: Sequence[Axis]) -> None:
        nonlocal made
        made += len(parts)
        compound(self, parts)

    monkeypatch.setattr(Dim, "__init__", counted)
    monkeypatch.setattr(Concat, "__init__", counted_parts)
    counts = []
    for n in (1000, 2000):
        made = 0
        a = Concat([Dim(6) for _ in range(n)])
        b = Concat([Dim(2), *(Dim(6) for _ in range(n - 1)), Dim(4)])
        unify(a, b)
        assert sum(1 for _ in leaves(a)) == 2 * n
        outer = Concat([Dim(1) for _ in range(n)])
        unify(Product((outer, Dim(6))), Concat([Dim(6) for _ in range(n)]))
        unify(Product((Dim(n), Dim(6))), Concat([Dim(6) for _ in range(n)]))
        counts.append(made)
    assert counts[1] < 2.1 * counts[0]


def test_a_size_that_only_the_run_time_knows_pins() -> None:
    known, unknown = Dim(8), Dim(None)
    unify(known, unknown, "Add node_3")
    assert known.pinned
    assert unknown.pinned
    assert unknown.size == 8
    assert "run time" in str(known.pins[0])
    whole = Product((Dim(None), Dim(4)))
    runs = Concat((Dim(3), Dim(5)))
    unify(whole, runs)
    assert is_pinned(whole)
    assert is_pinned(runs)
    assert concat((Dim(None), Dim(2))).size is None


def test_two_unknown_sizes_are_one_axis_afterwards() -> None:
    a, b = Dim(None), Dim(None)
    unify(a, b)
    assert same(a, b)
    merged = product((a, Dim(4)))
    unify(merged, merged)
    assert merged.size is None


def test_a_factor_of_unknown_size_on_both_sides_cancels() -> None:
    n, heads = Dim(None), Dim(12)
    three, four = Dim(3), Dim(4)
    unify(Product((n, heads)), Product((n, three, four)))
    assert list(leaves(heads)) == [three, four]
    assert not heads.pinned
    width = Dim(12)
    unify(Product((width, n)), Product((three, four, n)))
    assert list(leaves(width)) == [three, four]
    assert not width.pinned
    other = Dim(None)
    unify(Product((n, three)), Product((other, Dim(3))))
    assert three.pinned


def test_a_size_becomes_known_from_either_side() -> None:
    for known in (Dim(8), Concat((Dim(3), Dim(5)))):
        first, second = Dim(None), Dim(None)
        unify(first, known)
        unify(known, second)
        assert first.size == second.size == 8
        assert same(first, known)
        assert same(second, known)
    merged = Product((Dim(None), Dim(4)))
    first, second = Dim(None), Dim(None)
    unify(first, merged)
    unify(merged, second)
    assert resolve(first) is resolve(second) is resolve(merged)


@pytest.mark.parametrize("sizes", [(8, 6), (6, 8)])
def test_unequal_sizes_pin_both_and_say_so(sizes: tuple[int, int]) -> None:
    a, b = map(Dim, sizes)
    unify(a, b, "Add node_9")
    assert str(a.pins[0]) == f"sizes {sizes[0]} and {sizes[1]} were to be one axis (Add node_9)"
    assert b.pinned
    assert not same(a, b)
    assert (a.size, b.size) == sizes


def test_axes_without_any_index_leave_their_factors_alone() -> None:
    three, four = Dim(3), Dim(4)
    unify(Product((Dim(0), three)), Product((four, Dim(0))))
    assert not three.pinned
    assert not four.pinned


def test_a_run_of_one_index_does_not_hide_the_next() -> None:
    x, y = Dim(8), Dim(8)
    unify(Concat((Product(()), x)), Concat((Product(()), y)))
    assert same(x, y)


def test_a_cut_at_an_end_cuts_nothing() -> None:
    for axis in (Dim(4), Concat((Dim(4), Dim(6))), Product((Dim(4), Dim(6)))):
        empty, whole = split(axis, 0)
        assert whole is axis
        assert empty.size == 0
        whole, empty = split(axis, axis.size or 0)
        assert whole is axis
        assert empty.size == 0
        assert all(isinstance(dim, Dim) and dim.bound is None for dim in leaves(axis))


def test_pins_are_inherited_by_what_a_dim_becomes() -> None:
    x = Dim(12)
    pin(x, Pin("an output"))
    left, right = split(x, 5)
    assert is_pinned(left)
    assert is_pinned(right)
    y = Dim(12)
    pin(y, Pin("an output"))
    a, b = Dim(3), Dim(4)
    unify(Product((a, b)), y)
    assert a.pinned
    assert b.pinned


def test_a_few_reasons_are_kept_for_the_person_who_asks() -> None:
    x = Dim(4)
    for i in range(10):
        pin(x, Pin(f"reason {i}"))
    pin(x, Pin("reason 0"))
    assert [why.reason for why in x.pins] == ["reason 0", "reason 1", "reason 2"]


def test_normal_forms() -> None:
    a, b = Dim(4), Dim(6)
    assert concat((a, Dim(0))) is a
    assert product((Dim(1), a)) is a
    assert [*concat((concat((a, b)), a)).parts] == [a, b, a]  # type: ignore[union-attr]
    assert [*product((product((a, b)), a)).parts] == [a, b, a]  # type: ignore[union-attr]
    assert product(()).size == 1
    assert concat(()).size == 0
    assert is_pinned(product(()))


def parts(axis: Axis) -> list[Axis]:
    whole = resolve(axis)
    assert isinstance(whole, (Concat, Product))
    return list(whole.parts)


def test_the_normal_form_goes_all_the_way_down() -> None:
    a, b, c, d = Dim(4), Dim(6), Dim(3), Dim(5)
    # A factor of 1 is no factor: what is left is two runs, and not one.
    assert parts(concat((Product((Dim(1), Concat((a, b)))), c))) == [a, b, c]
    # Something that is cut inside of two products, and nothing else beside them.
    x, e, f = Dim(8), Dim(2), Dim(4)
    whole = Concat((Product((x, c)), Product((d, c))))
    unify(x, Product((e, f)))
    first, second = parts(whole)
    assert isinstance(first, Product) and isinstance(second, Product)
    assert first.parts == (e, f, c)
    assert second.parts == (d, c)


def test_an_axis_in_normal_form_is_given_back_as_it_is() -> None:
    """Unifying an axis with itself costs nothing, however often it has been resolved."""
    a, b, c = Dim(4), Dim(6), Dim(3)
    for axis in (a, Concat((a, b)), Product((a, b)), Concat((Product((a, b)), c))):
        assert resolve(axis) is axis
    inner = Product((a, b))
    assert parts(Concat((c, inner, Dim(0)))) == [c, inner]


def test_bindings_are_shortened_on_the_way() -> None:
    first, second, third = Dim(8), Dim(8), Dim(8)
    unify(first, second)
    unify(second, third)
    assert first.bound is second
    assert resolve(first) is third
    assert first.bound is third
    halves = Concat((Dim(3), Dim(5)))
    unify(third, halves)
    assert resolve(first) is halves
    assert first.bound is halves


def test_leaves_are_those_of_all_parts() -> None:
    a, b, c = Dim(4), Dim(6), Dim(3)
    assert list(leaves(Concat((Product((a, Concat((b, c)))), c, a)))) == [a, b, c, c, a]


def test_what_is_pinned() -> None:
    why = (Pin("because"),)
    kept, free, one = Dim(4, why), Dim(4), Dim(1)
    assert is_pinned(kept)
    assert is_pinned(one), "there is nothing that could be removed"
    assert not is_pinned(free)
    assert not is_pinned(Dim(2))
    assert not is_pinned(Dim(None))
    assert is_pinned(Concat((kept, one)))
    assert not is_pinned(Concat((kept, free)))
    assert not is_pinned(Product((kept, free)))


def test_sizes_are_kept_from_one_axis_to_the_next() -> None:
    a, b, x = Dim(4), Dim(6), Dim(10)
    unify(x, Concat((a, b)))
    sizes = Sizes({a: 3})
    assert [sizes.of(axis) for axis in (x, x, Product((x, b)), a, Dim(None))] == [9, 9, 54, 3, None]
    assert Sizes({}).of(Product((Dim(None), a))) is None


def test_an_axis_is_shown_as_it_is_written() -> None:
    a, b, unknown = Dim(4), Dim(6, (Pin("because"),)), Dim(None)
    assert repr(Concat((a, b))) == "(4 + !6)"
    assert repr(Product((unknown, Concat((a, b))))) == "(? (4 + !6))"
    x = Dim(10)
    unify(x, Concat((a, b)))
    assert repr(x) == "(4 + !6)"
    assert str(Pin("because", "Add node_1")) == "because (Add node_1)"
    assert str(Pin("because")) == "because"


@pytest.mark.parametrize("at", [-1, 5])
def test_a_cut_outside_of_the_axis_is_an_error(at: int) -> None:
    with pytest.raises(ValueError, match="cannot cut an axis of 4"):
        split(Dim(4), at)


def test_a_factor_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot factor an axis of 6 by 4"):
        factor(Dim(6), 4)
    with pytest.raises(ValueError, match="None"):
        factor(Dim(None), 4)
    for inner in (0, -2):
        with pytest.raises(ValueError, match=f"cannot factor an axis of 6 by {inner}"):
            factor(Dim(6), inner)


def test_a_factor_of_one_changes_nothing() -> None:
    x = Dim(6)
    outer, one = factor(x, 1)
    assert outer is x
    assert one.size == 1
    one, inner = factor(x, 6)
    assert inner is x
    assert one.size == 1
    assert x.bound is None
    assert [axis.size for axis in factor(Dim(0), 5)] == [0, 5]


def test_what_has_no_index_occurs_at_no_position() -> None:
    none, three = Dim(0), Dim(3)
    for axis in (none, Product((none, three)), Product((three, none))):
        found = occurrences(axis)
        assert none in [dim for dim, _, _ in found]
        assert all(len(at) == len(index) == 0 for _, at, index in found)
        assert len(select(axis, {})) == 0


def test_a_size_of_one_or_none_left_still_fits() -> None:
    x, y = Dim(0), Dim(0)
    unify(x, y)
    assert x.size == 0
    one = Dim(1)
    unify(one, product(()))
    assert one.size == 1
    assert select(one, {}).tolist() == [0]
