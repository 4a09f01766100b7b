"""Applying a pattern to one node: names that stand for axes, and the axes they stand for.

An axis that a name has met already is unified with the next one of that name; a merged axis is
built from its factors, of which one may be new, sized by the rest; an output's axes are written
from what the inputs gave, new names sized by ONNX's shape inference.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import onnx

from .axes import Axis, Dim, concat, product
from .errors import RuleError
from .network import Axes, Unsure
from .notation import Merge, Name, Number, Operand, Pattern, Runs, Star, Term, parse

if TYPE_CHECKING:
    from .op import Op


def match(op: Op, pattern: Pattern | str | None = None) -> None:
    """Apply a pattern (the rule's own, by default).

    The axes that it gives one name are equated, and the outputs get their axes.
    """
    if isinstance(pattern, str):
        pattern = parse(pattern)
    elif pattern is None:
        assert op.rule is not None
        pattern = op.rule.pattern
        if pattern is None:
            needs = f"the function {op.rule.function!r} needs a pattern: give `axes` as well"
            raise RuleError(f"{op.rule.source}: {needs}")
    env, rule = op.env, op.rule
    if rule is not None:
        for name, attribute in rule.bind.items():
            size = op.attr(attribute)
            if size is None:
                size = _schema_default(op.node.domain, op.node.op_type, attribute)
            if size is not None and int(size) > 0:
                env[name] = Dim(int(size))
                op.patch(attribute, {None: env[name]})
    operands = pattern.inputs
    if operands and operands[-1].repeated:
        extra = max(0, len(op.inputs) - len(operands))
        operands = (*operands, *[operands[-1]] * extra)
    for i, operand in enumerate(operands):
        if i >= len(op.inputs) or not op.inputs[i]:
            if not (operand.optional or operand.repeated):
                raise Unsure(f"operand {i} is missing")
        elif operand.ignored:
            op.pin_all(op.network.axes_of(op.inputs[i]) or (), "its positions are not followed")
        else:
            _read(op, operand, op.axes(i), i)
    if len(op.inputs) > len(operands):
        raise Unsure(f"{len(op.inputs)} operands do not fit the pattern {pattern.text!r}")
    for i, operand in enumerate(pattern.outputs):
        if i < len(op.outputs) and op.outputs[i] and not operand.ignored:
            op.out(_write(op, operand, i), i)
    for name in sorted(pattern.contracted):
        if name in env and not isinstance(env[name], list):
            op.contract(env[name])


def _read(op: Op, operand: Operand, axes: Axes, i: int) -> None:
    terms, star = operand.axes, operand.star
    if star is None:
        if len(axes) != len(terms):
            raise Unsure(f"rank {len(axes)} of {op.inputs[i]!r} does not fit the rule")
        for term, axis in zip(terms, axes, strict=True):
            _equate(op, term, axis)
        return
    before, after = star, len(terms) - star - 1
    if len(axes) < before + after:
        raise Unsure(f"rank {len(axes)} of {op.inputs[i]!r} does not fit the rule")
    for term, axis in zip(terms[:before], axes[:before], strict=True):
        _equate(op, term, axis)
    middle = axes[before : len(axes) - after]
    term = terms[star]
    assert isinstance(term, Star)
    if term.statistical:
        for axis in middle:
            op.statistical(axis)
    if term.name in op.env:
        op.env[term.name] = op.broadcast([op.env[term.name], middle])
    else:
        op.env[term.name] = middle
    for term, axis in zip(terms[star + 1 :], axes[len(axes) - after :], strict=True):
        _equate(op, term, axis)


def _equate(op: Op, term: Term, axis: Axis) -> None:
    if isinstance(term, Merge):
        term = _trimmed(op, term)
    if isinstance(term, Name):
        if term.statistical:
            op.statistical(axis)
        if term.name in op.env:
            op.unify(op.env[term.name], axis)
        else:
            op.env[term.name] = axis
    else:
        op.unify(_build(op, term, axis.size), axis)


def _build(op: Op, term: Term, size: int | None) -> Axis:
    """The axis that `term` describes; at most one name in it may be new, sized by the rest."""
    term = _trimmed(op, term)
    if isinstance(term, Name):
        if term.name not in op.env:
            op.env[term.name] = op.network.symbol(size)
        axis: Axis = op.env[term.name]
        if term.statistical:
            op.statistical(axis)
        return axis
    if isinstance(term, Number):
        return op.fixed(term.value, "fixed by the operator")
    assert not isinstance(term, Star), "no part of a merged axis is one"
    parts = _parts(term)
    rest = None if size is None else _rest(op, term, size)
    built = [_build(op, part, rest) for part in parts]  # those of known size ignore `rest`
    return product(built) if isinstance(term, Merge) else concat(built)


def _trimmed(op: Op, term: Term) -> Term:
    """`(g i)` is `i` where g is 1, as in most convolutions."""
    if not isinstance(term, Merge):
        return term
    factors = [each for each in term.factors if _size(op, each) != 1]
    return factors[0] if len(factors) == 1 else term


def _rest(op: Op, term: Merge | Runs, size: int) -> int | None:
    """What an axis of `size` leaves for the one part of `term` whose size is not known yet, if any.

    Raises Unsure where there are two, or where nothing can be left.
    """
    sizes = [_size(op, part) for part in _parts(term)]
    known = [each for each in sizes if each is not None]
    unknown = len(sizes) - len(known)
    if unknown > 1:
        raise Unsure("the sizes of two factors of one axis are unknown")
    if not unknown:
        return None
    if isinstance(term, Runs):
        rest = size - sum(known)
        if rest < 0:
            raise Unsure(f"an axis of {size} is too short for runs of {sum(known)}")
        return rest
    whole = math.prod(known)
    if not whole or size % whole:
        raise Unsure(f"an axis of {size} is not a multiple of {whole}")
    return size // whole


def _size(op: Op, term: Term) -> int | None:
    if isinstance(term, Name):
        axis = op.env.get(term.name)
        return axis.size if axis is not None else None
    if isinstance(term, Number):
        return term.value
    if isinstance(term, Star):
        return None
    sizes = [_size(op, part) for part in _parts(term)]
    known = [each for each in sizes if each is not None]
    if len(known) < len(sizes):
        return None
    return math.prod(known) if isinstance(term, Merge) else sum(known)


def _write(op: Op, operand: Operand, i: int) -> Axes:
    hint = op.network.shapes.get(op.outputs[i])
    fixed = len(operand.axes) - (operand.star is not None)
    axes: Axes = []
    for at, term in enumerate(operand.axes):
        if isinstance(term, Star):
            if term.name not in op.env:
                if hint is not None and len(hint) >= fixed:
                    width = len(hint) - fixed
                    sizes = hint[at : at + width]
                else:
                    known = [each for each in op.env.values() if isinstance(each, list)]
                    if not known:
                        raise Unsure(f"the rank of {op.outputs[i]!r} is unknown")
                    sizes = [None] * len(known[0])
                op.env[term.name] = [op.network.symbol(size) for size in sizes]
            axes.extend(op.env[term.name])
            continue
        if isinstance(term, Name) and term.name in op.env:
            axes.append(op.env[term.name])
            continue
        size = None
        if hint is not None:
            from_end = len(operand.axes) - at
            after_star = operand.star is not None and at > operand.star
            place = len(hint) - from_end if after_star else at
            if 0 <= place < len(hint):
                size = hint[place]
        if isinstance(term, Name):
            op.env[term.name] = op.network.symbol(size)
            axes.append(op.env[term.name])
        else:
            axes.append(_build(op, term, size if isinstance(size, int) else None))
    return axes


def _parts(term: Merge | Runs) -> tuple[Term, ...]:
    return term.factors if isinstance(term, Merge) else term.runs


_DEFAULTS: dict[tuple[str, str, str], Any] = {}


def _schema_default(domain: str, op_type: str, attribute: str) -> Any:
    """The default that the operator's schema gives an attribute, or None."""
    key = (domain, op_type, attribute)
    if key not in _DEFAULTS:
        _DEFAULTS[key] = None
        with contextlib.suppress(onnx.defs.SchemaError):
            found = onnx.defs.get_schema(op_type, domain).attributes.get(attribute)
            if found is not None and found.default_value.type:
                _DEFAULTS[key] = onnx.helper.get_attribute_value(found.default_value)
    if _DEFAULTS[key] is None and attribute == "group":
        return 1
    return _DEFAULTS[key]
