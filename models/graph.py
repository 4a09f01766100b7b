"""Write ONNX graphs by hand, in the manner of a PyTorch module.

`Graph` appends nodes and initializers and hands back tensor names, so that a model reads like the
`forward` of the module it mimics. Names follow the TorchScript exporter: inside
`g.scope("layer1.0")` the convolution `conv1` has the weight `layer1.0.conv1.weight` and the node
`/layer1/0/conv1/Conv`; shape operands are Constant nodes, parameters are initializers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# onnx's own defaults run ahead of onnxruntime; these run on every release of the last years.
IR_VERSION = 10
OPSET = 17

Size = int | str  # a number, or the name of a 1-d int64 tensor that holds it
RELU_GAIN = 2**0.5  # He et al. 2015: keeps the variance through a convolution and its Relu


class Graph:
    """A graph in the making; every method returns the name of the tensor that it adds."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._path: list[str] = []
        self._names: Counter[str] = Counter()

    # -- interface ---------------------------------------------------------------------------

    def input(self, name: str, *shape: Size, dtype: int = TensorProto.FLOAT) -> str:
        """Declare a graph input; a string in `shape` is a dynamic dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, x: str, name: str, *shape: Size) -> None:
        """Declare `x` a float graph output, renamed `name` wherever it stands."""
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [name if n == x else n for n in names]
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, self._initializers
        )
        return helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="onnxprune.models",
        )

    @contextmanager
    def scope(self, path: str) -> Iterator[None]:
        """Put a module path, such as `layer1.0`, before every name given inside."""
        self._path.append(path)
        try:
            yield
        finally:
            self._path.pop()

    # -- nodes and tensors -------------------------------------------------------------------

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output."""
        return self.nodes(op, *inputs, outputs=1, **attributes)[0]

    def nodes(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Append one node of several outputs."""
        name = self._unique("/" + ".".join([*self._path, op]).replace(".", "/"))
        results = [f"{name}_output_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, results, name=name, **attributes))
        return results

    def split(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Cut `x` along `axis` into runs of these sizes."""
        return self.nodes("Split", x, self.ints(*sizes), outputs=len(sizes), axis=axis)

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}_{self._names[name] - 1}"

    def parameter(self, name: str, value: np.ndarray) -> str:
        """An initializer; floats are stored as float32."""
        if np.issubdtype(value.dtype, np.floating):
            value = value.astype(np.float32)
        full = self._unique(".".join([*self._path, name]))
        self._initializers.append(numpy_helper.from_array(value, full))
        return full

    def random(self, name: str, *shape: int, scale: float = 1.0) -> str:
        """A normally distributed parameter of this standard deviation."""
        return self.parameter(name, self.rng.normal(0.0, scale, shape))

    def constant(self, value: np.ndarray) -> str:
        """A Constant node, as exporters write operands that are not parameters."""
        return self.node("Constant", value=numpy_helper.from_array(value))

    def ints(self, *values: int) -> str:
        """A constant 1-d int64 tensor: axes, sizes, bounds."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A constant float32 scalar; an int gives an int64 one."""
        dtype = np.int64 if isinstance(value, int) else np.float32
        return self.constant(np.array(value, dtype))

    # -- shapes ------------------------------------------------------------------------------

    def size(self, x: str, axis: int) -> str:
        """The size of one axis at run time, 1-d: Shape, Gather, Unsqueeze."""
        gathered = self.node("Gather", self.node("Shape", x), self.scalar(axis), axis=0)
        return self.node("Unsqueeze", gathered, self.ints(0))

    def shape(self, *sizes: Size) -> str:
        """A shape operand: one constant, or a Concat where some sizes are known at run time."""
        numbers = [s for s in sizes if isinstance(s, int)]
        if len(numbers) == len(sizes):
            return self.ints(*numbers)
        parts = [self.ints(s) if isinstance(s, int) else s for s in sizes]
        return self.node("Concat", *parts, axis=0)

    def reshape(self, x: str, *sizes: Size) -> str:
        return self.node("Reshape", x, self.shape(*sizes))

    def transpose(self, x: str, *perm: int) -> str:
        return self.node("Transpose", x, perm=perm)

    def slice(self, x: str, axis: int, start: int, end: Size, step: int = 1) -> str:
        bounds = self.ints(start), self.shape(end), self.ints(axis), self.ints(step)
        return self.node("Slice", x, *bounds)

    # -- layers, named as torch.nn names their parameters ------------------------------------

    def conv(
        self,
        name: str,
        x: str,
        inputs: int,
        outputs: int,
        k: int = 1,
        *,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        bias: bool = False,
        gain: float = RELU_GAIN,
    ) -> str:
        """A k x k convolution of [n, inputs, h, w]; `pad` defaults to k // 2."""
        pad = k // 2 if pad is None else pad
        fan_in = inputs // groups * k * k
        with self.scope(name):
            shape = outputs, inputs // groups, k, k
            operands = [self.random("weight", *shape, scale=gain / fan_in**0.5)]
            if bias:
                operands.append(self.random("bias", outputs, scale=0.1))
            return self.node(
                "Conv",
                x,
                *operands,
                kernel_shape=[k, k],
                strides=[stride] * 2,
                pads=[pad] * 4,
                dilations=[1, 1],
                group=groups,
            )

    def conv_transpose(
        self, name: str, x: str, inputs: int, outputs: int, k: int = 2, gain: float = RELU_GAIN
    ) -> str:
        """Upsample [n, inputs, h, w] by k; windows do not overlap, so each pixel has one tap."""
        with self.scope(name):
            weight = self.random("weight", inputs, outputs, k, k, scale=gain / inputs**0.5)
            bias = self.random("bias", outputs, scale=0.1)
            return self.node(
                "ConvTranspose",
                x,
                weight,
                bias,
                kernel_shape=[k, k],
                strides=[k, k],
                pads=[0] * 4,
                dilations=[1, 1],
                group=1,
            )

    def batch_norm(self, name: str, x: str, channels: int) -> str:
        """Inference-time BatchNormalization with the spread of statistics that training leaves."""
        with self.scope(name):
            return self.node(
                "BatchNormalization",
                x,
                self.parameter("weight", self.rng.uniform(0.5, 1.5, channels)),
                self.random("bias", channels, scale=0.1),
                self.random("running_mean", channels, scale=0.1),
                self.parameter("running_var", self.rng.uniform(0.5, 1.5, channels)),
                epsilon=1e-5,
            )

    def layer_norm(self, name: str, x: str, channels: int) -> str:
        with self.scope(name):
            weight = self.parameter("weight", self.rng.uniform(0.5, 1.5, channels))
            bias = self.random("bias", channels, scale=0.1)
            return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=1e-5)

    def linear(self, name: str, x: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        """A dense layer on [n, inputs]: Gemm, weight [outputs, inputs]."""
        with self.scope(name):
            weight = self.random("weight", outputs, inputs, scale=gain / inputs**0.5)
            bias = self.random("bias", outputs, scale=0.1)
            return self.node("Gemm", x, weight, bias, alpha=1.0, beta=1.0, transB=1)

    def matmul(self, name: str, x: str, inputs: int, outputs: int, bias: bool = True) -> str:
        """A dense layer on [..., inputs]: MatMul and Add, weight [inputs, outputs]."""
        with self.scope(name):
            weight = self.random("weight", inputs, outputs, scale=inputs**-0.5)
            y = self.node("MatMul", x, weight)
            if bias:
                y = self.node("Add", self.random("bias", outputs, scale=0.1), y)
            return y

    # -- compositions that several families share --------------------------------------------

    def conv_bn(
        self,
        name: str,
        x: str,
        inputs: int,
        outputs: int,
        k: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        gain: float = RELU_GAIN,
    ) -> str:
        """Convolution and BatchNormalization, `name.0` and `name.1` as nn.Sequential has them."""
        with self.scope(name):
            x = self.conv("0", x, inputs, outputs, k, stride=stride, groups=groups, gain=gain)
            return self.batch_norm("1", x, outputs)

    def gelu(self, x: str) -> str:
        """x * (1 + erf(x / sqrt 2)) / 2: no operator of its own before opset 20."""
        erf = self.node("Erf", self.node("Div", x, self.scalar(2**0.5)))
        twice = self.node("Mul", x, self.node("Add", erf, self.scalar(1.0)))
        return self.node("Mul", twice, self.scalar(0.5))

    def mlp(self, name: str, x: str, width: int, inner: int) -> str:
        """A transformer's feed-forward part: two dense layers around a GELU."""
        with self.scope(name):
            x = self.gelu(self.matmul("fc1", x, width, inner))
            return self.matmul("fc2", x, inner, width)

    def pool_head(self, name: str, x: str, inputs: int, classes: int) -> str:
        """Global average pool, Flatten and a dense layer: [n, c, h, w] -> [n, classes]."""
        x = self.node("Flatten", self.node("GlobalAveragePool", x), axis=1)
        return self.linear(name, x, inputs, classes)
