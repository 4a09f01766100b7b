"""Which groups are exact: removing their channels equals masking them with zeros.

One walk over the records of the rules, in the order of the graph. For every tensor it notes along
which dims removed positions are known to be zero, once the removed slices of the group's weights
are zero. An operator's `zero` expression says which operands must be zero for its result to be.

A dim is exact when every operator that sums over it has an operand known to be zero there, and no
operator takes a statistic over it. All other dims that are not pinned are statistical.
"""

from __future__ import annotations

from collections.abc import Iterable

from .axes import Axis, Dim, fold, leaves
from .model import subgraphs
from .network import Network, Record
from .tables import REST, Zero
from .uncollected import uncollected

DimSet = frozenset[Dim]
_NONE: DimSet = frozenset()


def maskable(network: Network) -> set[str]:
    """Constants that may be set to zero in part: whose every use multiplies, sums or moves them.

    Never divisors, exponents, running variances, scales or zero points.
    """
    verdict: dict[str, bool] = {}
    for record in reversed(network.records):
        rule = record.rule
        used = {i for term in (*(rule.zero or ()), *(rule.sums or ())) for i in term}
        for i, name in enumerate(record.node.input):
            ok = i in used or REST in used
            if ok and rule.passes:
                ok = all(verdict.get(output, True) for output in record.node.output if output)
            verdict[name] = verdict.get(name, True) and ok
        for body in subgraphs(record.node):
            verdict.update((value.name, False) for value in body.output)
    return {name for name in network.model.constants if verdict.get(name, False)}


@uncollected()
def exact_dims(network: Network) -> set[Dim]:
    """The dims for which removing equals masking."""
    return _Walk(network).run()


class _Walk:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.masked = maskable(network)
        self.zero: dict[str, DimSet] = {}
        self._dims: dict[str, DimSet] = {}
        self._axes: dict[str, list[DimSet]] = {}
        self._several: dict[str, DimSet] = {}
        self._leaves: dict[Dim, DimSet] = {}
        self._parts: dict[Dim, DimSet] = {}

    def run(self) -> set[Dim]:
        inexact: set[Dim] = set()
        for axis, _ in self.network.statistical:
            inexact.update(leaves(axis))
        for record in self.network.records:
            if record.contracted:
                summed = _union(map(self.free, record.contracted))
                inexact |= summed - self.sums_zero(_terms(record, record.rule.sums))
            # Zeros are not followed into bodies: what flows through them is statistical.
            for body in subgraphs(record.node):
                for value in (*body.input, *body.output):
                    for axis in self.network.axes.get(value.name) or ():
                        inexact.update(leaves(axis))
            # Where zero has no finite result, masking says nothing about removing.
            for i in record.rule.nonzero:
                if i < len(record.node.input):
                    inexact |= self.known(record.node.input[i])
            terms = _terms(record, record.rule.zero)
            found = self.result(terms) if record.keeps_zero else _NONE
            for output in record.node.output:
                if output:
                    self.zero[output] = self.everywhere(
                        _common(found, self.dims(output)), output, terms
                    )
        every = {dim for name in self.network.model.constants for dim in self.dims(name)}
        return every - inexact

    def free(self, axis: Axis) -> DimSet:
        """The dims in an axis that can be pruned."""
        return fold(axis, self._alone, lambda _, parts: _union(parts), self._parts)

    def _alone(self, dim: Dim) -> DimSet:
        if dim not in self._leaves:
            pinned = dim.pins or (dim.size or 0) < 2
            self._leaves[dim] = _NONE if pinned else frozenset((dim,))
        return self._leaves[dim]

    def axes(self, name: str) -> list[DimSet]:
        """The dims in each of a tensor's axes that can be pruned."""
        if name not in self._axes:
            self._axes[name] = [self.free(axis) for axis in self.network.axes.get(name) or ()]
        return self._axes[name]

    def dims(self, name: str) -> DimSet:
        """The dims in a tensor's axes that can be pruned."""
        if name not in self._dims:
            self._dims[name] = _union(self.axes(name))
        return self._dims[name]

    def several(self, name: str) -> DimSet:
        """The dims that are on more than one of a tensor's axes."""
        if name not in self._several:
            axes, found = self.axes(name), set[Dim]()
            if sum(map(len, axes)) > len(self.dims(name)):
                for i, axis in enumerate(axes):
                    found.update(*(axis & other for other in axes[:i]))
            self._several[name] = frozenset(found)
        return self._several[name]

    def count(self, name: str, dim: Dim) -> int:
        """On how many axes of a tensor a dim is."""
        return sum(dim in axis for axis in self.axes(name))

    def known(self, name: str) -> DimSet:
        """The dims along which a tensor is zero where indices are removed."""
        if name in self.network.model.constants:
            return self.dims(name) if name in self.masked else _NONE
        return self.zero.get(name, _NONE)

    def result(self, terms: list[list[str]]) -> DimSet:
        """The dims along which a node's result is zero: in every term of the sum, a factor is."""
        found: DimSet | None = None
        for names in terms:
            term = _union(map(self.known, names))
            found = term if found is None else _common(found, term)
        return found or _NONE

    def everywhere(self, found: DimSet, output: str, terms: list[list[str]]) -> DimSet:
        """Without the dims that are zero along one axis of the output and not along another.

        A column plus a row, of one dim both, is zero only where both of its positions are removed;
        a sum over one axis of a matrix says nothing of the other.
        """
        if not found:
            return found
        names = {output, *(name for names in terms for name in names)}
        several = found & _union(map(self.several, names))
        if not several:
            return found
        return found - {
            dim
            for dim in several
            for names in terms
            if sum(self.count(name, dim) for name in names) < self.count(output, dim)
            or any(dim in self.dims(name) - self.known(name) for name in names)
        }

    def sums_zero(self, terms: list[list[str]]) -> set[Dim]:
        """The dims at whose removed positions, in every term they occur in, some factor is zero."""
        zero: set[Dim] = set()
        other: set[Dim] = set()
        for names in terms:
            known = _union(map(self.known, names))
            zero |= known
            other |= _union(map(self.dims, names)) - known
        return zero - other


# Thousands of tensors may share an axis of thousands of dims: where a set is what it was before,
# it is that set itself, not a copy.


def _union(sets: Iterable[DimSet]) -> DimSet:
    first, *others = [each for each in sets if each] or [_NONE]
    return first.union(*others) if others else first


def _common(a: DimSet, b: DimSet) -> DimSet:
    return a if a is b else a & b


def _terms(record: Record, expression: Zero | None) -> list[list[str]]:
    """The operands of a rule's `zero` or `sums` by name; terms with a missing one vanish."""
    inputs = record.node.input
    terms: list[list[str]] = []
    for term in expression or ():
        if REST in term:
            terms.extend([name] for name in inputs[len(terms) :] if name)
        elif all(i < len(inputs) and inputs[i] for i in term):
            terms.append([inputs[i] for i in term])
    return terms
