"""Rule tables: `rules/*.toml` read into `Rule` objects, one per operator.

    [Conv]
    axes  = "n (g i) *s, (g o) i *k, (g o)? -> n (g o) *t"
    pin   = { s = "spatial", k = "kernel", t = "spatial" }
    bind  = { g = "group" }
    score = [1, 2]
    zero  = "0*1 + 2"

`axes` is a pattern (see `notation`), or `function` names a Python rule (see `operators`) for an
operator whose axes depend on values, attributes or ranks; with both, the function begins with the
pattern. A table with `ops = [...]` is a family:
it stands for each of those operators. `pinned = "reason"` alone says that an operator is known and
that nothing around it can be pruned, and why.

A user's own operators come from such a file (`--rules my_ops.toml`) or from a decorated function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RuleError
from .notation import Pattern, parse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from .op import Op

Function = Callable[["Op"], None]

#: Python rules by the name that tables call them by.
FUNCTIONS: dict[str, Function] = {}


def function(name: str) -> Callable[[Function], Function]:
    """Register a Python rule under `name`, for a table's `function = "name"`."""

    def register(rule: Function) -> Function:
        FUNCTIONS[name] = rule
        return rule

    return register


#: The inputs that must be zero for the output to be zero: a sum of products of operand numbers.
#: `((0, 1), (2,))` is `0*1 + 2`; `None` is an operator that makes something of zero.
Zero = tuple[tuple[int, ...], ...]

#: In a `zero` expression: every operand from the one before it on.
REST = -1


@dataclass(frozen=True)
class Rule:
    """What is known of one operator: `pattern`, `function` (or both), or `pinned`."""

    name: str
    pattern: Pattern | None = None
    function: str | None = None
    pinned: str | None = None
    pin: Mapping[str, str] = field(default_factory=dict)
    bind: Mapping[str, str] = field(default_factory=dict)
    score: tuple[int, ...] = ()
    zero: Zero | None = None
    sums: Zero | None = None
    nonzero: tuple[int, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    passes: bool = False
    #: Quantised operands: numbers of the codes, their scale and their zero point, and the axis that
    #: these are along if they are not one for all; without it, the attribute `axis` says so.
    codes: tuple[tuple[int, ...], ...] = ()
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "axes": self.pattern.text if self.pattern else None,
            "function": self.function,
            "pinned": self.pinned,
            "pin": dict(self.pin),
            "bind": dict(self.bind),
            "score": list(self.score),
            "roles": dict(self.roles),
            "source": self.source,
        }


#: The keys of a table, what each holds, and how to say so.
_KEYS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "ops": (list, "a list of operators"),
    "axes": (str, "a pattern in quotes"),
    "function": (str, "the name of a registered function"),
    "pinned": (str, "a reason"),
    "pin": ((dict, list), "names of the pattern, each with a reason"),
    "bind": (dict, "names of the pattern, each with an attribute"),
    "score": (list, "a list of operand numbers"),
    "zero": (str, "operand numbers, as in '0*1 + 2'"),
    "sums": (str, "operand numbers, as in '0*1 + 2'"),
    "nonzero": (list, "a list of operand numbers"),
    "roles": (dict, "names of the pattern, each with a role"),
    "passes": (bool, "true or false"),
    "codes": (list, "lists of operand numbers: codes, scale, zero point, and the axis of both"),
}
_ELEMENTS: dict[str, type] = {
    **{"ops": str, "pin": str, "bind": str, "score": int, "nonzero": int, "roles": str}
}
#: Keys that hold sums of products of operand numbers.
_TERMS = ("zero", "sums")
ROLES = ("heads", "head-dim", "ffn", "hidden", "channels")
#: Roles that tables may give and that are not asked for by name.
_INNER_ROLES = ("conv-groups", "projection")


def read_tables(text: str, source: str) -> dict[str, Rule]:
    """The rules of one TOML document. Raises RuleError that names `source` and the table."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"{source}: not valid TOML: {error}") from None
    rules: dict[str, Rule] = {}
    for title, table in document.items():
        where = f"{source}: [{title}]"
        if not isinstance(table, dict):
            raise RuleError(f"{where}: a table was expected, as in\n    [MyOp]\n    axes = ...")
        if unknown := table.keys() - _KEYS.keys():
            raise RuleError(
                f"{where}: unknown key {sorted(unknown)[0]!r}; known are {', '.join(sorted(_KEYS))}"
            )
        for key, value in table.items():
            kind, words = _KEYS[key]
            fits = isinstance(value, kind)
            if fits and key in _ELEMENTS:
                elements = value.values() if isinstance(value, dict) else value
                fits = all(isinstance(each, _ELEMENTS[key]) for each in elements)
            if not fits:
                raise RuleError(f"{where}: {key} = {value!r}; write {words}")
        for name in table.get("ops", [title]):
            rules[name] = _rule(name, table, where)
    return rules


def _rule(name: str, table: Mapping[str, Any], where: str) -> Rule:
    kinds = [key for key in ("axes", "function", "pinned") if key in table]
    if len(kinds) != 1 and kinds != ["axes", "function"]:
        raise RuleError(f"{where}: give one of `axes`, `function` and `pinned`, not {len(kinds)}")
    pattern = None
    if "axes" in table:
        try:
            pattern = parse(table["axes"])
        except RuleError as error:
            raise RuleError(f"{where}: {error}") from None
    if "function" in table and table["function"] not in FUNCTIONS:
        raise RuleError(f"{where}: no function {table['function']!r} is registered")
    pin = table.get("pin", {})
    if not isinstance(pin, dict):
        pin = {each: f"positions along {each!r} matter" for each in pin}
    roles = table.get("roles", {})
    names = pattern.names if pattern else frozenset()
    for key, given in (("pin", pin), ("bind", table.get("bind", {})), ("roles", roles)):
        for each in given:
            if pattern and each not in names:
                raise RuleError(f"{where}: {key} names {each!r}, which is not in the pattern")
    for role in roles.values():
        if role not in (*ROLES, *_INNER_ROLES):
            raise RuleError(f"{where}: unknown role {role!r}; known are {', '.join(ROLES)}")
    zero, sums = (_zero(key, table[key], where) if key in table else None for key in _TERMS)
    score = tuple(table.get("score", ()))
    if pattern and not (pattern.inputs and pattern.inputs[-1].repeated):
        named = [i for term in zero or () for i in term], [i for term in sums or () for i in term]
        for key, numbers in zip(("score", *_TERMS), (score, *named), strict=True):
            for each in numbers:
                if each >= len(pattern.inputs):
                    raise RuleError(
                        f"{where}: {key} names operand {each}; the pattern has"
                        f" {len(pattern.inputs)}, counted from 0"
                    )
    return Rule(
        name=name,
        pattern=pattern,
        function=table.get("function"),
        pinned=table.get("pinned"),
        pin=pin,
        bind=table.get("bind", {}),
        score=score,
        zero=zero,
        sums=zero if sums is None else sums,
        nonzero=tuple(table.get("nonzero", ())),
        roles=roles,
        passes=bool(table.get("passes", False)),
        codes=tuple(map(tuple, table.get("codes", ()))),
        source=where,
    )


def _zero(key: str, text: str, where: str) -> Zero:
    try:
        return tuple(
            tuple(_operand(part.strip()) for part in term.split("*")) for term in text.split("+")
        )
    except ValueError:
        raise RuleError(f"{where}: {key} = {text!r}; write operand numbers, as `0*1 + 2`") from None


def _operand(text: str) -> int:
    if text == "...":
        return REST
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


def tables_folder() -> Path:
    """Where the tables lie: in the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "rules"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "rules"


@lru_cache(maxsize=1)
def built_in() -> Mapping[str, Rule]:
    """The project's own rules, keyed by operator name; contrib ones as `com.microsoft.Name`."""
    from . import operators  # noqa: F401  (registers the Python rules)

    rules: dict[str, Rule] = {}
    for path in sorted(tables_folder().glob("*.toml")):
        for name, rule in read_tables(path.read_text(encoding="utf-8"), path.name).items():
            if name in rules:
                raise RuleError(f"{rule.source}: {name} has a rule already: {rules[name].source}")
            rules[name] = rule
    return rules


def with_user_rules(files: Iterable[str | Path] = ()) -> Mapping[str, Rule]:
    """The built-in rules, overridden by those of the given TOML files.

    Raises RuleError where a file can't be read or a table is wrong.
    """
    rules = dict(built_in())
    for file in files:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RuleError(f"{file}: the rules can't be read: {error}") from None
        rules.update(read_tables(text, str(file)))
    return rules


def operator_name(domain: str, op_type: str) -> str:
    """The name that tables know an operator by."""
    return op_type if domain in ("", "ai.onnx") else f"{domain}.{op_type}"
