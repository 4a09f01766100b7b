"""A loaded ONNX model as a torch module: its weights are parameters, and are written back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor
from torch.nn import Module, Parameter

from ..errors import UsageError
from ..loading import ModelLike, load
from ..model import SMALL, Array, Model, constant_tensor, graphs, replace_value
from .constants import nodes_of, roles
from .expansion import expanded
from .graph import Context, Graph
from .types import to_numpy, to_torch

#: What is computed from constants alone is computed once, up to so many elements.
_FOLDED = 2**20


def key_of(name: str) -> str:
    """The name that a constant has as a parameter: torch allows no dots, and no method's name."""
    key = name.replace("%", "%25").replace(".", "%2E")
    return f"%{ord(key[0]):02X}{key[1:]}" if hasattr(Module, key) or key in _TAKEN else key


def name_of(key: str) -> str:
    """The constant that a key of `state_dict` (with or without `weights.`) is of."""
    return unquote(key.removeprefix("weights.").removeprefix("statistics."))


_TAKEN = frozenset(vars(Module()))


class Differentiable(Module):
    """A model's function, with its weights as parameters.

        function = Differentiable(load("resnet.onnx"), device="cuda")
        optimizer = torch.optim.AdamW(function.parameters(), lr=1e-4)
        loss = cross_entropy(function({"image": images})["logits"], labels)
        loss.backward(); optimizer.step()
        onnx.save(function.write(), "trained.onnx")

    *Parameters* are the float constants that an output has a gradient of: initializers and Constant
    nodes alike, quantised weights included (held as the numbers that their codes stand for, and
    rounded on the way in, straight-through). Single numbers of rank 0 (an epsilon, a divisor) are
    not, unless `numbers` is set; nor are tables with infinities (masks), and operands that say how
    and not what (bounds, scales of a Resize). *Running statistics* of BatchNormalization are
    buffers, and it always computes with them: its function is the file's, in training as well, and
    `train()` and `eval()` change nothing. Nor does Dropout, or anything else.

    Floats of at most 32 bits are computed in `dtype`, and written back in the types of the file.
    What shapes are computed from stays on the CPU. It is an ordinary module to DDP, FSDP (as one
    unit), `torch.autocast`, `functional_call` and `state_dict`, whose keys are `weights.` and the
    constant's name with `%` and `.` written as in a URL (see `name_of`).

    Args:
        model: a `Model`, or what `load` takes.
        device: where weights and data are computed.
        dtype: of parameters and of computing.
        checkpoint: in how many segments the graph is cut of which only the ends are kept for the
            backward pass; what is between is computed again. 0: everything is kept.
        numbers: whether floats of rank 0 are parameters too.

    Raises:
        UnsupportedModel: a node that gradients should flow through has no torch call.
    """

    def __init__(
        self,
        model: Model | ModelLike,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        checkpoint: int = 0,
        numbers: bool = False,
    ) -> None:
        super().__init__()
        self.model = model if isinstance(model, Model) else load(model)
        self.dtype = dtype
        self.checkpoint = checkpoint
        #: Feeds of the function: the model's inputs that are no constants.
        self.inputs = [value.name for value in self.model.inputs]
        self.outputs = [value.name for value in self.model.proto.graph.output]
        versions = {each.domain: each.version for each in self.model.proto.opset_import}
        versions[""] = versions["ai.onnx"] = self.model.opset
        computed = expanded(self.model, versions)
        nodes = nodes_of(computed.proto.graph)
        found = roles(computed, nodes, versions, numbers)
        self.codes = found.codes
        types = {
            value.name: value.type.tensor_type.elem_type for value in computed.proto.graph.input
        }
        types.update((name, tensor.data_type) for name, tensor in computed.constants.items())
        context = Context(computed, versions, dtype, found, types)
        self.graph = Graph(nodes, self.inputs, context)
        for name in self.outputs:  # one may be a constant that no node reads
            self.graph.slot(name)
        #: Parameters, and running statistics, by key (see `key_of`).
        self.weights, self.statistics = Module(), Module()
        self._tables = Module()
        self._trained = {name: key_of(name) for name in found.parameters}
        self._running = {name: key_of(name) for name in found.statistics}
        for name, key in self._trained.items():
            self.weights.register_parameter(key, Parameter(self._value(computed, name)))
        for name, key in self._running.items():
            self.statistics.register_buffer(key, self._value(computed, name))
        self._settle(computed)
        self.to(device)

    def _value(self, model: Model, name: str) -> Tensor:
        array = model.read(name)
        codes = self.codes.get(name)
        value: Tensor = to_torch(array if codes is None else codes.values(array), self.dtype)
        return value

    def _settle(self, model: Model) -> None:
        """Read the other constants: small ones stay on the CPU, where shapes are computed."""
        slots, given = self.graph.slots, {**self._trained, **self._running}
        values = {
            slots[name]: to_torch(model.read(name), self.dtype)
            for name in model.constants
            if name in slots and name not in given
        }
        self.graph.fold(values, _FOLDED)
        self._fixed: dict[int, Any] = {}
        self._moving: dict[int, str] = {}
        for slot, value in values.items():
            if isinstance(value, Tensor) and value.numel() > SMALL:
                self._moving[slot] = f"slot{slot}"
                self._tables.register_buffer(f"slot{slot}", value, persistent=False)
            else:
                self._fixed[slot] = value

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        first = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if first is None else first.device

    def forward(
        self, feeds: Mapping[str, Tensor | Array], wanted: Iterable[str] = ()
    ) -> dict[str, Tensor]:
        """The outputs by name, in the model's order, then the intermediate tensors in `wanted`.

        A feed may be a tensor or an array, on any device; floats are cast to `dtype`. An output
        that is a sequence is a list of tensors. Nodes that nothing asked for depends on do not run.

        Raises:
            UsageError: a feed is missing, or `wanted` names no tensor of the main graph.
            UnsupportedModel: a node fails on these feeds; the message names it.
        """
        graph, device = self.graph, self.device
        graph.context.device = device
        given: dict[int, Any] = {}
        for name in self.inputs:
            if name not in feeds:
                raise UsageError(f"input {name!r} is not given; the model has {self.inputs}")
            given[graph.slots[name]] = _fed(feeds[name], self.dtype, device)
        names = [*self.outputs, *(name for name in wanted if name not in self.outputs)]
        for name in names:
            if name not in graph.slots:
                raise UsageError(f"{name!r} is no tensor of the main graph")
        slots = graph.slots
        constants = dict(self._fixed)
        for name, key in self._trained.items():
            if name in slots:
                constants[slots[name]] = getattr(self.weights, key)
        for name, key in self._running.items():
            if name in slots:
                constants[slots[name]] = getattr(self.statistics, key)
        for slot, key in self._moving.items():
            constants[slot] = getattr(self._tables, key)
        wanted_slots = tuple(slots[name] for name in names)
        values = graph.run(constants, given, wanted_slots, self.checkpoint)
        return dict(zip(names, values, strict=True))

    def parameter(self, name: str) -> Parameter:
        """The parameter of an initializer or Constant node. Raises KeyError where it is none."""
        found: Parameter = getattr(self.weights, self._trained[name])
        return found

    def named_weights(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters by the names of the constants in the file, in the order of the graph."""
        for name in self._trained:
            yield name, self.parameter(name)

    def read(self, model: Model | ModelLike) -> None:
        """Take the values of all parameters and statistics from another file of the same graph.

        Raises:
            UsageError: a constant is missing there, or has another shape.
        """
        other = model if isinstance(model, Model) else load(model)
        kept = ((self.weights, self._trained), (self.statistics, self._running))
        with torch.no_grad():
            for holder, names in kept:
                for name, key in names.items():
                    held = getattr(holder, key)
                    if name not in other.constants:
                        raise UsageError(f"there is no constant {name!r} in the other model")
                    value = self._value(other, name)
                    if value.shape != held.shape:
                        raise UsageError(
                            f"constant {name!r} has the shape {list(value.shape)} in the other"
                            f" model, and {list(held.shape)} here"
                        )
                    held.copy_(value)

    def write(self, proto: ModelProto | None = None) -> ModelProto:
        """The model with the parameters' values, in the element types that it had.

        Args:
            proto: a model to write into, in place; a copy of the function's own by default.
        """
        if proto is None:
            proto = ModelProto()
            proto.CopyFrom(self.model.proto)
        kept = self._trained
        for graph in graphs(proto.graph):
            for tensor in graph.initializer:
                if tensor.name in kept:
                    self._replace(tensor, tensor.name)
            for node in graph.node:
                if node.op_type == "Constant" and node.output[0] in kept:
                    name = node.output[0]
                    tensor = TensorProto()
                    tensor.CopyFrom(constant_tensor(node))
                    self._replace(tensor, name)
                    del node.attribute[:]
                    node.attribute.append(helper.make_attribute("value", tensor))
        return proto

    def _replace(self, tensor: TensorProto, name: str) -> None:
        value = to_numpy(self.parameter(name))
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        codes = self.codes.get(name)
        if codes is not None:
            found = codes.codes(value, dtype)
        else:
            limit = _largest(dtype)
            found = np.clip(value, -limit, limit).astype(dtype)
        replace_value(tensor, found)


def _largest(dtype: np.dtype[Any]) -> float:
    """The largest finite number of a float type, ml_dtypes' included."""
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).max)


def _fed(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A feed where it is computed with. Integers of rank 0 stay on the CPU: they may be sizes."""
    if isinstance(value, list):
        return [_fed(each, dtype, device) for each in value]
    made = to_torch(value, dtype)
    if isinstance(made, Tensor) and (made.dim() or made.is_floating_point()):
        return made.to(device)
    return made
