"""The table of operators: which function makes a node's torch call, found by name and version.

    @operator("Softmax", since=13)
    def softmax(node: Spec) -> Kernel:
        axis = node.attr("axis", -1)
        return lambda x: torch.softmax(x, axis)

A function reads the node's attributes once and returns its *kernel*: a function of the operands
(None where one is left out) that returns the output, or a tuple of outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from onnx import GraphProto

from ..errors import UnsupportedModel
from ..model import Node, attributes, node_name

if TYPE_CHECKING:
    from .graph import Body

Kernel = Callable[..., Any]


@dataclass(frozen=True)
class Operator:
    """What the table knows of one operator, from one version on."""

    build: Callable[[Spec], Kernel]
    since: int
    #: Operands read as Python numbers: they stay on the CPU whatever the device.
    host: frozenset[int] = frozenset()
    #: Operands that say how, not what: none has a gradient, and constants there are no weights.
    fixed: frozenset[int] = frozenset()
    #: Whether a gradient comes through it at all.
    differentiable: bool = True
    #: Whether it draws random numbers.
    random: bool = False


@dataclass
class Spec:
    """One node, as the functions of the table see it."""

    node: Node
    #: The version of its domain's operators that the model asks for.
    version: int
    #: What floats are computed in.
    dtype: torch.dtype
    #: Makes a body of the node runnable.
    compile: Callable[[GraphProto], Body]
    #: Element types (ONNX) of the model's constants and inputs.
    types: Mapping[str, int]
    attributes: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.attributes = attributes(self.node.proto)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value; bytes are decoded."""
        value = self.attributes.get(name, default)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, list) and value and isinstance(value[0], bytes):
            return [each.decode("utf-8", "replace") for each in value]
        return value

    @property
    def outputs(self) -> int:
        """How many outputs the node lists."""
        return len(self.node.outputs)

    def has(self, i: int) -> bool:
        """Whether operand `i` is given."""
        return i < len(self.node.inputs) and bool(self.node.inputs[i])

    def type_of(self, i: int) -> int:
        """The ONNX type of operand `i`, or 0 where it is computed."""
        return self.types.get(self.node.inputs[i], 0) if self.has(i) else 0

    def wants(self, i: int) -> bool:
        """Whether output `i` is given a name."""
        return i < len(self.node.outputs) and bool(self.node.outputs[i])

    def refuse(self, reason: str) -> UnsupportedModel:
        """The error that says what of this node there is no torch call for."""
        return UnsupportedModel(
            f"node {node_name(self.node.proto)!r} ({self.node.kind}): {reason}, and gradients can't"
            " be taken through it; prune without training, or export the model without it"
        )


_TABLE: dict[str, list[Operator]] = {}


def operator(
    *names: str,
    since: int = 1,
    host: Collection[int] = (),
    fixed: Collection[int] = (),
    differentiable: bool = True,
    random: bool = False,
) -> Callable[[Callable[[Spec], Kernel]], Callable[[Spec], Kernel]]:
    """Register a function for operators, `Name` or `domain.Name`, from a version on."""

    def register(build: Callable[[Spec], Kernel]) -> Callable[[Spec], Kernel]:
        made = Operator(
            build,
            since,
            frozenset(host),
            frozenset(fixed) | frozenset(host),
            differentiable,
            random,
        )
        for name in names:
            versions = _TABLE.setdefault(name, [])
            versions.append(made)
            versions.sort(key=lambda each: each.since)
        return build

    return register


def plain(*names: str, call: Kernel, since: int = 1, **known: Any) -> None:
    """Register operators without attributes: the torch call is the kernel."""
    operator(*names, since=since, **known)(lambda _: call)


def find(kind: str, version: int) -> Operator | None:
    """The newest entry that is not above `version`."""
    return next((e for e in reversed(_TABLE.get(kind, ())) if e.since <= version), None)


def known() -> Mapping[str, list[Operator]]:
    """The whole table: operators by name, oldest version first."""
    return _TABLE


def ints(value: Any) -> list[int]:
    """A shape-like operand as Python numbers."""
    found = value.tolist()
    return [int(each) for each in found] if isinstance(found, list) else [int(found)]
