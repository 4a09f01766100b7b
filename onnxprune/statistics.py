"""What tensors inside a model are like on calibration data, measured in onnxruntime.

The reductions are nodes of the graph that runs: what leaves it for each batch is one number for
each index of an axis, or one matrix for each pair, never an activation. The sums over batches are
kept in float64.

Only tensors of the main graph can be measured: what is inside the body of an If, Loop or Scan has
no name outside.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .calibration import Calibration
from .errors import UsageError
from .inputs import input_specs
from .model import attributes
from .network import Network, Quantised
from .runtime import cores, run, session

#: What is measured of each index of an axis (see `Request`).
KINDS = ("sum", "square", "absolute", "positive", "gram")
#: Bytes that the largest tensor which a measurement makes may have, for one batch.
_LARGEST = 1 << 28
#: Of each unfolded image, at least this many places are looked at, where there are as many.
_PLACES = 64


@dataclass(frozen=True)
class Request:
    """What is wanted of axis `axis` (of size n) of a tensor, over all of its other axes.

    - `sum`, `square`, `absolute`: sums of x, of its square, of its magnitude, `[n]`;
    - `positive`: how many values are above zero, `[n]`;
    - `gram`: X·Xᵀ, with X `[n, everything else]`: `[n, n]`.

    With `unfold`, the first output of a Conv that reads the tensor, n is not the input channels but
    all that the kernel sees of them (padding too), in the order `[channels, *kernel]` of the
    weight: the product of the convolution's weight as a matrix and this is the convolution. Of
    large images every second, third, … place is looked at (see `_step`): the places of one image
    are much alike, and all of them cost more than they tell.
    """

    tensor: str
    axis: int
    kind: str
    unfold: str = ""


@dataclass(frozen=True)
class Statistic:
    """A sum over all calibration samples: `[n]`, or `[n, n]` of a Gram matrix, float64."""

    value: NDArray[np.float64]
    #: How many values each index has been summed over.
    count: int

    @property
    def mean(self) -> NDArray[np.float64]:
        """The sum, divided by the number of values."""
        return self.value / max(self.count, 1)


Statistics = Mapping[Request, Statistic]


def measurable(network: Network) -> set[str]:
    """The tensors of the main graph that are not constants and whose rank is known."""
    proto = network.model.proto
    names = {name for node in proto.graph.node for name in node.output}
    names.update(value.name for value in network.model.inputs)
    constants = network.model.constants
    return {name for name in names if name not in constants and network.axes.get(name) is not None}


def collect(
    network: Network,
    requests: Iterable[Request],
    calibration: Calibration,
    *,
    batch: int = 32,
) -> dict[Request, Statistic]:
    """Everything requested, in one pass over the calibration data.

    Batches are smaller than `batch` where the sizes that are declared say that a tensor in between
    would be very large.

    Raises UsageError where there is no sample, UnsupportedModel where the model does not run.
    """
    wanted = list(dict.fromkeys(requests))
    if not wanted:
        return {}
    probes = _Probes(network)
    for request in wanted:
        probes.add(request)
    model = network.model
    sums: dict[str, NDArray[np.float64]] = {}
    with _extended(model.proto, probes.nodes, probes.outputs):
        live = session(model.proto, optimize=True, threads=cores(), base_dir=model.base_dir)
    for feeds in calibration.batches(_batch(network, wanted, batch)):
        found = run(live, feeds)
        for name in probes.outputs:
            value = np.asarray(found[name], dtype=np.float64)
            if name in sums:
                sums[name] += value
            else:
                sums[name] = value
    if not sums:
        raise UsageError(f"data: there is no sample in {calibration.source}")
    result = {}
    for request in wanted:
        value = sums[probes.values[request]]
        elements = float(sums[probes.counts[request.tensor, request.unfold]])
        result[request] = Statistic(value, round(elements / max(value.shape[-1], 1)))
    return result


@contextmanager
def _extended(
    proto: ModelProto, nodes: Sequence[NodeProto], outputs: Sequence[str]
) -> Iterator[None]:
    """The model with more nodes and outputs, for a while: a copy would hold all weights twice."""
    before = len(proto.graph.node), len(proto.graph.output)
    try:
        proto.graph.node.extend(nodes)
        for name in outputs:
            proto.graph.output.add().name = name
        yield
    finally:
        del proto.graph.node[before[0] :]
        del proto.graph.output[before[1] :]


def _batch(network: Network, requests: Sequence[Request], batch: int) -> int:
    """The size of batches for which no tensor that is measured is above the bound."""
    sizes = {value.name: value for value in input_specs(network.model.proto)}
    fixed = all(isinstance(spec.dims[0], int) for spec in sizes.values() if spec.dims)
    most = 1
    for request in requests:
        shape = network.shapes.get(request.tensor) or ()
        known = [size for size in (shape if fixed else shape[1:]) if isinstance(size, int)]
        most = max(most, 4 * math.prod(known) * _kernel_size(network, request))
    return max(1, min(batch, _LARGEST // most))


def _step(network: Network, request: Request) -> int:
    """Every how many places along each spatial axis an unfolded image is looked at.

    So many that about `_PLACES` are left. Padding that depends on the stride rules it out.
    """
    conv = network.model.producers[request.unfold]
    pads = attributes(conv).get("auto_pad", b"NOTSET")
    places = (network.shapes.get(request.unfold) or ())[2:]
    sizes = [size for size in places if isinstance(size, int)]
    if not sizes or len(sizes) < len(places) or pads not in (b"NOTSET", b"VALID"):
        return 1
    step: int = math.floor((math.prod(sizes) / _PLACES) ** (1 / len(sizes)) + 1e-9)
    return max(1, min(step, *sizes))


def _kernel_size(network: Network, request: Request) -> int:
    if not request.unfold:
        return 1
    return math.prod(_kernel(network, network.model.producers[request.unfold]))


def _kernel(network: Network, conv: NodeProto) -> list[int]:
    """The sizes of a convolution's kernel, which the attribute may leave to the weight."""
    axes = network.axes.get(conv.input[1]) or ()
    return [axis.size or 1 for axis in axes[2:]]


class _Probes:
    """The nodes that measure, and the names of their results."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.opset = network.model.opset
        self.quantised = network.quantised()
        self.nodes: list[NodeProto] = []
        self.outputs: list[str] = []
        self.values: dict[Request, str] = {}
        self.counts: dict[tuple[str, str], str] = {}
        self._made: dict[tuple[str, ...], str] = {}
        self._names = (f"onnxprune_probe_{i}" for i in itertools.count())

    def add(self, request: Request) -> None:
        """Measure one more thing. What is needed for several of them is computed once."""
        tensor, rank = self._source(request)
        axis = 1 if request.unfold else request.axis % max(rank, 1)
        key = (request.tensor, request.unfold)
        if key not in self.counts:
            self.counts[key] = self._output(self._node("Size", [tensor]))
        if rank < 2:  # [n] as [1, n]
            tensor, rank, axis = self._once("Flatten", [tensor], axis=0), 2, 1
        if request.kind == "gram":
            self.values[request] = self._output(self._gram(tensor, rank, axis))
            return
        if request.kind == "square":
            tensor = self._once("Mul", [tensor, tensor])
        elif request.kind == "absolute":
            tensor = self._once("Abs", [tensor])
        elif request.kind == "positive":
            zero = self._constant("zero", np.zeros((), np.float32))
            above = self._once("Greater", [tensor, zero])
            tensor = self._once("Cast", [above], to=TensorProto.FLOAT)
        elif request.kind != "sum":
            raise ValueError(f"unknown statistic {request.kind!r}")
        others = [i for i in range(rank) if i != axis]
        self.values[request] = self._output(self._sum(tensor, others))

    def _source(self, request: Request) -> tuple[str, int]:
        """The tensor as float32, dequantised, unfolded; and its rank."""
        name, rank = request.tensor, len(self.network.axes.get(request.tensor) or ())
        if name in self.quantised:
            name = self._dequantised(name, self.quantised[name])
        name = self._once("Cast", [name], to=TensorProto.FLOAT)
        if not request.unfold:
            return name, rank
        conv = self.network.model.producers[request.unfold]
        return self._unfolded(name, rank, conv, request), rank

    def _dequantised(self, name: str, codes: Quantised) -> str:
        if not codes.scale or self.opset < 10:
            return name
        operands = [name, codes.scale, *([codes.point] if codes.point else [])]
        axis = {"axis": codes.axis} if self.opset >= 13 else {}
        return self._once("DequantizeLinear", operands, **axis)

    def _unfolded(self, name: str, rank: int, conv: NodeProto, request: Request) -> str:
        """What the kernel sees, `[n, channels * kernel, *places]`.

        A depthwise convolution, like `conv` in all else, with kernels that are one at one position
        and zero at all others: so strides, dilations, pads and `auto_pad` are those of `conv`.
        """
        kernel = _kernel(self.network, conv)
        axes = self.network.axes.get(request.tensor) or []
        channels = axes[1].size or 0
        places = math.prod(kernel)
        eye = np.eye(places, dtype=np.float32).reshape(places, 1, *kernel)
        weight = self._constant(
            f"unfold {channels} {kernel}", np.tile(eye, (channels, 1) + (1,) * len(kernel))
        )
        same = {
            a.name: helper.get_attribute_value(a)
            for a in conv.attribute
            if a.name in ("strides", "dilations", "pads", "auto_pad")
        }
        step = _step(self.network, request)
        if step > 1:
            same["strides"] = [step * each for each in same.get("strides", [1] * len(kernel))]
        return self._once("Conv", [name, weight], group=channels, kernel_shape=kernel, **same)

    def _gram(self, tensor: str, rank: int, axis: int) -> str:
        order = [axis, *(i for i in range(rank) if i != axis)]
        front = self._once("Transpose", [tensor], perm=order)
        matrix = self._once("Flatten", [front], axis=1)
        other = self._once("Transpose", [matrix], perm=[1, 0])
        return self._node("MatMul", [matrix, other])

    def _sum(self, tensor: str, axes: list[int]) -> str:
        if self.opset < 13:
            return self._node("ReduceSum", [tensor], axes=axes, keepdims=0)
        given = self._constant(f"axes {axes}", np.array(axes, dtype=np.int64))
        return self._node("ReduceSum", [tensor, given], keepdims=0)

    def _node(self, kind: str, operands: list[str], **given: Any) -> str:
        name = next(self._names)
        self.nodes.append(helper.make_node(kind, operands, [name], name=name, **given))
        return name

    def _once(self, kind: str, operands: list[str], **given: Any) -> str:
        key = (kind, *operands, str(sorted(given.items())))
        if key not in self._made:
            self._made[key] = self._node(kind, operands, **given)
        return self._made[key]

    def _constant(self, what: str, value: NDArray[np.generic]) -> str:
        # A Constant node and no initializer: those have to be inputs in old files.
        if ("Constant", what) not in self._made:
            tensor = numpy_helper.from_array(value)
            self._made["Constant", what] = self._node("Constant", [], value=tensor)
        return self._made["Constant", what]

    def _output(self, name: str) -> str:
        self.outputs.append(name)
        return name


def needed_bytes(network: Network, request: Request) -> int:
    """The memory (bytes) that one statistic takes while it is summed up."""
    axes = network.axes.get(request.tensor) or ()
    size = (axes[request.axis].size or 0) * _kernel_size(network, request) if axes else 1
    return 12 * (size**2 if request.kind == "gram" else size)  # float64, and float32 of a batch
