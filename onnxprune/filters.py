"""Which groups a user lets the program touch: by role, by exactness, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .axes import Dim, leaves
from .errors import UsageError
from .groups import Group
from .model import node_name
from .network import Network
from .tables import ROLES
from .words import near


@dataclass(frozen=True)
class Filter:
    """`include` and `exclude` are globs over the names of nodes and of constants."""

    only: tuple[str, ...] = ()
    exact_only: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: Whether heads and groups that could keep channels of their own all keep the same.
    common_choice: bool = False

    def __post_init__(self) -> None:
        for role in self.only:
            if role not in ROLES:
                raise UsageError(f"unknown role {role!r}; known are {', '.join(ROLES)}")

    def apply(self, network: Network, groups: Sequence[Group]) -> list[Group]:
        """The groups that may be pruned.

        Raises UsageError where a glob matches nothing.
        """
        kept = self._touched(network, self.exclude)
        included = self._touched(network, self.include, weights_only=True)
        return [
            group.common() if self.common_choice else group
            for group in groups
            if group.dim not in kept
            and (not self.include or group.dim in included)
            and (not self.exact_only or group.exact)
            and (group.role in self.only if self.only else group.role != "second-factor")
        ]

    @staticmethod
    def _touched(network: Network, globs: Sequence[str], weights_only: bool = False) -> set[Dim]:
        """The dims of all that matching nodes read and write, or of their weights only."""
        touched: set[Dim] = set()
        for glob in globs:
            tensors: set[str] = set()
            names: set[str] = set()
            for record in network.records:
                node = record.node
                weights = [name for name in node.input if name in network.model.constants]
                names.update([node_name(node), *weights])
                if fnmatchcase(node_name(node), glob) or any(fnmatchcase(w, glob) for w in weights):
                    tensors.update(weights)
                    if not weights_only:
                        tensors.update(name for name in (*node.input, *node.output) if name)
            if not tensors:
                raise UsageError(f"no node and no initializer matches {glob!r}{near(glob, names)}")
            for name in tensors:
                for axis in network.axes.get(name) or ():
                    touched.update(leaves(axis))
        return touched
