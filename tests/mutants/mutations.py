"""What is changed: cosmic-ray's operators, and a few that it lacks, applied to one module.

Of the replacements of a comparison or of arithmetic, those are made that the others follow from: a
test that tells `<` from `<=`, from `!=` and from `>=` tells it from all.
"""

from __future__ import annotations

import ast
import copy
import difflib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parent.parent.parent

#: Where what is in no function stands.
OUTSIDE = "(outside of functions)"

_BINARY = (
    *("Add_Sub", "Add_Mul", "Sub_Add", "Sub_Mul", "Mul_Add", "Mul_FloorDiv", "Pow_Mul"),
    *("Div_Mul", "FloorDiv_Mul", "FloorDiv_Mod", "Mod_FloorDiv", "Mod_Mul"),
    *("BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitOr", "LShift_RShift", "RShift_LShift"),
)
_COMPARISONS = (
    *("Eq_NotEq", "Eq_LtE", "Eq_GtE", "NotEq_Eq", "NotEq_Lt", "NotEq_Gt"),
    *("Lt_LtE", "Lt_NotEq", "Lt_GtE", "LtE_Lt", "LtE_Eq", "LtE_Gt"),
    *("Gt_GtE", "Gt_NotEq", "Gt_LtE", "GtE_Gt", "GtE_Eq", "GtE_Lt"),
    *("Is_IsNot", "IsNot_Is"),
)
_COMMENT = re.compile(r"(^|\s\s)# .*$")
_OTHERS = (
    *("ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not"),
    *("ReplaceUnaryOperator_Delete_Invert", "AddNot", "ReplaceTrueWithFalse"),
    *("ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer"),
    *("NumberReplacer", "RemoveDecorator", "ZeroIterationForLoop"),
)


class RemoveStatement(Operator):
    """`pass` in place of a simple statement of a function; of a `return x`, `return None`."""

    _KINDS = ("expr_stmt", "atom_expr", "power", "raise_stmt", "yield_expr", "del_stmt")

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type != "simple_stmt" or parso.tree.search_ancestor(node, "funcdef") is None:
            return
        statement = node.children[0]
        returns = statement.type == "return_stmt" and statement.children[1].get_code() != " None"
        if statement.type in self._KINDS or returns:
            yield statement.start_pos, statement.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        statement = node.children[0]
        word = "return None" if statement.type == "return_stmt" else "pass"
        node.children[0] = parso.parse(statement.get_first_leaf().prefix + word)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class NegateFilter(Operator):
    """`if not (x)` in place of `if x` in a comprehension."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "comp_if":
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = parso.parse(f" not ({node.children[1].get_code().strip()})")
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def key(module: str, where: str, line: str, becomes: str) -> str:
    """What journals, and the list of equivalent ones, call a mutant."""
    return f"{module}: {where}: {line} --> {becomes}".strip()


@dataclass(frozen=True)
class Mutant:
    """One file, changed in one place."""

    #: `axes`, or `rules/linear.toml`.
    module: str
    #: The function, or the table.
    where: str
    #: What stands there, and what it becomes: the lines that differ, without indentation.
    line: str
    becomes: str
    #: Lines of the statement that is changed, the first and the last, counted from 1.
    first: int
    last: int
    #: The whole file, changed.
    source: str
    #: Which of several that read the same.
    twin: int = 0

    @property
    def key(self) -> str:
        """What journals call it: does not change when something else in the file does."""
        more = f" ({self.twin + 1})" if self.twin else ""
        return key(self.module, self.where, self.line, self.becomes + more)


def path_of(module: str) -> Path:
    return ROOT / (module if module.endswith(".toml") else f"onnxprune/{module}.py")


def of_module(module: str) -> list[Mutant]:
    """All mutants of one module, those aside that differ in annotations only."""
    source = path_of(module).read_text(encoding="utf-8")
    tree = ast.parse(source)
    untried = _annotations(tree)
    nodes = list(ast_nodes(get_ast(source)))
    found: list[Mutant] = []
    seen: set[str] = set()
    for operator in _operators():
        for node in nodes:
            for index, (start, _) in enumerate(operator.mutation_positions(node)):
                if any(first <= start < last for first, last in untried):
                    continue
                changed = _mutated(source, operator, node, index)
                if changed not in seen and _compiles(changed):
                    seen.add(changed)
                    found.append(_mutant(module, source, changed, tree, start[0]))
    found.sort(key=lambda mutant: mutant.first)
    return numbered(found)


def _mutated(source: str, operator: Operator, node: Any, index: int) -> str:
    """The source after one mutation of one node, of which a copy is changed."""
    changed = operator.mutate(copy.deepcopy(node, {id(node.parent): node.parent}), index)
    lines = source.splitlines(keepends=True)
    (top, left), (bottom, right) = node.get_start_pos_of_prefix(), node.end_pos
    before = [*lines[: top - 1], lines[top - 1][:left]]
    after = [lines[bottom - 1][right:], *lines[bottom:]] if bottom <= len(lines) else []
    return "".join([*before, "" if changed is None else changed.get_code(), *after])


def _compiles(source: str) -> bool:
    """False of `{*at}`, made of `{**at}`."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def numbered(mutants: list[Mutant]) -> list[Mutant]:
    """With those that read the same told apart."""
    copies: Counter[str] = Counter()
    told = []
    for each in mutants:
        told.append(Mutant(**{**vars(each), "twin": copies[each.key]}))
        copies[each.key] += 1
    return told


def changed_lines(before: str, after: str) -> tuple[str, str]:
    """The lines that differ, on one line each, without comments."""
    one, other = before.splitlines(), after.splitlines()
    blocks = difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    changes = [each for each in blocks if each[0] != "equal"]
    gone = [_COMMENT.sub("", line) for _, a, b, _, _ in changes for line in one[a:b]]
    come = [_COMMENT.sub("", line) for _, _, _, a, b in changes for line in other[a:b]]
    return " ".join(" ".join(gone).split()), " ".join(" ".join(come).split())


def _operators() -> Iterator[Operator]:
    yield from (get_operator(f"core/ReplaceBinaryOperator_{name}")() for name in _BINARY)
    yield from (get_operator(f"core/ReplaceComparisonOperator_{name}")() for name in _COMPARISONS)
    yield from (get_operator(f"core/{name}")() for name in _OTHERS)
    yield from (RemoveStatement(), NegateFilter())


def _mutant(module: str, source: str, changed: str, tree: ast.Module, line: int) -> Mutant:
    gone, come = changed_lines(source, changed)
    function, names = enclosing(tree, line)
    first, last = _statement(function or tree, line)
    where = ".".join(names if function else (*names, OUTSIDE))
    return Mutant(module, where, gone, come, first, last, changed)


def enclosing(tree: ast.Module, line: int) -> tuple[ast.FunctionDef | None, tuple[str, ...]]:
    """The function or method in whose body a line stands, and its name."""
    names: tuple[str, ...] = ()
    inner: ast.Module | ast.ClassDef = tree
    while True:
        for node in inner.body:
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                continue
            if node.body[0].lineno <= line <= (node.end_lineno or 0):
                names = (*names, node.name)
                if isinstance(node, ast.FunctionDef):
                    return node, names
                inner = node
                break
        else:
            return None, names


def _statement(within: ast.AST, line: int) -> tuple[int, int]:
    """The first and the last line of the innermost statement at a line, without its body."""
    found = (line, line)
    for node in ast.walk(within):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or 0
            if node.lineno <= line <= last:
                found = node.lineno, max(node.lineno, last)
    return found


def _annotations(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations stand: nothing evaluates them."""
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(node.returns)
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            found.append(node.annotation)
    return [
        ((each.lineno, each.col_offset), (each.end_lineno or 0, each.end_col_offset or 0))
        for each in found
        if each is not None
    ]
