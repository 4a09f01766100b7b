"""Where two models can be compared: at their outputs, or ahead of what makes small errors large.

Two models that compute the same in another order differ by rounding. Some operators turn that into
a difference of any size, and nothing can be read off behind them:

1. Random numbers differ from run to run.
2. Discontinuous operators (TopK, ArgMax, Round, ...) flip on a tie.
3. A last Sigmoid or Softmax that saturates has outputs near zero, whose relative error is large.
4. QuantizeLinear rounds activations to steps, which later layers amplify.

A `View` reads tensors ahead of the first three, and passes quantised activations on unrounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto

from .network import Network

_RANDOM = frozenset(
    {
        *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"),
        *("Multinomial", "Bernoulli"),
    }
)
_DISCONTINUOUS = frozenset(
    {
        *("TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "Unique", "Hardmax"),
        *("Round", "Floor", "Ceil", "Sign", "OneHot"),
    }
)
_SATURATING = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
#: Operators that only hand on what comes after the last layer.
_HANDING_ON = frozenset(
    {
        *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Slice"),
        *("Cast", "Clip", "Mul", "Add", "Sub", "Div"),
    }
)


@dataclass(frozen=True)
class View:
    """Which tensors of a model are read."""

    names: list[str]
    outputs: list[str]
    unrounded: bool = False
    notes: list[str] = field(default_factory=list)

    def of(self, proto: ModelProto) -> ModelProto:
        """`proto`, or a copy whose outputs are the tensors of this view."""
        if self.names == self.outputs and not self.unrounded:
            return proto
        view = ModelProto()
        view.CopyFrom(proto)
        if self.names != self.outputs:
            known = {value.name: value for value in proto.graph.output}
            del view.graph.output[:]
            for name in self.names:
                if name in known:
                    view.graph.output.append(known[name])
                else:
                    view.graph.output.add().name = name
        if self.unrounded:
            _unround(view)
        return view


def views(network: Network) -> Iterator[View]:
    """Ways to compare `network`'s model, from the strictest on; the first that agrees counts."""
    proto = network.model.proto
    outputs = [value.name for value in proto.graph.output]
    random = _ahead_of(network, _RANDOM, outputs)
    if random == outputs:
        yield View(outputs, outputs)
    else:
        yield View(random, outputs, notes=["compared ahead of random numbers"])
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        yield View(
            random, outputs, True, ["compared with activations unrounded; weights stay quantised"]
        )
    last = _ahead_of(network, _RANDOM | _DISCONTINUOUS, outputs)
    if last != random:
        yield View(last, outputs, notes=["compared ahead of the first discontinuous operator"])
    logits = _ahead_of_saturation(network, last)
    if logits != last:
        yield View(logits, outputs, notes=["compared ahead of the last Sigmoid or Softmax"])


def _ahead_of(network: Network, kinds: frozenset[str], outputs: list[str]) -> list[str]:
    """The outputs that do not depend on `kinds`, and what the first of those operators read."""
    fed = {value.name for value in network.model.inputs}
    given = set(fed)
    tainted: set[str] = set()
    sources: list[str] = []
    for node in network.model.proto.graph.node:
        reads = [name for name in node.input if name]
        if any(name in tainted for name in reads):
            tainted.update(node.output)
        elif node.op_type in kinds and (node.op_type in _RANDOM or any(n in fed for n in reads)):
            sources += [name for name in reads[:1] if name in fed and name not in given]
            tainted.update(node.output)
        elif node.op_type not in ("Shape", "Size") and any(name in fed for name in reads):
            fed.update(node.output)
    if not any(name in tainted for name in outputs):
        return outputs
    clean = [name for name in outputs if name not in tainted]
    return list(dict.fromkeys([*clean, *sources])) or outputs


def _ahead_of_saturation(network: Network, names: list[str]) -> list[str]:
    """Each name, or what the Sigmoid or Softmax that it was made by has read."""
    producers: dict[str, NodeProto] = {
        name: node for node in network.model.proto.graph.node for name in node.output
    }
    found: dict[str, None] = {}
    for output in names:
        todo, seen, logits = [output], set(), []
        while todo:
            node = producers.get(todo.pop())
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            if node.op_type in _SATURATING:
                logits.append(node.input[0])
            elif node.op_type in _HANDING_ON:
                todo.extend(node.input)
        found.update(dict.fromkeys(logits or [output]))
    return list(found)


def _unround(proto: ModelProto) -> None:
    """Let readers of a dequantised activation read what was quantised."""
    quantised = {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear"
    }
    real = {
        node.output[0]: quantised[node.input[0]]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantised
    }
    outputs = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            while name in real and name not in outputs:
                name = real[name]
            node.input[i] = name
