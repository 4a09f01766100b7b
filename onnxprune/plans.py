"""The plan: which indices of which dims are kept. Plain JSON, readable, replayable.

A plan names each group once, with its kept indices, and says for every constant that changes how
its axes are made of groups, so the kept positions of each tensor follow without the model:

    "conv2.weight": {"0": "conv2.weight", "1": ["*", "conv1.weight#2", "conv1.weight"]}

An axis is a group's name, a number (a run that stays whole), `["+", ...]` (runs end to end) or
`["*", ...]` (a row-major product).

Where heads, or the groups of a convolution, keep channels of their own, the group says which dim
they are the indices of, by name and size, and what is kept is a list with a row for each of them:

    {"name": "k.weight", "size": 4, "outer": ["k.weight/outer", 2], "kept": [[0, 1], [1, 3]], ...}
    "k.weight": {"1": ["*", "k.weight/outer", "k.weight"]}

keeps positions 0, 1, 5 and 7. The row is that of the dim of this name in the same product, which
may be a group and lose indices as well. Without `outer`, `kept` is one list.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .axes import Axis, Choice, Concat, Dim, Index, Product, Rows, kept_size, resolve, select
from .errors import PlanMismatch, UsageError
from .groups import Group
from .importance import Scores
from .network import Network
from .rewrite import tensor_positions

SCHEMA = 1

#: `{constant: {axis: kept positions}}`
Kept = Mapping[str, Mapping[int, Index]]


@dataclass
class PlannedGroup:
    """What is kept of one group."""

    name: str
    size: int
    #: Ascending indices of channels; with `outer`, a row of them for each of its indices.
    kept: list[int] | list[list[int]]
    #: `exact` or `statistical`
    kind: str
    role: str
    #: One score for each of the group's `size` channels; with `outer`, row after row.
    scores: list[float]
    #: (tensor, axis) of every member.
    members: list[tuple[str, int]]
    #: Name and size of the dim (heads, groups) each index of which keeps channels of its own.
    outer: tuple[str, int] | None = None

    @property
    def width(self) -> int:
        """How many channels are kept; with `outer`, in each row."""
        return int(np.shape(self.kept)[-1])


@dataclass
class Plan:
    """A complete choice of channels for one model, or for others of the same structure."""

    model: dict[str, Any]
    options: dict[str, Any]
    groups: list[PlannedGroup]
    #: How the axes of every tensor that changes are made of groups.
    tensors: dict[str, dict[str, Any]]
    version: str = ""
    schema: int = SCHEMA
    #: Reference names that loading made, by the tensor that they are copies of.
    copies: dict[str, str] = field(default_factory=dict)

    @cached_property
    def kept(self) -> dict[str, dict[int, Index]]:
        """`{constant: {axis: int64 array of kept positions}}`, for the axes that are pruned.

        The names are those of the reference: an initializer, or a Constant node's output.
        """
        dims = {name: Dim(size) for name, size in _sizes(self.groups).items()}
        choice: dict[Dim, Index | Rows] = {}
        for group in self.groups:
            index = np.array(group.kept, dtype=np.int64)
            choice[dims[group.name]] = Rows(dims[group.outer[0]], index) if group.outer else index
        try:
            return {
                tensor: {
                    int(axis): select(_axis(spelled, dims), choice)
                    for axis, spelled in axes.items()
                }
                for tensor, axes in self.tensors.items()
            }
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UsageError(f"the plan is damaged: {error}") from error

    def to_state_dict_slices(self) -> dict[str, list[tuple[int, list[int]]]]:
        """For each parameter the `(axis, indices)` to select, to cut a checkpoint of these names.

        for name, slices in plan.to_state_dict_slices().items():
            for axis, indices in slices:
                state[name] = state[name].index_select(axis, torch.tensor(indices))
        """
        return {
            name: [(axis, index.tolist()) for axis, index in axes.items()]
            for name, axes in self.kept.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in a fixed order."""
        return {
            "schema": self.schema,
            "version": self.version,
            "model": self.model,
            "options": self.options,
            "groups": [dict(vars(group)) for group in self.groups],
            "tensors": self.tensors,
            "copies": self.copies,
        }

    def to_json(self) -> str:
        """The document that `save` writes; the same plan always gives the same text."""
        head = {key: value for key, value in self.to_dict().items() if key != "groups"}
        text = json.dumps(head, indent=1, ensure_ascii=False)
        # One line for each group, so that a person can read the file and a tool can compare two.
        groups = ",\n  ".join(json.dumps(vars(g), ensure_ascii=False) for g in self.groups)
        return text[:-2] + ',\n "groups": [\n  ' + groups + "\n ]\n}\n"

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, replacing what is there."""
        from .saving import write_atomically

        write_atomically(Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan. Raises UsageError where the file is not one."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls.from_dict(document, str(path))
        except OSError as error:
            raise UsageError(f"{path}: the plan can't be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: not a plan: {error}") from None

    @classmethod
    def from_dict(cls, document: Any, source: str = "plan") -> Plan:
        """A plan from its JSON document. Raises UsageError where it is not one."""
        where = f"{source}: not a plan"
        fields = _typed(document, dict, where)
        schema = _field(fields, "schema", int, where)
        if schema != SCHEMA:
            raise UsageError(f"{source}: a plan of schema {schema}; this version reads {SCHEMA}")
        groups = [
            _group(each, f"{where}: groups[{i}]")
            for i, each in enumerate(_field(fields, "groups", [dict], where))
        ]
        sizes = _sizes(groups)
        tensors = _field(fields, "tensors", dict, where)
        for tensor, axes in tensors.items():
            here = f"{where}: tensors[{tensor!r}]"
            for axis, spelled in _typed(axes, dict, here).items():
                if not axis.isdecimal():
                    raise UsageError(f"{here}: {axis!r} is not the number of an axis")
                _check_spelled(spelled, sizes, f"{here}[{axis}]")
        copies = _typed(fields.get("copies", {}), dict, f"{where}: copies")
        return cls(
            _field(fields, "model", dict, where),
            _field(fields, "options", dict, where),
            groups,
            tensors,
            _typed(fields.get("version", ""), str, f"{where}: version"),
            SCHEMA,
            copies,
        )


# -- reading a document that may be damaged ------------------------------------------------------

#: The JSON type of each field of a group: `[x]` is a list of x, a tuple a list of that length.
_GROUP: dict[str, Any] = {
    **{"name": str, "size": int, "kept": list, "kind": str, "role": str, "scores": [float]},
    "members": [(str, int)],
}
_WORDS = {str: "a string", int: "an integer", float: "a number", dict: "an object"}
#: No axis of a weight is longer.
_LONGEST = 2**28


def _typed(value: Any, kind: Any, where: str) -> Any:
    """`value`, where it is of that JSON type. Raises UsageError."""
    if isinstance(kind, (list, tuple)):
        items = _typed_list(value, where)
        if isinstance(kind, tuple) and len(items) != len(kind):
            raise UsageError(f"{where}: {len(kind)} entries were expected, not {len(items)}")
        kinds = kind if isinstance(kind, tuple) else kind * len(items)
        found = [
            _typed(item, each, f"{where}[{i}]")
            for i, (item, each) in enumerate(zip(items, kinds, strict=True))
        ]
        return tuple(found) if isinstance(kind, tuple) else found
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise UsageError(f"{where}: {_WORDS[kind]} was expected, not {str(value)[:40]!r}")
    return value


def _typed_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError(f"{where}: a list was expected, not {str(value)[:40]!r}")
    return value


def _field(fields: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
    if name not in fields:
        raise UsageError(f"{where}: it has no {name!r}")
    return _typed(fields[name], kind, f"{where}: {name}")


def _group(document: Mapping[str, Any], where: str) -> PlannedGroup:
    given = document.get("outer")
    outer = None if given is None else _typed(given, (str, int), f"{where}: outer")
    kinds = {**_GROUP, "kept": [int] if outer is None else [[int]]}
    fields = {name: _field(document, name, kind, where) for name, kind in kinds.items()}
    group = PlannedGroup(**fields, outer=outer)
    rows: list[Any] = [group.kept] if outer is None else list(group.kept)
    for kept in rows:
        if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= group.size:
            raise UsageError(
                f"{where}: the kept indices of {group.name!r} are not some of 0 to"
                f" {group.size - 1}, in order"
            )
    if outer is not None and (len(rows) != outer[1] or len(set(map(len, rows))) != 1):
        raise UsageError(
            f"{where}: {group.name!r} keeps other numbers of indices than one for each of"
            f" the {outer[1]} of {outer[0]!r}"
        )
    return group


def _check_spelled(spelled: Any, sizes: Mapping[str, int], where: str) -> int:
    """The size of a spelled axis. Raises UsageError where it is none."""
    size = 0
    if isinstance(spelled, str):
        if spelled not in sizes:
            raise UsageError(f"{where}: there is no group {spelled!r}")
        size = sizes[spelled]
    elif isinstance(spelled, list) and len(spelled) > 1 and spelled[0] in ("+", "*"):
        parts = [_check_spelled(part, sizes, where) for part in spelled[1:]]
        size = sum(parts) if spelled[0] == "+" else math.prod(parts)
    elif isinstance(spelled, int) and not isinstance(spelled, bool):
        size = spelled
    if not 0 < size <= _LONGEST:
        raise UsageError(f"{where}: {str(spelled)[:40]!r} is not an axis")
    return size


# -- axes, spelled out ---------------------------------------------------------------------------


def _sizes(groups: Sequence[PlannedGroup]) -> dict[str, int]:
    """The sizes of the dims that a plan has names for. Raises UsageError where two differ."""
    sizes = {group.name: group.size for group in groups}
    for group in groups:
        if group.outer and sizes.setdefault(*group.outer) != group.outer[1]:
            raise UsageError(f"the plan is damaged: {group.outer[0]!r} has two sizes")
    return sizes


def _axis(spelled: Any, dims: Mapping[str, Dim]) -> Axis:
    """The axis that is spelled, over the dims of these names."""
    if isinstance(spelled, (str, int)):
        return dims[spelled] if isinstance(spelled, str) else Dim(spelled)
    parts = [_axis(part, dims) for part in spelled[1:]]
    if spelled[0] not in ("+", "*"):
        raise ValueError(f"unknown axis {spelled!r}")
    return Concat(parts) if spelled[0] == "+" else Product(parts)


def _spelled(axis: Axis, names: Mapping[Dim, str]) -> Any:
    axis = resolve(axis)
    if isinstance(axis, Dim):
        return names.get(axis, axis.size)
    parts = [_spelled(part, names) for part in axis.parts]
    return ["+" if isinstance(axis, Concat) else "*", *parts]


def make_plan(
    network: Network,
    groups: Sequence[Group],
    kept: Sequence[Index | Rows],
    scores: Sequence[Scores],
    options: Mapping[str, Any],
    version: str,
) -> Plan:
    """The plan that keeps `kept[i]` of `groups[i]`. Groups that lose nothing are left out."""
    planned: list[PlannedGroup] = []
    names: dict[Dim, str] = {}
    choice: dict[Dim, Index | Rows] = {}
    for group, chosen, score in zip(groups, kept, scores, strict=True):
        if kept_size(chosen) == group.size:
            continue
        names[group.dim], choice[group.dim] = group.name, chosen
        index = chosen.indices if isinstance(chosen, Rows) else chosen
        outer = None
        if isinstance(chosen, Rows):
            names[chosen.outer] = group.outer_name
            outer = (group.outer_name, group.rows)
        planned.append(
            PlannedGroup(
                group.name,
                group.size,
                index.tolist(),
                group.kind,
                group.role,
                [float(f"{value:.6g}") for value in score],
                list(dict.fromkeys((m.tensor, m.axis) for m in group.members)),
                outer,
            )
        )
    tensors = {
        name: {str(i): _spelled((network.axes.get(name) or [])[i], names) for i in sorted(axes)}
        for name, axes in tensor_positions(network, choice).items()
    }
    model = network.model
    return Plan(
        {"sha256": model.sha256, "name": model.path.name if model.path else ""},
        dict(options),
        planned,
        tensors,
        version,
        copies={copy: source for copy, source in model.copies.items() if copy in tensors},
    )


def _kept_of(group: Group, cells: Index) -> Index | Rows:
    """The channels of the cells that are kept; in rows where these differ.

    Rows of which nothing is kept go with their index of `outer`: they are given those of another.
    """
    channels = np.unique(cells % group.size)
    rows = [np.unique(cells[cells // group.size == row] % group.size) for row in range(group.rows)]
    there = [row for row in rows if len(row)]
    same = all(np.array_equal(row, channels) for row in there)
    if group.outer is None or same or len(set(map(len, there))) != 1:
        return channels
    return Rows(group.outer, np.stack([row if len(row) else there[0] for row in rows]))


def choice_of(plan: Plan, network: Network, groups: Sequence[Group]) -> Choice:
    """The choice that a plan means for a model, which need not be the one that it was made for.

    Every group takes its kept indices from the first of its members that the plan names; then all
    tensors that both have are compared.

    Raises PlanMismatch where the plan does not fit.
    """
    choice = choice_from(plan.kept, network, groups)
    reached = plan.kept.keys() & network.model.constants.keys()
    for planned in plan.groups:
        if not any(tensor in reached for tensor, _ in planned.members):
            raise PlanMismatch(
                f"the plan does not fit: none of the tensors of group {planned.name!r} is in this"
                " model; make a plan of this model with `onnxprune plan`"
            )
    return choice


def composed(first: Kept, then: Kept) -> dict[str, dict[int, Index]]:
    """What is kept of each constant by a plan, and of that by a plan for the model it gave."""
    found = {name: dict(axes) for name, axes in first.items()}
    for name, axes in then.items():
        for axis, index in axes.items():
            before = found.setdefault(name, {}).get(axis)
            found[name][axis] = index if before is None else before[index]
    return found


def choice_from(kept: Kept, network: Network, groups: Sequence[Group]) -> Choice:
    """The choice that keeps these positions of constants; raises PlanMismatch where none does."""
    choice: dict[Dim, Index | Rows] = {}
    constants = network.model.constants
    for name, axes in kept.items():
        if name not in constants:
            continue
        for axis, index in axes.items():
            dims = list(constants[name].dims)
            if axis >= len(dims) or index.max() >= dims[axis]:
                raise PlanMismatch(
                    f"the plan cuts axis {axis} of {name!r} up to index {index.max()}, but it has"
                    f" the shape {dims}; the plan was made for another model"
                )
    for group in groups:
        for member in group.members:
            given = kept.get(member.tensor, {}).get(member.axis)
            if given is not None:
                found = _kept_of(group, member.channels[np.isin(member.positions, given)])
                if 0 < kept_size(found) < group.size:
                    choice[group.dim] = found
                break
    here = tensor_positions(network, choice)
    for name, axes in kept.items():
        if name not in constants:
            continue
        for axis, index in axes.items():
            # An edited plan may keep all of a group: then nothing of that axis is cut.
            now = here.get(name, {}).get(axis, np.arange(constants[name].dims[axis]))
            if not np.array_equal(now, index):
                raise PlanMismatch(
                    f"the plan does not fit: axis {axis} of {name!r} can't be cut as it says in"
                    " this model; make a plan of this model with `onnxprune plan`"
                )
    return choice
