"""Running a model piece by piece, each node once for each batch, however many layers are fitted.

A `Frontier` holds the activations at the line between what has run and what has not. Asked for a
tensor, it runs the nodes in between, as a model of their own, and keeps what later nodes read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from ..errors import UnsupportedModel
from ..model import Array, reads
from ..runtime import Feeds, run, session
from .store import Store


class Frontier:
    """A model on its way through the calibration data.

    Args:
        model: it may be changed, as long as no node that has run is.
        batches: the model's inputs, batch by batch.
        wanted: tensors that will be asked for, each as often as it will be released.
    """

    def __init__(
        self,
        model: ModelProto,
        batches: Sequence[Feeds],
        store: Store,
        *,
        wanted: Iterable[str] = (),
        base_dir: Path = Path("."),
        threads: int = 1,
        tag: str = "",
    ) -> None:
        self.model, self.store, self.tag = model, store, tag
        self.base_dir, self.threads = base_dir, threads
        self.count = len(batches)
        self.wanted = Counter(wanted)
        #: Nodes that have run, by their first output: indices move when a node is inserted.
        self.done: set[str] = set()
        self.inputs = [value.name for value in model.graph.input]
        for i, feeds in enumerate(batches):
            for name, value in feeds.items():
                store.put(tag + name, i, value)
        self.reindex()

    def reindex(self) -> None:
        """Read the model anew, after nodes that have not run were changed."""
        graph = self.model.graph
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.free: set[int] = set()
        self.producer: dict[str, int] = {}
        self.readers: dict[str, set[str]] = {}
        for i, node in enumerate(graph.node):
            if node.op_type == "Constant":
                self.free.add(i)
            for name in node.output:
                if name:
                    self.producer[name] = i
            for name in reads(node):
                self.readers.setdefault(name, set()).add(_key(node))

    def get(self, name: str, batch: int) -> Array:
        """One batch of a tensor that has been advanced to."""
        return self.store.get(self.tag + name, batch)

    def replace(self, name: str, batch: int, value: Array) -> None:
        """One batch of a tensor is this from now on."""
        self.store.put(self.tag + name, batch, value)

    def release(self, names: Iterable[str]) -> None:
        """These are not asked for again (once for each time they were announced)."""
        for name in names:
            self.wanted[name] -= 1
            self._drop_if_idle(name)

    def advance(self, wanted: Iterable[str]) -> None:
        """Run what these tensors depend on."""
        wanted = {name for name in wanted if self.tag + name not in self.store}
        nodes = self._before(wanted)
        if not nodes:
            return
        run_now = sorted(nodes - self.free)
        self.done.update(_key(self.model.graph.node[i]) for i in run_now)
        made = {n for i in run_now for n in self.model.graph.node[i].output if n}
        outputs = sorted(name for name in made if name in wanted or self._live(name))
        inputs = sorted(
            {
                name
                for i in nodes
                for name in reads(self.model.graph.node[i])
                if name not in made and self.tag + name in self.store
            }
        )
        live = self.session(self._piece(sorted(nodes), self._first(inputs), outputs))
        self.run_over(live, inputs)
        for name in inputs:
            self._drop_if_idle(name)

    def run_over(self, live: Any, inputs: Sequence[str]) -> None:
        """Run a piece on every batch, and keep what it gives."""
        for batch in range(self.count):
            feeds = {name: np.asarray(self.get(name, batch)) for name in inputs}
            for name, value in run(live, feeds).items():
                self.store.put(self.tag + name, batch, value)

    def session(self, piece: ModelProto) -> Any:
        """A piece of this model, ready to run."""
        return session(piece, optimize=True, threads=self.threads, base_dir=self.base_dir)

    def ahead(self, outputs: Sequence[str]) -> tuple[ModelProto, list[str]]:
        """All that is still to run for `outputs`, as a model, and what it reads of the frontier."""
        nodes = sorted(self._before(outputs))
        graph = self.model.graph
        made = {n for i in nodes for n in graph.node[i].output if n}
        inputs = sorted(
            {
                name
                for i in nodes
                for name in reads(graph.node[i])
                if name not in made and self.tag + name in self.store
            }
        )
        return self._piece(nodes, self._first(inputs), outputs), inputs

    def between(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Any:
        """All that lies between some tensors and others, ready to run.

        Args:
            inputs: for each of the first, what it is like.
        """
        found: set[int] = set()
        todo = list(outputs)
        while todo:
            name = todo.pop()
            i = self.producer.get(name)
            if i is not None and i not in found and name not in inputs:
                found.add(i)
                todo.extend(reads(self.model.graph.node[i]))
        return self.session(self._piece(sorted(found), inputs, outputs))

    def _first(self, names: Iterable[str]) -> dict[str, Array]:
        return {name: self.get(name, 0) for name in names}

    def _live(self, name: str) -> bool:
        return self.wanted[name] > 0 or bool(self.readers.get(name, set()) - self.done)

    def holds(self, name: str) -> bool:
        """True where a tensor has been advanced to."""
        return self.tag + name in self.store

    def _drop_if_idle(self, name: str) -> None:
        if not self._live(name):
            self.store.drop(self.tag + name)

    def _before(self, wanted: Iterable[str]) -> set[int]:
        """The nodes between what is stored and what is wanted, Constant nodes included."""
        found: set[int] = set()
        todo = list(wanted)
        while todo:
            name = todo.pop()
            i = self.producer.get(name)
            if i is None or i in found or self.tag + name in self.store:
                continue
            found.add(i)
            todo.extend(reads(self.model.graph.node[i]))
        return found

    def _piece(
        self, nodes: Sequence[int], inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> ModelProto:
        graph = GraphProto(name="piece")
        for name, value in inputs.items():
            graph.input.append(_value(name, value))
        used: set[str] = set()
        for i in nodes:
            node = self.model.graph.node[i]
            graph.node.append(node)
            used |= reads(node)
        taken = set(inputs)
        for name in sorted(used - taken):
            if name in self.initializers:
                graph.initializer.append(self.initializers[name])
        for name in outputs:
            graph.output.append(onnx.ValueInfoProto(name=name))
        piece = ModelProto(ir_version=max(self.model.ir_version, 4), graph=graph)
        piece.opset_import.extend(self.model.opset_import)
        piece.functions.extend(self.model.functions)
        return piece


def _key(node: NodeProto) -> str:
    return next((name for name in node.output if name), "")


def _value(name: str, value: Array) -> onnx.ValueInfoProto:
    if not isinstance(value, np.ndarray):
        raise UnsupportedModel(f"{name!r} is no tensor; the model can't be run piece by piece")
    code = helper.np_dtype_to_tensor_dtype(value.dtype)
    if code == TensorProto.UNDEFINED:
        raise UnsupportedModel(f"{name!r} has a type that can't be fed")
    return helper.make_tensor_value_info(name, code, [None] * value.ndim)
